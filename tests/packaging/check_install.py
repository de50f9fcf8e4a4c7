"""Installs the wheel and the sdist, each into an empty environment, and tries what came of it.

Usage: check_install.py DIRECTORY, which holds one of each.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# What a user's environment has must not reach in; what pip is told there must.
ENVIRON = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}

REQUIRED = {"attrs", "backoff", "requests", "sseclient-py", "urllib3", "websocket-client"}

INSTALLED = f"""
import importlib.metadata as metadata, importlib.resources as resources, pathlib, re, sys
import reasoning_sdk
home = pathlib.Path(reasoning_sdk.__file__).parent
assert home.is_relative_to(sys.prefix), home
assert (home / "py.typed").is_file()
assert reasoning_sdk.__version__ == metadata.version("reasoning_sdk")
requires = [line for line in metadata.requires("reasoning_sdk") if "extra ==" not in line]
assert {{re.match("[a-z0-9-]+", line)[0] for line in requires}} == {REQUIRED!r}, requires
paths = [path for path in home.rglob("*.*") if path.suffix != ".pyc"]
print(*sorted(path.relative_to(home).as_posix() for path in paths), sep="\\n")
top = {{path.parts[0] for path in metadata.files("reasoning_sdk")}}
assert all(re.match(r"reasoning_sdk\\b|\\.\\.$", name) for name in top), top
"""


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run to its end, output captured."""
    return subprocess.run(
        command,
        cwd=cwd,
        env=ENVIRON,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def succeed(*command: str | Path, cwd: Path) -> str:
    """Run, or end this script with what the command had to say."""
    done = run(*command, cwd=cwd)
    if done.returncode:
        sys.exit(f"failed: {' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def check(distribution: Path) -> str:
    """Install and try; return the list of the installed files."""
    with tempfile.TemporaryDirectory() as directory:
        empty = Path(directory) / "empty"  # the working directory: no source to import by accident
        empty.mkdir()
        environment = Path(directory) / "environment"
        python = environment / "bin" / "python"
        commands = ([python, "-m", "reasoning_sdk"], [environment / "bin" / "reasoning-sdk"])

        def install(what: str) -> None:
            succeed(
                sys.executable, "-m", "pip", "--python", python, "install", "-qq", what, cwd=empty
            )

        succeed(sys.executable, "-m", "venv", "--without-pip", environment, cwd=empty)
        install(str(distribution))
        files = succeed(python, "-W", "error", "-c", INSTALLED, cwd=empty)

        # Without the extra, the command says what is missing.
        for command in commands:
            done = run(*command, "version", cwd=empty)
            said = done.stdout + done.stderr
            clear = re.search(r"reasoning[-_]sdk\[cli\]", said) and "Traceback" not in said
            if not (done.returncode and clear):
                sys.exit(
                    f"without cli, {command[-1]} exited with {done.returncode}, saying:\n{said}"
                )

        # With it, the command works.
        install(f"{distribution}[cli]")
        for command in commands:
            version = succeed(*command, "version", cwd=empty)
            if not re.search(r"\b\d+\.\d+\.\d+", version):
                sys.exit(f"no version in: {version!r}")
        succeed(python, "-m", "reasoning_sdk", "demo", cwd=empty)
    return files


def main(directory: Path) -> None:
    """Check one wheel and one sdist, which must install the same files."""
    contents = {}
    for pattern in ("*.whl", "*.tar.gz"):
        (distribution,) = directory.resolve().glob(pattern)
        contents[distribution.name] = check(distribution)
        print(f"{distribution.name}: installs into an empty environment and works")
    if len(set(contents.values())) != 1:
        sys.exit(f"they do not install the same files: {contents}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
