"""Runs the Autobahn test suite against WebSocketConnection, and prints the score.

Usage: run.py DIRECTORY [CASE ...], where `install` has put the suite; a case is like 1.1.1 or 9.*.
"""

import json
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from reasoning_sdk import ReasoningError, RetryPolicy, WebSocketConnection
from reasoning_sdk.errors import ConnectError

AGENT = "reasoning_sdk"
SECONDS_TO_START = 60.0
ACCEPTED = ["OK", "NON-STRICT", "INFORMATIONAL"]
STATUSES = [*ACCEPTED, "UNIMPLEMENTED", "FAILED"]
QUESTIONS = {
    "behavior": "what was made of the messages",
    "behaviorClose": "how the connection was closed",
}

Report = dict[str, dict[str, str]]


def main(directory: Path, cases: list[str]) -> int:
    """Run the cases; 1 if one has failed."""
    began_at = time.monotonic()
    index = directory / "reports" / "index.json"
    index.unlink(missing_ok=True)
    with server(directory, cases) as url:
        count = int(ask(f"{url}/getCaseCount"))
        if not count:
            sys.exit(f"no such cases: {' '.join(cases)}")
        for number in range(1, count + 1):
            show_progress(f"case {number} of {count}")
            echo(f"{url}/runCase?case={number}&agent={AGENT}")
        show_progress("")
        echo(f"{url}/updateReports?agent={AGENT}")
    results = json.loads(index.read_text(encoding="utf-8")).get(AGENT, {})
    report: Report = dict(sorted(results.items(), key=lambda item: by_number(item[0])))
    for question, meaning in QUESTIONS.items():
        print(f"{question}: {meaning}\n\n{table(report, question)}\n")
    loose = [case for case, result in report.items() if "NON-STRICT" in result.values()]
    print(f"NON-STRICT: {' '.join(loose) or 'none'}")
    for case, result in report.items():
        if is_odd(result):
            print(f"{case}: behavior {result['behavior']}, behaviorClose {result['behaviorClose']}")
    if len(report) != count:
        print(f"{count - len(report)} cases have no result: they do not exist, or did not begin")
    print(f"{len(report)} cases in {time.monotonic() - began_at:.0f} s")
    return int(len(report) != count or any(map(has_failed, report.values())))


@contextmanager
def server(directory: Path, cases: list[str]) -> Iterator[str]:
    """The suite's server; gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"ws://127.0.0.1:{port}"
    spec = {"url": url, "outdir": str(directory / "reports"), "cases": cases}
    (directory / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    command = ["env/bin/wstest", "-m", "fuzzingserver", "--webport", "0", "-s", "spec.json"]
    with (directory / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_until_up(url, process)
            yield url
        finally:
            process.kill()
            process.wait()


def wait_until_up(url: str, process: "subprocess.Popen[bytes]") -> None:
    """Wait until the server answers."""
    until = time.monotonic() + SECONDS_TO_START
    while process.poll() is None and time.monotonic() < until:
        try:
            ask(f"{url}/getCaseCount")
            return
        except ConnectError:
            time.sleep(0.1)
    sys.exit("the server does not start: server.log says why")


def connect(url: str) -> WebSocketConnection:
    """Connect once; a message may be as large as it wants."""
    # A ping would come as a surprise to some of the cases.
    return WebSocketConnection.connect(
        url,
        codec="raw",
        max_size=None,
        ping_interval=None,
        send_timeout=60.0,
        retry=RetryPolicy(max_attempts=0),
    )


def ask(url: str) -> str:
    """The one message that comes."""
    with connect(url) as connection:
        return connection.next_message()


def echo(url: str) -> None:
    """Send back what comes, until the end, which the report judges."""
    with suppress(ReasoningError), connect(url) as connection:
        for message in connection:
            connection.send(message)


def table(report: Report, question: str) -> str:
    """How often each status was given, by the first number of the cases."""
    groups = {f"{number}.*": Counter[str]() for number in map(group, report)}
    for case, result in report.items():
        groups[f"{group(case)}.*"][result[question]] += 1
    groups["all"] = sum(groups.values(), Counter())
    statuses = [*STATUSES, *sorted(set(groups["all"]) - set(STATUSES))]
    rows = [["cases", *statuses]]
    for name, counts in groups.items():
        rows.append([name, *(str(counts[status] or "-") for status in statuses)])
    return "\n".join(
        "  ".join(cell.rjust(len(head)) for cell, head in zip(row, rows[0], strict=True))
        for row in rows
    )


def group(case: str) -> int:
    """1 for 1.2.3."""
    return by_number(case)[0]


def by_number(case: str) -> tuple[int, ...]:
    """Sorts 9.1.1 before 10.1.1."""
    return tuple(map(int, case.split(".")))


def is_odd(result: dict[str, str]) -> bool:
    """Whether it is worth a line of its own."""
    return any(result[question] not in ACCEPTED for question in QUESTIONS)


def has_failed(result: dict[str, str]) -> bool:
    """Whether it is neither right nor left out: the suite has more words than FAILED for that."""
    return any(result[question] not in [*ACCEPTED, "UNIMPLEMENTED"] for question in QUESTIONS)


def show_progress(text: str) -> None:
    """Show it in place of what was shown before, on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # else the server would stay
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(1))
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:] or ["*"]))
