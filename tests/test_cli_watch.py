"""The command `watch`, as processes of their own, against real WebSocket servers."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.agent_service import AgentService, cut, telling
from tests.support.fault_proxy import FaultProxy
from tests.support.signals import interrupt, wait_until_it_waits
from tests.support.websocket_peer import WebSocketPeer

TOKEN = "rl-very-secret-0123456789"
TENANT = "0b1f7c5e-8d1c-4f43-9f0f-2f7f2a6f7a11"
AGENT = "6f9c1c1e-0b1d-4c5e-9a39-0d2f0c7d8a01"
NOBODY = "ws://127.0.0.1:9/x"
DEADLINE = 30.0


def environment(**variables: str) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}
    plain |= {"COLUMNS": "100", "TERM": "xterm-256color", "PYTHONUNBUFFERED": ""}
    return {**plain, "REASONING_LAYER_TOKEN": TOKEN, **variables}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "reasoning_sdk", "watch", *arguments]


def run(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        command(*arguments),
        stdin=subprocess.DEVNULL,
        env=environment(**variables),
        capture_output=True,
        timeout=DEADLINE,
    )
    shown = [output.decode() for output in (done.stdout, done.stderr)]
    assert TOKEN not in "".join(shown)
    assert "Traceback" not in shown[1]
    return subprocess.CompletedProcess(done.args, done.returncode, *shown)


@contextlib.contextmanager
def started(*arguments: str, **variables: str) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        command(*arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(**variables),
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def numbers(text: str) -> list[int]:
    return [json.loads(line)["n"] for line in text.splitlines()]


@pytest.fixture
def service() -> Iterator[Callable[..., AgentService]]:
    """Makes services, and stops them."""
    with contextlib.ExitStack() as stack:
        yield lambda *talks, **options: stack.enter_context(AgentService(*talks, **options))


# -- lines ---------------------------------------------------------------------------------------


def test_messages_are_lines_until_there_are_as_many_as_asked_for(
    websocket_peer: WebSocketPeer,
) -> None:
    done = run(f"{websocket_peer.ws_url}/ticks", "--count", "5")
    assert (done.returncode, done.stderr) == (0, "")
    assert numbers(done.stdout) == [0, 1, 2, 3, 4]
    stats = websocket_peer.wait_until("/ticks", lambda stats: not stats.open)
    assert stats.close_code == 1000


def test_a_line_is_written_when_its_message_comes(websocket_peer: WebSocketPeer) -> None:
    with started(f"{websocket_peer.ws_url}/count?n=2") as process:  # and then it is silent
        lines = [process.stdout.readline() for _ in range(2)]
    assert numbers("".join(lines)) == [0, 1]


def test_json_is_what_the_server_wrote_in_one_line(service: Any) -> None:
    written = '{"big": 12345678901234567890.10, "b": 1, "b": 2, "s": "ü \\ud800 \u2028"}'
    spread = '{\r\n  "a": [\n 1],\n\t"t": "x\\ny"\n}\n'
    odd = '"\x7f \x9b2J"'
    server = service(telling(written, spread, odd, "\n7 ", b"[1]"))
    done = run(server.ws_url, "--count", "5")
    lines = done.stdout.split("\n")
    assert lines[0] == written
    assert lines[1] == '{ "a": [ 1], "t": "x\\ny" }'
    assert lines[2] == '"\\u007f \\u009b2J"'
    assert lines[3:] == ["7", "[1]", ""]


def test_an_output_that_is_not_unicode_gets_json_all_the_same(service: Any) -> None:
    server = service(telling({"s": "ü 🌸"}, '"ü 🌸"'))
    done = run(server.ws_url, "--count", "2", PYTHONIOENCODING="ascii")
    assert done.stdout == '{"s": "\\u00fc \\ud83c\\udf38"}\n"\\u00fc \\ud83c\\udf38"\n'


def test_what_is_not_json_is_told_and_watching_goes_on(service: Any) -> None:
    bad = ["{not json", b"\xff\xfe", "", "x" * 1000, "a\x1b]0;t\x07\nb", "[" * 100_000]
    server = service(telling({"n": 0}, *bad, {"n": 1}))
    done = run(server.ws_url, "--count", "2")
    assert (done.returncode, numbers(done.stdout)) == (0, [0, 1])
    told = done.stderr.splitlines()
    assert len(told) == len(bad)
    assert {line.partition(":")[0] for line in told} == {"warning"}
    assert told[0] == "warning: a message is not JSON: {not json"
    assert told[3].endswith("x…")
    assert told[4].endswith(": a\ufffd]0;t\ufffd b")


def test_raw_messages_are_as_they_are(service: Any) -> None:
    server = service(telling("ü\nno JSON", b"\xff\x00\x1b", ""))
    with started(server.ws_url, "--raw", "--count", "3") as process:
        content = process.stdout.buffer.read()
        assert (process.wait(DEADLINE), process.stderr.read()) == (0, "")
    assert content == "ü\nno JSON\n".encode() + b"\xff\x00\x1b\n" + b"\n"


def test_many_messages_all_arrive_in_order(websocket_peer: WebSocketPeer) -> None:
    done = run(f"{websocket_peer.ws_url}/count?n=20000&size=100", "--count", "20000")
    assert (done.returncode, numbers(done.stdout)) == (0, list(range(20_000)))


# -- what goes there -----------------------------------------------------------------------------


def test_headers_and_texts_are_sent_with_each_connection(service: Any) -> None:
    def echo_twice(connection: Any) -> None:
        for _ in range(2):
            connection.send(connection.recv())
        cut(connection)

    server = service(echo_twice)
    given = ["--header", "X-One: a:b", "--header", "X-Two:2", "--send", '"hi"', "--send", "[2]"]
    done = run(server.ws_url, *given, "--count", "4")
    assert (done.returncode, done.stdout) == (0, '"hi"\n[2]\n' * 2)
    assert len(server.handshakes) == 2
    for handshake in server.handshakes:
        assert (handshake.headers["x-one"], handshake.headers["x-two"]) == ("a:b", "2")
        assert "authorization" not in handshake.headers


def test_a_url_gets_a_token_only_when_it_is_told_so(service: Any) -> None:
    server = service(telling(1), tokens={TOKEN, "other"})
    assert run(server.ws_url, "--count", "1").returncode == 1
    named = run(server.ws_url, "--count", "1", "--token-env", "REASONING_LAYER_TOKEN")
    assert named.returncode == 0
    assert run(server.ws_url, "--count", "1", "--token-env", "MINE", MINE="other").returncode == 0
    sent = [handshake.headers.get("authorization") for handshake in server.handshakes]
    assert sent == [None, f"Bearer {TOKEN}", "Bearer other"]


@pytest.mark.parametrize("how", ["options", "variables"])
@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("agent", f"/api/v1/cognitive/agents/ws?agent_id={AGENT}&tenant_id={TENANT}"),
        ("session", f"/ws/oversight/{AGENT}?tenant_id={TENANT}"),
    ],
)
def test_agents_and_sessions_are_watched_with_the_token(
    service: Any, kind: str, path: str, how: str
) -> None:
    server = service(telling({"type": "heartbeat", "timestamp": "now", "more": 1}))
    if how == "options":
        where = ["--base-url", server.url, "--tenant-id", TENANT, "--header", "X-Own: 1"]
        done = run(kind, AGENT, *where, "--count", "1", REASONING_LAYER_URL="http://127.0.0.1:9")
    else:
        done = run(
            kind, AGENT, "--count", "1",
            REASONING_LAYER_URL=server.url, REASONING_LAYER_TENANT_ID=TENANT,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"type": "heartbeat", "timestamp": "now", "more": 1}
    (handshake,) = server.handshakes
    assert handshake.path == path
    assert handshake.headers["authorization"] == f"Bearer {TOKEN}"
    assert handshake.headers["x-tenant-id"] == TENANT
    assert ("x-own" in handshake.headers) == (how == "options")


def test_an_agent_may_have_a_token_of_another_name(service: Any) -> None:
    server = service(telling(1))
    where = ["--base-url", server.url, "--tenant-id", TENANT]
    run("agent", AGENT, *where, "--token-env", "MINE", "--count", "1", MINE="other")
    assert server.handshakes[0].headers["authorization"] == "Bearer other"


# -- connections that break ----------------------------------------------------------------------


def test_a_gap_is_told_where_it_is(websocket_peer: WebSocketPeer, fault_proxy: FaultProxy) -> None:
    with started(f"{fault_proxy.url}/ticks?series=gap&every=0.02") as process:
        before = [process.stdout.readline() for _ in range(3)]
        fault_proxy.reset()
        assert process.stderr.readline().startswith("disconnected: the connection was lost: ")
        assert process.stderr.readline() == "reconnecting, attempt 1\n"
        told = process.stderr.readline()
        assert told == "connected again; messages may have been missed\n"
        seen = numbers("".join(before))
        while len(seen) < 500 and seen[-1] - seen[max(len(seen) - 2, 0)] < 5:
            seen += numbers(process.stdout.readline())
    assert seen[-1] - seen[-2] >= 5  # what came meanwhile
    assert seen[:-1] == list(range(len(seen) - 1))


def test_attempts_are_counted_and_1_is_the_end(fault_proxy: FaultProxy) -> None:
    with started(f"{fault_proxy.url}/ticks", "--max-attempts", "2") as process:
        process.stdout.readline()
        fault_proxy.refuse()
        fault_proxy.reset()
        _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    lost, *attempts, error = err.splitlines()
    assert lost.startswith("disconnected: ")
    assert attempts == ["reconnecting, attempt 1", "reconnecting, attempt 2"]
    assert error.startswith("error: no connection after 2 attempts: cannot connect to ws://")


def test_silence_means_that_it_connects_again(service: Any) -> None:
    server = service(telling(1))
    done = run(server.ws_url, "--idle-timeout", "0.2", "--count", "2")
    assert (done.returncode, done.stdout) == (0, "1\n1\n")
    assert done.stderr.splitlines() == [
        "disconnected: no message for 0.2 s",
        "reconnecting, attempt 1",
        "connected again; messages may have been missed",
    ]


@pytest.mark.parametrize(
    ("code", "options", "expected"),
    [
        (1000, ["--max-attempts", "0"], 0),  # as it was asked for
        (1011, ["--max-attempts", "0"], 1),
        (1008, [], 1),
        (4001, [], 1),
    ],
)
def test_a_close_that_ends_it(
    websocket_peer: WebSocketPeer, code: int, options: list[str], expected: int
) -> None:
    done = run(f"{websocket_peer.ws_url}/close?after=2&code={code}&reason=why", *options)
    assert (done.returncode, numbers(done.stdout)) == (expected, [0, 1])
    told = f"the server has closed the connection: {code} 'why'"
    assert done.stderr.splitlines()[0] == f"disconnected: {told}"
    assert (f"{told}\n" in done.stderr.partition("error: ")[2]) == bool(expected)


# -- what cannot work ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing argument"),
        (["https://example.com"], "url must be a ws or wss URL, got 'https://example.com'"),
        (["x"], "url must be a ws or wss URL"),
        (["ws://me:hidden@x/"], "url must have no user, password"),
        ([NOBODY, AGENT], "only an agent and a session have an id"),
        (["agent"], "no agent: give its id"),
        (["session"], "no session: give its id"),
        (["agent", ""], "agent_id must be an id"),
        ([NOBODY, "--header", "hidden"], '--header must be "Name: value"'),
        ([NOBODY, "--header", ": hidden"], '--header must be "Name: value"'),
        ([NOBODY, "--header", "X: hid\x01den"], "the value of header X has characters"),
        ([NOBODY, "--token-env", "NOWHERE"], "no token: NOWHERE is not set"),
        ([NOBODY, "--json", "--raw"], "--json and --raw cannot go together"),
        ([NOBODY, "--count", "0"], "Invalid value for '--count'"),
        ([NOBODY, "--max-attempts", "-1"], "Invalid value for '--max-attempts'"),
        ([NOBODY, "--idle-timeout", "0"], "idle_timeout must be > 0 seconds"),
        ([NOBODY, "--idle-timeout", "nan"], "idle_timeout must be"),
    ],
)
def test_wrong_usage_is_said(arguments: list[str], said: str) -> None:
    where = {"REASONING_LAYER_URL": "http://127.0.0.1:9", "REASONING_LAYER_TENANT_ID": TENANT}
    done = run(*arguments, NO_COLOR="1", **where)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "hidden" not in done.stderr


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "no base_url: give it, or set REASONING_LAYER_URL"),
        ({"REASONING_LAYER_URL": "ftp://x"}, "REASONING_LAYER_URL must be an http or https URL"),
        ({"REASONING_LAYER_URL": "http://x"}, "no tenant_id: give it, or set REASONING_LAYER_TEN"),
    ],
)
def test_what_the_environment_lacks_is_said(variables: dict[str, str], said: str) -> None:
    done = run("agent", AGENT, **variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {said}")


def test_exit_1_when_nobody_answers() -> None:
    done = run(f"{NOBODY}?token=hidden")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: cannot connect to ws://127.0.0.1:9: connection refused\n"


def test_exit_1_when_the_service_refuses(service: Any) -> None:
    server = service(telling(1), tokens=set())
    done = run("agent", AGENT, "--base-url", server.url, "--tenant-id", TENANT)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: 401 Unauthorized: not with ***\n"


def test_exit_1_when_what_answers_is_no_websocket_server(fault_proxy: FaultProxy) -> None:
    fault_proxy.garbage(b"SSH-2.0-x\x1b]0;title\x07\r\n")
    done = run(f"{fault_proxy.url}/ticks")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "\x1b" not in done.stderr


def test_the_help_has_options_variables_and_exit_codes() -> None:
    done = run("--help", NO_COLOR="1", REASONING_LAYER_URL="http://shown-nowhere")
    words = " ".join(re.sub("[│╭╮╰╯─]", " ", done.stdout).split())
    assert done.returncode == 0
    options = ["base-url", "tenant-id", "token-env", "header", "send", "count", "idle-timeout"]
    for option in [*options, "max-attempts", "json", "raw"]:
        assert f"--{option}" in words
    assert "130 interrupted" in words
    assert "[env var: REASONING_LAYER_URL]" in words
    assert "[env var: REASONING_LAYER_TENANT_ID]" in words
    assert "shown-nowhere" not in words


def test_other_commands_do_not_load_it() -> None:
    code = "import sys, reasoning_sdk.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    loaded = set(done.stdout.decode().split())
    assert "reasoning_sdk.cli" in loaded
    mine = {f"reasoning_sdk.{name}" for name in ("cli_watch", "websocket", "reasoning_layer")}
    assert loaded & {*mine, "websocket"} == set()


# -- how it ends ---------------------------------------------------------------------------------


def test_ctrl_c_ends_it_at_once_with_a_tally(websocket_peer: WebSocketPeer) -> None:
    with started(f"{websocket_peer.ws_url}/count?n=3") as process:
        for _ in range(3):
            process.stdout.readline()
        interrupt(process.pid)
        began_at = time.monotonic()
        out, err = process.communicate(timeout=DEADLINE)
        assert time.monotonic() - began_at < 5.0
    assert (process.returncode, out) == (130, "")
    assert err == "\ninterrupted: received 3, reconnects 0, dropped 0\n"
    stats = websocket_peer.wait_until("/count", lambda stats: not stats.open)
    assert stats.close_code == 1000


def test_ctrl_c_does_not_wait_for_a_server_that_is_silent(fault_proxy: FaultProxy) -> None:
    with started(f"{fault_proxy.url}/count?n=1") as process:
        process.stdout.readline()
        fault_proxy.stall()
        interrupt(process.pid)
        began_at = time.monotonic()
        process.communicate(timeout=DEADLINE)
        assert time.monotonic() - began_at < 5.0
    assert process.returncode == 130


def test_ctrl_c_ends_the_wait_for_the_next_attempt(fault_proxy: FaultProxy) -> None:
    with started(f"{fault_proxy.url}/count?n=1") as process:
        process.stdout.readline()
        fault_proxy.refuse()
        fault_proxy.reset()
        while "attempt 2" not in process.stderr.readline():
            pass
        interrupt(process.pid)
        _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130
    assert err.endswith("interrupted: received 1, reconnects 0, dropped 0\n")


def test_ctrl_c_while_it_connects(fault_proxy: FaultProxy) -> None:
    fault_proxy.never_answer()
    with started(f"{fault_proxy.url}/ticks") as process:
        fault_proxy.wait_until(lambda: fault_proxy.requests)
        interrupt(process.pid)
        out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out, err) == (130, "", "\ninterrupted\n")


@pytest.mark.parametrize("how", ["--json", "--raw"])
def test_exit_141_without_a_traceback_when_nobody_reads_on(
    websocket_peer: WebSocketPeer, how: str
) -> None:
    with started(f"{websocket_peer.ws_url}/ticks?every=0.001", how) as process:
        assert numbers(process.stdout.readline()) == [0]
        process.stdout.close()
        assert process.wait(DEADLINE) == 141
        assert process.stderr.read() == ""
    stats = websocket_peer.wait_until("/ticks", lambda stats: not stats.open)
    assert stats.close_code == 1000


def test_head_1_gets_its_line(websocket_peer: WebSocketPeer) -> None:
    line = f'"$0" -m reasoning_sdk watch {websocket_peer.ws_url}/ticks | head -1'
    shell = ["sh", "-c", line, sys.executable]
    done = subprocess.run(shell, env=environment(), capture_output=True, timeout=DEADLINE)
    assert (done.stdout, done.stderr) == (b'{"n": 0}\n', b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has it")
@pytest.mark.parametrize("how", ["--json", "--raw"])
def test_exit_1_when_the_disk_is_full(websocket_peer: WebSocketPeer, how: str) -> None:
    line = f'"$0" -m reasoning_sdk watch {websocket_peer.ws_url}/ticks {how} >/dev/full'
    shell = ["sh", "-c", line, sys.executable]
    done = subprocess.run(shell, env=environment(), capture_output=True, timeout=DEADLINE)
    said = b"error: cannot write the output: no space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


# -- on a terminal -------------------------------------------------------------------------------


# Makes its standard input its controlling terminal, which sends the signal for a Ctrl-C.
CONTROLLED = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def on_terminal(
    *arguments: str,
    rows: int = 24,
    columns: int = 100,
    ctrl_c_at: str = "",
    when: Callable[[str], object] = lambda shown: None,
    **variables: str,
) -> tuple[int, str]:
    """Runs it on a pseudo-terminal: the exit code and what the terminal got.

    ``when`` is called with all that was shown, whenever there is more.
    """
    plain = environment(**variables)
    for name in ("COLUMNS", "LINES"):
        plain.pop(name, None)
    terminal, inside = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    with subprocess.Popen(
        [sys.executable, "-c", CONTROLLED, *command(*arguments)],
        stdin=inside,
        stdout=inside,
        stderr=inside,
        env=plain,
        start_new_session=True,
    ) as process:
        os.close(inside)
        shown, deadline = b"", time.monotonic() + DEADLINE
        try:
            while select.select([terminal], [], [], max(deadline - time.monotonic(), 0))[0]:
                try:
                    data = os.read(terminal, 65536)
                except OSError:  # how Linux says that nobody has the other side open
                    break
                shown += data
                when(shown.decode(errors="replace"))
                if ctrl_c_at and ctrl_c_at.encode() in shown:
                    ctrl_c_at = ""
                    wait_until_it_waits(process.pid)
                    os.write(terminal, b"\x03")
            code = process.wait(max(deadline - time.monotonic(), 0.1))
        finally:
            os.close(terminal)
            process.kill()
    text = shown.decode()
    assert TOKEN not in text
    assert "Traceback" not in text
    return code, text


def last_panel(shown: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown[shown.rindex("╭") :])


EVENTS = [
    {"type": "connected", "agent_id": AGENT, "timestamp": "2026-01-01T00:00:00Z"},
    {"type": "kb_change", "change_type": "updated", "sort": "[red]person[/red]", "term_id": "t"},
    {"type": "cycle_complete", "pending_reviews": ["a", {"b": None}], "beliefs_updated": 3},
    {"type": 7, "x": 1},
    [1, 2],
]


def test_a_terminal_gets_a_table_that_stays(service: Any) -> None:
    server = service(telling(*EVENTS, "no JSON", {"type": "last"}))
    where = ["--base-url", server.url, "--tenant-id", TENANT]
    code, shown = on_terminal("agent", AGENT, *where, "--count", "6")
    assert code == 0
    end = last_panel(shown)
    assert "OPEN · received 7 · reconnects 0 · queued 0" in end
    assert f"agent {AGENT}" in end
    words = " ".join(end.replace("│", " ").split())
    assert re.search(rf"\d\d:\d\d:\d\d connected agent_id={AGENT} timestamp=2026", words)
    assert "kb_change change_type=updated sort=[red]person[/red] term_id=t" in words
    assert 'cycle_complete pending_reviews=["a",{"b":null}] beliefs_updated=3' in words
    assert "type=7 x=1" in words
    assert "[1, 2]" in words
    assert "not JSON no JSON" in words
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") > 0  # the cursor is back


def test_a_terminal_shows_that_a_connection_was_lost(fault_proxy: FaultProxy) -> None:
    pending = [fault_proxy.reset]

    def break_once(shown: str) -> None:
        if "n=3" in shown and pending:
            pending.pop()()

    url = f"{fault_proxy.url}/ticks?every=0.1&series=a&token=hidden"
    code, shown = on_terminal(url, when=break_once, ctrl_c_at="reconnects 1", rows=40)
    assert code == 130
    end = last_panel(shown)
    for text in ("disconnected", "the connection was lost", "reconnecting", "attempt 1"):
        assert text in end
    assert "connected again" in end
    assert "messages may have been missed" in end
    assert f" {fault_proxy.url}/ticks " in end
    assert "RECONNECTING" in shown
    assert "hidden" not in shown
    assert re.search(r"interrupted: received \d+, reconnects 1, dropped 0\r\n$", shown)


def test_more_than_there_is_room_for_leaves_the_newest(websocket_peer: WebSocketPeer) -> None:
    code, shown = on_terminal(f"{websocket_peer.ws_url}/count", "--count", "1000", rows=10)
    assert code == 0
    seen = [int(n) for n in re.findall(r"n=(\d+)", last_panel(shown))]
    assert seen == list(range(993, 1000))


def test_pings_tell_how_far_away_it_is(websocket_peer: WebSocketPeer) -> None:
    """The first ping comes after 5 seconds: so long nobody waits here."""
    from reasoning_sdk.cli_watch import ConnectionState, _LiveTable

    class Connection:
        state = ConnectionState.OPEN
        latency = 0.0123
        stats: Any = type("", (), {"received": 1, "reconnects": 2, "queued": 3, "dropped": 4})

    table = _LiveTable(Connection(), "x")  # type: ignore[arg-type]
    assert table._status() == "12.3 ms · received 1 · reconnects 2 · queued 3 · dropped 4"


@pytest.mark.parametrize(("rows", "columns"), [(3, 10), (1, 1), (2, 4)])
def test_a_tiny_window_is_no_reason_to_crash(
    websocket_peer: WebSocketPeer, rows: int, columns: int
) -> None:
    url = f"{websocket_peer.ws_url}/count"
    code, _ = on_terminal(url, "--count", "50", rows=rows, columns=columns)
    assert code == 0


@pytest.mark.parametrize("how", ["table", "--json", "--raw"])
def test_escapes_of_a_server_do_not_reach_the_terminal(service: Any, how: str) -> None:
    evil = "\x1b]0;title\x07 \x9b2J"
    inside = json.dumps({"type": evil, "x": evil, evil: [evil]}, ensure_ascii=False)
    inside = inside.replace("\x1b", "\\u001b").replace("\x07", "\\u0007")
    server = service(telling(evil, inside, '"\x9b"'))
    count = "3" if how == "--raw" else "2"
    options = [] if how == "table" else [how]
    code, shown = on_terminal(f"{server.ws_url}/{how}", *options, "--count", count, TERM="xterm")
    assert code == 0
    assert "title" in shown
    for escape in ("\x1b]0;", "\x07", "\x9b"):
        assert escape not in shown


@pytest.mark.parametrize("how", ["dumb", "--json"])
def test_a_terminal_that_cannot_or_shall_not_be_alive_gets_lines(
    websocket_peer: WebSocketPeer, how: str
) -> None:
    options = ["--json"] if how == "--json" else []
    term = "dumb" if how == "dumb" else "xterm-256color"
    url = f"{websocket_peer.ws_url}/ticks"
    code, shown = on_terminal(url, *options, "--count", "2", TERM=term)
    assert (code, shown) == (0, '{"n": 0}\r\n{"n": 1}\r\n')


def test_a_pipe_gets_lines_whatever_colors_are_forced(websocket_peer: WebSocketPeer) -> None:
    done = run(f"{websocket_peer.ws_url}/ticks", "--count", "1", FORCE_COLOR="1")
    assert done.stdout == '{"n": 0}\n'
