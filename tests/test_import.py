"""What importing the package does, each time in a fresh interpreter."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

import reasoning_sdk

ROOT = Path(__file__).resolve().parent.parent

# Optional, or a caller's own; each costs more than the package itself.
HEAVY = ["IPython", "alembic", "celery", "flask", "msgspec", "numpy", "rich", "sqlalchemy", "typer"]


def run(code: str) -> str:
    """The output of a fresh interpreter in which warnings are errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


def test_importing_brings_no_optional_library():
    # What a .pth file of the environment brought before us is not ours.
    loaded = run(
        "import sys; before = set(sys.modules)\n"
        "import reasoning_sdk, json\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in set(sys.modules) - before})))"
    )
    assert sorted(set(json.loads(loaded)) & set(HEAVY)) == []


def test_importing_prints_nothing_and_starts_no_thread():
    assert run("import threading, reasoning_sdk; assert threading.active_count() == 1") == ""


def test_importing_works_without_any_optional_library():
    blocked = "".join(f"sys.modules[{name!r}] = None;" for name in HEAVY)
    assert run(f"import sys; {blocked} import reasoning_sdk") == ""


def test_a_library_that_logs_without_a_handler_is_silent():
    assert run("import logging, reasoning_sdk\nlogging.getLogger('reasoning_sdk').error('!')") == ""


@pytest.mark.parametrize("name", reasoning_sdk.__all__)
def test_every_public_name_is_there(name):
    assert getattr(reasoning_sdk, name) is not None
    assert name in dir(reasoning_sdk)


def test_the_version_is_that_of_the_installed_distribution():
    assert reasoning_sdk.__version__ == importlib.metadata.version("reasoning_sdk")


def test_the_package_says_that_it_is_typed():
    assert (Path(reasoning_sdk.__file__).parent / "py.typed").is_file()
