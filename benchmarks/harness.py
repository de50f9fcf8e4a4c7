"""Runs candidates in turn, each in a process of its own, and judges what they cost.

A round runs every candidate once, and each round begins with another one: what else the machine
does meets all of them alike. What counts is the median over the rounds of the CPU time of the
candidate's process, or of what the candidate has measured itself. Input is made, and results are
checked, while no clock runs.
"""

import multiprocessing
import os
import platform
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from typing import Any

import attrs

__all__ = [
    "PACKAGES",
    "Candidate",
    "Comparison",
    "Result",
    "is_installed",
    "measure",
    "serving",
    "versions",
]

PACKAGES = [
    "launchdarkly-eventsource",
    "httpx-sse",
    "sseclient-py",
    "openai",
    "segment-analytics-python",
    "posthog",
    "langfuse",
    "sentry-sdk",
    "websocket-client",
    "websockets",
    "openai-agents",
    "pydantic-ai-slim",
    "smolagents",
    "msgspec",
    "requests",
    "urllib3",
]
_HUNG = 300.0  # seconds
_SPAWN = multiprocessing.get_context("spawn")  # a fork would bring along what others have imported


@attrs.frozen
class Result:
    """What a candidate has done.

    Args:
        count: How many events.
        last: The data of the last one, or what a server says of all of them.
        seconds: What it took, if that is not the CPU time; of several figures, each by its name.
    """

    count: int
    last: Any
    seconds: float | Mapping[str, float] | None = None


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
        fresh: Whether each run has a process of its own.
    """

    name: str
    run: Callable[[Any], Result]
    given: Callable[[], Any]
    count: int
    last: Any
    per: int = 1
    without: tuple[str, ...] = ()
    fresh: bool = False


@attrs.frozen(kw_only=True)
class Comparison:
    """One kind of work, done by the library and by others.

    A candidate that is in several comparisons is run for all of them at once.

    Args:
        what: The work, for the reader.
        ours: The library.
        others: Whom it is compared with. If with nobody, the figure is the library's own, and the
            bound is in the unit shown.
        at_most: The bound; ``None`` is none.
        at_least: A bound on how many times as fast as the other the library has to be.
        judge: The names of those to whom the bound applies; of several, the fastest.
        unit: How many of the unit shown are in a second, and its name.
        by_difference: Whether to subtract rather than to divide. The bound is in the unit shown.
        figure: Which of the figures that the candidates measure.
        turns: How often a round runs it. For what is short, and drifts within seconds.
        rounds: How many of the rounds run it; ``None`` is all. For what is long, and steady.
    """

    what: str
    ours: Candidate
    others: Sequence[Candidate] = ()
    at_most: float | None = None
    at_least: float | None = None
    judge: Sequence[str] = ()
    unit: tuple[float, str] = (1e6, "µs")
    by_difference: bool = False
    figure: str = ""
    turns: int = 1
    rounds: int | None = None

    def runs_in(self, number: int) -> bool:
        """Whether a round runs it. Round 0, which warms up, is for what is run in all."""
        return self.rounds is None or 1 <= number <= self.rounds


@contextmanager
def serving(handle: Callable[[socket.socket], None]) -> Iterator[int]:
    """A process that has a thread handle each connection; gives its port."""
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_serve, args=(theirs, handle), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.kill()
        process.join()


def _serve(connection: Connection, handle: Callable[[socket.socket], None]) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    connection.send(listener.getsockname()[1])
    while True:
        accepted, _ = listener.accept()
        threading.Thread(target=handle, args=(accepted,), daemon=True).start()


class Worker:
    """A process that runs candidates."""

    def __init__(self, without: tuple[str, ...]) -> None:
        self._connection, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_work, args=(theirs, without), daemon=True)
        self._process.start()
        theirs.close()

    def run(self, candidate: Candidate) -> dict[str, float]:
        """The time that the candidate takes, in seconds, divided as it says; by the figure's name.

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
        if result.seconds is not None:
            seconds = result.seconds
        figures = seconds if isinstance(seconds, Mapping) else {"": seconds}
        return {name: figure / candidate.per for name, figure in figures.items()}

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(10)
        self._process.kill()


def _work(connection: Connection, without: tuple[str, ...]) -> None:
    """What the process does: run what it is sent, until nobody sends any more.

    It ends at once then, whatever the threads of some library would still wait for.
    """
    for name in list(os.environ):
        if name.startswith("OPENAI_") or name.lower().endswith("_proxy"):
            del os.environ[name]
    for name in without:
        sys.modules[name] = None  # type: ignore[assignment]
    while True:
        try:
            run, given = connection.recv()
        except (EOFError, KeyboardInterrupt):
            os._exit(0)
        try:
            argument = given()
            start = time.process_time()
            result: Any = run(argument)
            seconds = time.process_time() - start
            del argument
        except Exception as exc:
            seconds, result = 0.0, f"{type(exc).__name__}: {exc}"
        connection.send((seconds, result))


Times = dict[tuple[int, str], list[float]]  # by the id of the candidate and the figure's name


class Workers:
    """Gives each candidate the process in which candidates of its name run."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._running: dict[tuple[str, tuple[str, ...]], Worker] = {}

    def run(self, candidate: Candidate) -> dict[str, float]:
        """What :meth:`Worker.run` does, by the right one."""
        if candidate.fresh:
            with closing(Worker(candidate.without)) as worker:
                return worker.run(candidate)
        key = candidate.name, candidate.without
        if key not in self._running:
            self._running[key] = Worker(candidate.without)
            self._stack.callback(self._running[key].close)
        return self._running[key].run(candidate)


def measure(comparisons: Sequence[Comparison], rounds: int) -> tuple[list[str], bool]:
    """Run every candidate in each round, after a round that does not count.

    Returns:
        Lines of Markdown, with tables, and whether all bounds are kept.

    Raises:
        RuntimeError: A candidate's result is wrong.
    """
    times: Times = {}
    with ExitStack() as stack:
        workers = Workers(stack)
        for number in range(rounds + 1):
            done: set[int] = set()
            for comparison in _rotated([c for c in comparisons if c.runs_in(number)], number):
                candidates = [comparison.ours, *comparison.others]
                todo = [candidate for candidate in candidates if id(candidate) not in done]
                done.update(map(id, todo))
                for turn in range(comparison.turns):
                    for candidate in _rotated(todo, number + turn):
                        for name, seconds in workers.run(candidate).items():
                            if number:
                                times.setdefault((id(candidate), name), []).append(seconds)
            print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
    return _table(comparisons, times)


def _rotated(items: Sequence[Any], by: int) -> list[Any]:
    by %= len(items) or 1
    return [*items[by:], *items[:by]]


def _table(comparisons: Sequence[Comparison], times: Times) -> tuple[list[str], bool]:
    """A table of what has a bound, then one of the rest."""
    bound, rest, kept = [], [], True
    for comparison in comparisons:
        ours, *others = (
            statistics.median(times[id(candidate), comparison.figure])
            for candidate in (comparison.ours, *comparison.others)
        )
        by_name = {c.name: theirs for c, theirs in zip(comparison.others, others, strict=True)}
        judges = [name for name in comparison.judge if name in by_name]
        judge = min(judges, key=by_name.__getitem__, default=None)
        pairs: list[tuple[str | None, float | None]] = [(None, None)]
        if by_name:
            pairs = sorted(by_name.items(), key=lambda pair: pair[1])
        for name, theirs in pairs:
            figure, cells = _row(comparison, ours, name, theirs)
            verdict = _verdict(comparison, figure) if name == judge else None
            if verdict is None:
                rest.append(cells)
            else:
                limit, passed = verdict
                kept = kept and passed
                bound.append([*cells, limit, "PASS" if passed else "**MISS**"])
    head = ["what", "against", "this library", "the other", "figure"]
    lines = _markdown([*head, "bound", ""], bound) if bound else []
    lines += ["", "Without a bound:", "", *_markdown(head, rest)] if rest else []
    return [*lines, "", _spread(times)], kept


def _row(
    comparison: Comparison, ours: float, name: str | None, theirs: float | None
) -> tuple[float, list[str]]:
    """The figure, and the cells that tell of it."""
    scale, unit = comparison.unit
    cells = [comparison.what, name or "", f"{ours * scale:.3g} {unit}"]
    if theirs is None:
        return ours * scale, [*cells, "", f"{ours * scale:.3g} {unit}"]
    cells.append(f"{theirs * scale:.3g} {unit}")
    if comparison.by_difference:
        figure = (ours - theirs) * scale
        return figure, [*cells, f"{figure:.1f} {unit}"]
    figure = ours / theirs if comparison.at_least is None else theirs / ours
    return figure, [*cells, f"{figure:.2f}"]


def _verdict(comparison: Comparison, figure: float) -> tuple[str, bool] | None:
    """The bound and whether it is kept; ``None`` without one."""
    if comparison.at_most is not None:
        return f"≤ {comparison.at_most:.4g}", figure <= comparison.at_most
    if comparison.at_least is not None:
        return f"≥ {comparison.at_least:.4g}", figure >= comparison.at_least
    return None


def _markdown(head: list[str], rows: list[list[str]]) -> list[str]:
    rule = ["---", "---", *["--:"] * (len(head) - 2)]
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)]


def _spread(times: Times) -> str:
    """How much the rounds differ: how quiet the machine was."""
    spreads = []
    for seconds in times.values():
        median = statistics.median(seconds)
        if median and len(seconds) > 1:
            spreads.append(statistics.median(abs(s - median) for s in seconds) / median * 100)
    if len(spreads) < 2:
        return "How much the rounds differ cannot be said of so few."
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
