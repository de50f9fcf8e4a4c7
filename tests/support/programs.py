"""Programs that are run as processes of their own, and how they have ended."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

PROGRAMS = Path(__file__).resolve().parents[1] / "programs"
DEADLINE = 30.0

Process = subprocess.Popen[str]


@attrs.frozen
class Ended:
    """How a program has ended.

    Attributes:
        seconds: How long the exit took, if the program has told when it began.
    """

    code: int
    out: str
    err: str
    seconds: float

    @property
    def said(self) -> dict[str, float]:
        """What it has printed: lines of a word and a number."""
        return {word: float(number) for word, number in map(str.split, self.out.splitlines())}


def python(program: str | Path, *arguments: object) -> list[str]:
    """The command that runs a program: its source, or a file."""
    if isinstance(program, str):
        program = "from sending import *\n" + textwrap.dedent(program)
        return [sys.executable, "-c", program, *map(str, arguments)]
    return [sys.executable, str(PROGRAMS / program), *map(str, arguments)]


@contextlib.contextmanager
def started(command: Sequence[str], url: str, **options: Any) -> Iterator[Process]:
    """Starts a program whose viewer is at a URL; at the end all that is left of it is killed."""
    environment: Mapping[str, str] = options.pop("environment", {})
    with subprocess.Popen(
        command,
        env={
            **os.environ,
            "VIEWER_ADDRESS": url,
            "PYTHONPATH": os.pathsep.join([str(PROGRAMS), str(PROGRAMS.parents[1])]),
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "ignore::DeprecationWarning",  # forks with threads, from 3.12 on
            **environment,
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=options.pop("stderr", subprocess.PIPE),
        text=True,
        start_new_session=True,
        **options,
    ) as process:
        try:
            yield process
        except BaseException:
            state = process.poll()
            _kill(process)
            with contextlib.suppress(ValueError):  # its pipes are closed: it was finished
                print(state, *process.communicate(), sep="\n")
            raise
        finally:
            _kill(process)


def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def finish(process: Process, timeout: float = DEADLINE) -> Ended:
    """Waits for the end of a program and of all processes that it has made."""
    out, err = process.communicate(timeout=timeout)
    seconds, now = 0.0, time.monotonic()
    for line in out.splitlines():
        if line.startswith("ends "):
            seconds = now - float(line.split()[1])
    return Ended(process.returncode, out, err or "", seconds)


def run(command: Sequence[str], url: str, **options: Any) -> Ended:
    """Runs a program until it ends."""
    with started(command, url, **options) as process:
        return finish(process)


def wait_for_line(process: Process, text: str) -> str:
    """Reads what a program prints up to the line that has a text; gives that line."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return line
    raise AssertionError(f"{text!r} was not printed: {''.join(lines)}")
