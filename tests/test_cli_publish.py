"""The command `publish`, as processes of their own, against a server that counts."""

import contextlib
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reasoning_sdk import RetryPolicy, ViewerClient
from tests.support.counting import CountingServer
from tests.support.scripted import ScriptedServer
from tests.support.signals import interrupt

pytestmark = pytest.mark.http

AGENT, FUNCTION = "/agent/completions", "/functions/executions"
SECRET = "sig-0123456789abcdef"
DEADLINE = 30.0
NOBODY = "http://127.0.0.1:9"


def environment(**variables: str) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}
    plain |= {"COLUMNS": "100", "TERM": "xterm-256color", "PYTHONUNBUFFERED": ""}
    return {**plain, "VIEWER_SIGNATURE": SECRET, **variables}


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "reasoning_sdk", "publish", *map(str, arguments)]


def run(
    *arguments: str | Path, stdin: str | bytes = b"", **variables: str
) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        command(*arguments),
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        env=environment(**variables),
        capture_output=True,
        timeout=DEADLINE,
    )
    shown = [output.decode() for output in (done.stdout, done.stderr)]
    assert SECRET not in "".join(shown)
    assert "Traceback" not in shown[1]
    return subprocess.CompletedProcess(done.args, done.returncode, *shown)


def line(id: Any, n: int = 0, path: str = AGENT, **members: Any) -> str:
    return json.dumps({"path": path, **members, "body": {"id": id, "n": n}}) + "\n"


def lines(count: int, ids: int = 3) -> str:
    return "".join(line(f"run-{n % ids}", n) for n in range(count))


@pytest.fixture
def server() -> Iterator[CountingServer]:
    with CountingServer() as counting:
        yield counting


@pytest.fixture
def events(tmp_path: Path) -> Path:
    path = tmp_path / "events.jsonl"
    path.write_text(lines(30))
    return path


# -- what is delivered ---------------------------------------------------------------------------


def test_every_event_arrives_with_those_of_one_id_in_order(
    server: CountingServer, tmp_path: Path
) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text(lines(200, ids=7) + line("call-1", path=FUNCTION))
    done = run(file, "--address", server.url)
    assert (done.returncode, done.stdout, done.stderr) == (
        0, "delivered 201, tried again 0\n", ""
    )  # fmt: skip
    assert (len(server.delivered), server.repeated(), server.disordered()) == (201, {}, [])
    assert {post.signature for post in server.posts} == {SECRET}
    assert {post.headers["content-type"] for post in server.posts} == {"application/json"}
    by_path = [post.json["id"] for post in server.posts if post.path == FUNCTION]
    assert by_path == ["call-1"]


@pytest.mark.parametrize("workers", ["1", "16"])
def test_workers_are_connections(server: CountingServer, tmp_path: Path, workers: str) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text(lines(100, ids=50))
    done = run(file, "--workers", workers, VIEWER_ADDRESS=server.url)
    assert done.returncode == 0
    assert 1 <= len({post.connection for post in server.posts}) <= int(workers)


def test_an_option_wins_over_its_variable(server: CountingServer, events: Path) -> None:
    options = ("--address", server.url, "--signature", "another-one")
    assert run(events, *options, VIEWER_ADDRESS=NOBODY).returncode == 0
    assert {post.signature for post in server.posts} == {"another-one"}


def test_an_event_may_have_an_address_and_a_signature_of_its_own(server: CountingServer) -> None:
    with CountingServer() as other:
        given = line("a") + line("b", address=other.url)
        given += line("c", address=other.url, signature="theirs") + line("d", signature="own")
        assert run("-", stdin=given, VIEWER_ADDRESS=server.url).returncode == 0
        assert {p.json["id"]: p.signature for p in server.posts} == {"a": SECRET, "d": "own"}
        assert {p.json["id"]: p.signature for p in other.posts} == {"b": None, "c": "theirs"}


def test_a_body_is_sent_as_it_is(server: CountingServer) -> None:
    body = {"id": 7, "text": "Zürich \u2028\x85 \u2029 東京", "deep": [{"x": None}], "n": 1.5}
    given = json.dumps({"path": AGENT, "body": body}, ensure_ascii=False) + "\n"
    done = run("-", stdin=given, VIEWER_ADDRESS=server.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert [post.json for post in server.posts] == [body]


def test_standard_input_is_read_as_it_comes(server: CountingServer) -> None:
    with started("-", VIEWER_ADDRESS=server.url, stdin=subprocess.PIPE) as process:
        process.stdin.write(line("a", 1).encode())
        process.stdin.flush()
        server.wait_for(1)
        out, err = process.communicate(line("a", 2).encode(), timeout=DEADLINE)
    assert (process.returncode, out, err) == (0, b"delivered 2, tried again 0\n", b"")
    assert server.numbers("a") == [1, 2]


def test_a_named_pipe_is_a_file(server: CountingServer, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with started(pipe, VIEWER_ADDRESS=server.url) as process:
        pipe.write_text(lines(10))
        out, _ = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out) == (0, b"delivered 10, tried again 0\n")


def test_nothing_to_send_is_no_failure(server: CountingServer) -> None:
    done = run("-", stdin="\n  \n", VIEWER_ADDRESS=server.url)
    assert (done.returncode, done.stdout) == (0, "delivered 0, tried again 0\n")


def test_the_tally_as_json(server: CountingServer) -> None:
    done = run("-", "--json", stdin=lines(3) + "{}\n", VIEWER_ADDRESS=server.url)
    assert done.returncode == 1
    assert json.loads(done.stdout) == {"delivered": 3, "retries": 0, "dropped": {"unreadable": 1}}
    assert done.stdout.count("\n") == 1


def test_what_fails_for_a_moment_is_tried_again() -> None:
    def fail(connection: Any) -> None:
        connection.send(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n")

    def take(connection: Any) -> None:
        connection.send(b"HTTP/1.1 204 X\r\n\r\n")

    with ScriptedServer([fail, take, take]) as server:
        url = server.base_url.removesuffix("/v1")
        done = run("-", stdin=lines(2, ids=1), VIEWER_ADDRESS=url)
    assert (done.returncode, done.stdout) == (0, "delivered 2, tried again 1\n")
    assert done.stderr == f"warning: {url} fails, events are tried again: 503 Service Unavailable\n"
    first, again, _ = server.requests
    assert first.headers["Idempotency-Key"] == again.headers["Idempotency-Key"]


def test_thousands_of_lines_take_little_memory_and_time(
    server: CountingServer, tmp_path: Path
) -> None:
    def peak_of(file: Path) -> int:
        measure = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True)"
        measure += "; print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)"
        got = subprocess.run(
            [sys.executable, "-c", measure, *command(file)],
            env=environment(VIEWER_ADDRESS=server.url),
            capture_output=True,
            check=True,
            timeout=DEADLINE,
        )
        return int(got.stdout.splitlines()[-1])

    many, large = tmp_path / "many.jsonl", tmp_path / "large.jsonl"
    many.write_text(lines(5000, ids=7))
    began_at = time.monotonic()
    least = peak_of(many)
    assert time.monotonic() - began_at < 20.0
    assert (len(server.delivered), server.disordered()) == (5000, [])

    server.posts.clear()
    body = {"id": "large", "n": 0, "text": "x" * 200_000}
    with large.open("w") as file:
        file.writelines(json.dumps({"path": AGENT, "body": body}) + "\n" for _ in range(500))
    assert peak_of(large) - least < 60  # MB; the file has 100
    assert len(server.delivered) == 500


# -- what is not ---------------------------------------------------------------------------------


def test_bad_lines_are_told_with_their_numbers_and_the_others_sent(server: CountingServer) -> None:
    bad = [
        "nonsense",
        "[1]",
        '{"path": "/elsewhere", "body": {"id": "a"}}',
        '{"path": ["x"], "body": {"id": "a"}}',
        '{"path": "/agent/completions", "body": "text"}',
        '{"path": "/agent/completions", "body": {"n": 1}}',
        '{"path": "/agent/completions", "body": {"id": "a", "n": NaN}}',
        '{"path": "/agent/completions", "body": {"id": "a"}, "address": 5}',
        '{"path": "/agent/completions", "body": {"id": "a"}, "signature": "a\\nb"}',
        "[" * 100_000,
    ]
    given = "".join(f"{text}\n\n{line('good', n)}" for n, text in enumerate(bad)).encode()
    done = run("-", stdin=given + b'{"path": "caf\xe9"}\n', VIEWER_ADDRESS=server.url)
    assert done.returncode == 1
    numbers = [int(number) for number in re.findall(r"error: -, line (\d+): \S", done.stderr)]
    assert numbers == [*range(1, 31, 3), 31]
    assert "line 16: $.id is missing" in done.stderr
    assert "line 19: $.n cannot be JSON: nan is not finite" in done.stderr
    assert server.numbers("good") == list(range(10))
    tally = done.stdout.splitlines()
    assert tally[0] == "delivered 10, tried again 0"
    assert [text.partition(":")[0] for text in tally[1:]] == ["invalid 4", "unreadable 7"]


def test_events_that_are_refused_are_counted_with_the_reason(
    server: CountingServer, events: Path
) -> None:
    server.answer(422)
    done = run(events, VIEWER_ADDRESS=server.url)
    assert done.returncode == 1
    said = "delivered 0, tried again 0\nrejected 30: 422 Unprocessable"
    assert done.stdout.startswith(said)


def test_a_server_that_is_down_ends_it_in_time_with_the_reasons(events: Path) -> None:
    began_at = time.monotonic()
    done = run(events, "--timeout", "1", VIEWER_ADDRESS=NOBODY)
    assert time.monotonic() - began_at < 15.0
    assert done.returncode == 1
    counts = dict(re.findall(r"^(\w+) (\d+):? ", done.stdout, re.MULTILINE))
    assert int(counts.pop("delivered,", 0)) == 0
    assert sum(map(int, counts.values())) == 30
    assert "closed" in counts
    assert "given up, nothing arrived for 1 seconds" in done.stdout
    said = f"warning: {NOBODY} fails, events are tried again: cannot connect to {NOBODY}"
    assert done.stderr.startswith(said)


def test_a_server_that_never_answers_ends_it_in_time_too(
    server: CountingServer, events: Path
) -> None:
    server.hold()
    done = run(events, "--timeout", "1", VIEWER_ADDRESS=server.url)
    assert done.returncode == 1
    assert f": no answer from {server.url} in time\n" in done.stdout
    assert "closed" in done.stdout


def test_a_timeout_of_0_is_one_try_each(server: CountingServer, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text(lines(3, ids=1))
    server.answer(503)
    done = run(file, "--timeout", "0", VIEWER_ADDRESS=server.url)
    assert done.returncode == 1
    said = "delivered 0, tried again 0\nbudget_exhausted 3: 503 Service Unavailable\n"
    assert done.stdout == said


def test_dead_letters_are_sent_again(server: CountingServer, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    quick = RetryPolicy(initial_interval=0.01, max_elapsed_time=0.1)
    server.answer(400)
    with ViewerClient(server.url, "the-first-one", retry=quick, spool=spool) as viewer:
        for n in range(5):
            viewer.send_agent_completion_continue({"id": "a", "n": n})
        viewer.send_function_execution_begin("b", {"n": 0}, signature="given")
        assert not viewer.flush()
    dead = spool / "dead-letter.jsonl"
    letters = dead.read_text().splitlines()
    assert [json.loads(letter)["reason"] for letter in letters] == ["rejected"] * 6
    assert "the-first-one" not in dead.read_text()
    assert "given" not in dead.read_text()

    server.posts.clear()
    server.answer(200)
    done = run(dead, VIEWER_ADDRESS=server.url)
    assert (done.returncode, done.stdout) == (0, "delivered 6, tried again 0\n")
    assert server.numbers("a") == list(range(5))
    assert {post.json["id"]: post.path for post in server.delivered} == {"a": AGENT, "b": FUNCTION}
    assert {post.signature for post in server.delivered} == {SECRET}


# -- wrong usage ---------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", [{}, {"VIEWER_ADDRESS": ""}])
def test_no_address_is_wrong_usage(events: Path, variable: dict[str, str]) -> None:
    done = run(events, **variable)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no address: give --address, or set VIEWER_ADDRESS\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing argument"),
        (["/nowhere/events.jsonl"], "cannot read /nowhere/events.jsonl: no such file or directory"),
        (["/"], "cannot read /: is a directory"),
        (["-", "--address", "ftp://x"], "address must be an http or https URL, got 'ftp://x'"),
        (["-", "--address", "http://me:hidden@x"], "address must have no user, password"),
        (["-", "--timeout", "-1"], "Invalid value for '--timeout'"),
        (["-", "--timeout", "nan"], "Invalid value for '--timeout'"),
        (["-", "--workers", "0"], "Invalid value for '--workers'"),
        (["-", "--workers", "1000"], "Invalid value for '--workers'"),
        (["-", "--signature", "hidden\n"], "signature has characters that HTTP does not allow"),
    ],
)
def test_wrong_usage_is_said(arguments: list[str], said: str) -> None:
    done = run(*arguments, VIEWER_ADDRESS=NOBODY, NO_COLOR="1")
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "hidden" not in done.stderr


@pytest.mark.parametrize("name", ["VIEWER_ADDRESS", "VIEWER_SIGNATURE"])
def test_a_bad_variable_is_named(events: Path, name: str) -> None:
    done = run(events, **{"VIEWER_ADDRESS": NOBODY, name: "ftp://h\n"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {name} ")


def test_standard_input_that_is_closed_is_said(server: CountingServer) -> None:
    shell = ["sh", "-c", '"$0" -m reasoning_sdk publish - <&-', sys.executable]
    env = environment(VIEWER_ADDRESS=server.url)
    done = subprocess.run(shell, env=env, capture_output=True, timeout=DEADLINE)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"error: standard input is closed\n"


def test_the_help_has_options_variables_and_exit_codes() -> None:
    done = run("--help", VIEWER_ADDRESS=NOBODY, NO_COLOR="1")
    words = " ".join(re.sub("[│╭╮╰╯─]", " ", done.stdout).split())
    assert done.returncode == 0
    assert "Usage: reasoning-sdk publish [OPTIONS] {FILE.jsonl}" in words
    for word in ("--address", "--signature", "--workers", "--timeout", "--json", "130 interrupted"):
        assert word in words
    assert "[env var: VIEWER_ADDRESS]" in words
    assert "[env var: VIEWER_SIGNATURE]" in words
    assert NOBODY not in words


# -- interrupted, and on a terminal ---------------------------------------------------------------


@contextlib.contextmanager
def started(
    *arguments: str | Path, stdin: Any = None, **variables: str
) -> Iterator["subprocess.Popen[Any]"]:
    with subprocess.Popen(
        command(*arguments),
        env=environment(**variables),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["text", "json"])
def test_ctrl_c_ends_it_with_a_tally(
    server: CountingServer, events: Path, as_json: list[str]
) -> None:
    server.hold()
    with started(events, *as_json, VIEWER_ADDRESS=server.url) as process:
        server.wait_for_posts(3)
        interrupt(process.pid)
        out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, err.split()) == (130, [b"interrupted"])
    if as_json:
        assert json.loads(out) == {"delivered": 0, "retries": 0, "dropped": {"closed": 30}}
    else:
        assert out == b"delivered 0, tried again 0\nclosed 30: interrupted\n"


def test_exit_141_when_nobody_reads_the_tally(server: CountingServer, events: Path) -> None:
    with started(events, VIEWER_ADDRESS=server.url) as process:
        process.stdout.close()
        assert process.wait(DEADLINE) == 141
        assert process.stderr.read() == b""
    assert len(server.delivered) == 30


def on_terminal(*arguments: str | Path, **variables: str) -> tuple[int, str]:
    """Run a command on a terminal of its own; its exit code and all that was written."""
    terminal, inside = pty.openpty()
    with subprocess.Popen(
        command(*arguments),
        stdin=inside,
        stdout=inside,
        stderr=inside,
        env=environment(**variables),
        start_new_session=True,
    ) as process:
        os.close(inside)
        shown = b"".join(written(terminal))
        code = process.wait(DEADLINE)
    os.close(terminal)
    return code, shown.decode()


def written(terminal: int) -> Iterable[bytes]:
    deadline = time.monotonic() + DEADLINE
    while select.select([terminal], [], [], max(deadline - time.monotonic(), 0.0))[0]:
        try:
            yield os.read(terminal, 65536)
        except OSError:  # the other side is closed
            return


def test_a_terminal_gets_a_bar_that_comes_to_its_end(
    server: CountingServer, tmp_path: Path
) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text(lines(29) + "\n\n" + '{"done": "x"}\n' + "nonsense\n")
    code, shown = on_terminal(file, VIEWER_ADDRESS=server.url)
    assert code == 1
    assert "Traceback" not in shown
    assert "31/31" in shown
    assert "line 33" in shown
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert "delivered 29, tried again 0" in plain
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") > 0  # the cursor is back


def test_a_dumb_terminal_gets_no_bar(server: CountingServer, events: Path) -> None:
    code, shown = on_terminal(events, VIEWER_ADDRESS=server.url, TERM="dumb")
    assert code == 0
    assert "\x1b" not in shown
    assert shown.endswith("delivered 30, tried again 0\r\n")


def test_what_a_viewer_says_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    def refuse(connection: Any) -> None:
        text = b'{"message": "[red]x[/red] \\u001b]0;title\\u0007 ' + SECRET.encode() + b'"}'
        connection.send(b"HTTP/1.1 400 X\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))

    with ScriptedServer(refuse) as server:
        url = server.base_url.removesuffix("/v1")
        done = run("-", stdin=line("a"), VIEWER_ADDRESS=url)
    assert done.returncode == 1
    assert "rejected 1: 400 Bad Request: [red]x[/red] \ufffd]0;title\ufffd ***" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
