"""Runs candidates in turn, each in a process of its own, and judges what they cost.

A round runs every candidate once, and each round begins with another one: what else the machine
does meets all of them alike. What counts is the median over the rounds of the CPU time of the
candidate's process. Input is made, and results are checked, while no clock runs.
"""

import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from typing import Any

import attrs

__all__ = ["PACKAGES", "Candidate", "Comparison", "Result", "is_installed", "measure", "versions"]

PACKAGES = [
    "launchdarkly-eventsource",
    "httpx-sse",
    "sseclient-py",
    "openai",
    "msgspec",
    "requests",
    "urllib3",
]
_HUNG = 300.0  # seconds
_SPAWN = multiprocessing.get_context("spawn")  # a fork would bring along what others have imported


@attrs.frozen
class Result:
    """What a candidate has read.

    Args:
        count: How many events.
        last: The data of the last one.
        seconds: What it took, if that is not the CPU time.
    """

    count: int
    last: Any
    seconds: float | None = None


@attrs.frozen(kw_only=True)
class Candidate:
    """One way to do some work.

    Args:
        name: Who does it.
        run: Does it. What is given to it, it gets as its only argument.
        given: Makes that argument, while no clock runs.
        count: How many events ``run`` has to find.
        last: What the last of them has to be.
        per: What the time is divided by.
        without: Modules that cannot be imported in its process.
    """

    name: str
    run: Callable[[Any], Result]
    given: Callable[[], Any]
    count: int
    last: Any
    per: int = 1
    without: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Comparison:
    """One kind of work, done by the library and by others.

    Args:
        what: The work, for the reader.
        ours: The library.
        others: Whom it is compared with.
        at_most: The bound; ``None`` is none.
        judge: The names of those to whom the bound applies; of several, the fastest.
        unit: How many of the unit shown are in a second, and its name.
        by_difference: Whether to subtract rather than to divide. The bound is in the unit shown.
        turns: How often a round runs it. For what is short, and drifts within seconds.
    """

    what: str
    ours: Candidate
    others: Sequence[Candidate]
    at_most: float | None = None
    judge: Sequence[str] = ()
    unit: tuple[float, str] = (1e6, "µs")
    by_difference: bool = False
    turns: int = 1


class Worker:
    """A process that runs candidates."""

    def __init__(self, without: tuple[str, ...]) -> None:
        self._connection, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_work, args=(theirs, without), daemon=True)
        self._process.start()
        theirs.close()

    def run(self, candidate: Candidate) -> float:
        """The time that the candidate takes, in seconds, divided as it says.

        Raises:
            RuntimeError: Its result is wrong, or there is none.
        """
        self._connection.send((candidate.run, candidate.given))
        if not self._connection.poll(_HUNG):
            raise RuntimeError(f"{candidate.name} hangs")
        seconds, result = self._connection.recv()
        if isinstance(result, str):
            raise RuntimeError(f"{candidate.name} failed: {result}")
        if (result.count, result.last) != (candidate.count, candidate.last):
            found, last = result.count, str(result.last)[:200]
            raise RuntimeError(
                f"{candidate.name} found {found} events, not {candidate.count}, the last {last!r}"
            )
        return (seconds if result.seconds is None else result.seconds) / candidate.per

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(10)
        self._process.kill()


def _work(connection: Connection, without: tuple[str, ...]) -> None:
    """What the process does: run what it is sent, until nobody sends any more."""
    for name in list(os.environ):
        if name.startswith("OPENAI_") or name.lower().endswith("_proxy"):
            del os.environ[name]
    for name in without:
        sys.modules[name] = None  # type: ignore[assignment]
    while True:
        try:
            run, given = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            argument = given()
            start = time.process_time()
            result: Any = run(argument)
            seconds = time.process_time() - start
            del argument
        except Exception as exc:
            seconds, result = 0.0, f"{type(exc).__name__}: {exc}"
        connection.send((seconds, result))


Times = dict[int, list[float]]


@contextmanager
def workers() -> Iterator[Callable[[Candidate], Worker]]:
    """Gives each candidate the process in which candidates of its name run."""
    running: dict[tuple[str, tuple[str, ...]], Worker] = {}
    with ExitStack() as stack:

        def worker_of(candidate: Candidate) -> Worker:
            key = candidate.name, candidate.without
            if key not in running:
                running[key] = Worker(candidate.without)
                stack.callback(running[key].close)
            return running[key]

        yield worker_of


def measure(comparisons: Sequence[Comparison], rounds: int) -> tuple[list[str], bool]:
    """Run every candidate in each round, after a round that does not count.

    Returns:
        Lines of Markdown, with tables, and whether all bounds are kept.

    Raises:
        RuntimeError: A candidate's result is wrong.
    """
    times: Times = {}
    with workers() as worker_of:
        for number in range(rounds + 1):
            for comparison in _rotated(comparisons, number):
                for turn in range(comparison.turns):
                    for candidate in _rotated([comparison.ours, *comparison.others], number + turn):
                        seconds = worker_of(candidate).run(candidate)
                        if number:
                            times.setdefault(id(candidate), []).append(seconds)
            print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
    return _table(comparisons, times)


def _rotated(items: Sequence[Any], by: int) -> list[Any]:
    by %= len(items)
    return [*items[by:], *items[:by]]


def _table(comparisons: Sequence[Comparison], times: Times) -> tuple[list[str], bool]:
    """A table of what has a bound, then one of the rest."""
    bound, rest, kept = [], [], True
    for comparison in comparisons:
        ours = statistics.median(times[id(comparison.ours)])
        others = {other.name: statistics.median(times[id(other)]) for other in comparison.others}
        judges = [name for name in comparison.judge if name in others]
        judge = min(judges, key=others.__getitem__, default=None)
        scale, unit = comparison.unit
        for name, theirs in sorted(others.items(), key=lambda pair: pair[1]):
            figure = (ours - theirs) * scale if comparison.by_difference else ours / theirs
            cells = [comparison.what, name]
            cells += [f"{seconds * scale:.3g} {unit}" for seconds in (ours, theirs)]
            cells.append(f"{figure:.1f} {unit}" if comparison.by_difference else f"{figure:.2f}")
            if name == judge and comparison.at_most is not None:
                passed = figure <= comparison.at_most
                kept = kept and passed
                cells += [f"{comparison.at_most:.4g}", "PASS" if passed else "**MISS**"]
                bound.append(cells)
            else:
                rest.append(cells)
    head = ["what", "against", "this library", "the other", "figure"]
    lines = _markdown([*head, "at most", ""], bound) if bound else []
    lines += ["", "Without a bound:", "", *_markdown(head, rest)] if rest else []
    return [*lines, "", _spread(times)], kept


def _markdown(head: list[str], rows: list[list[str]]) -> list[str]:
    rule = ["---", "---", *["--:"] * (len(head) - 2)]
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)]


def _spread(times: Times) -> str:
    """How much the rounds differ: how quiet the machine was."""
    spreads = []
    for seconds in times.values():
        median = statistics.median(seconds)
        spreads.append(statistics.median(abs(s - median) for s in seconds) / median * 100)
    spreads.sort()
    return (
        "Half of a candidate's rounds lie within "
        f"{statistics.median(spreads):.1f} % of their median, half of those of the least steady "
        f"within {spreads[-1]:.0f} %, of the next {spreads[-2]:.0f} %."
    )


def is_installed(package: str) -> bool:
    """Whether there is such a distribution."""
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def versions() -> str:
    """What is compared, in one line."""
    parts = [f"{platform.python_implementation()} {platform.python_version()}"]
    parts += [f"{name} {version(name)}" for name in PACKAGES if is_installed(name)]
    return ", ".join(parts) + f"; {platform.system()}, {os.cpu_count()} processors"
