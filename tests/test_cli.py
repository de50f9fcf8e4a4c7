"""The command line, as processes of their own."""

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
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support import recordings
from tests.support.llmock import LlmockServer
from tests.support.scripted import Handler, ScriptedServer, json_answer, silence, sse
from tests.support.signals import interrupt, wait_until_it_waits

PROJECT = Path(__file__).resolve().parents[1]
SCRIPT = Path(sys.executable).with_name("reasoning-sdk")
KEY = "sk-test-0123456789abcdef"
DEADLINE = 30.0

Scripted = Callable[..., ScriptedServer]
Process = subprocess.Popen[bytes]


def environment(**variables: str) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}
    # Nobody of the tests watches a terminal that is as wide as whoever runs them has it.
    plain |= {"COLUMNS": "100", "TERM": "xterm-256color", "PYTHONUNBUFFERED": ""}
    return {**plain, "OPENAI_API_KEY": KEY, **variables}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "reasoning_sdk", *arguments]


def run(
    *arguments: str, stdin: str | bytes = b"", **variables: str
) -> "subprocess.CompletedProcess[str]":
    given = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run(
        command(*arguments),
        input=given,
        env=environment(**variables),
        capture_output=True,
        timeout=DEADLINE,
    )
    shown = [output.decode() for output in (done.stdout, done.stderr)]
    assert KEY not in "".join(shown)
    assert "Traceback" not in shown[1]
    return subprocess.CompletedProcess(done.args, done.returncode, *shown)


def serving(scripted: Scripted, *handlers: Handler) -> str:
    return scripted(list(handlers)).base_url


# -- commands ----------------------------------------------------------------------------------


def test_demo_replays_a_recording_without_key_and_network() -> None:
    done = run("demo", OPENAI_API_KEY="")
    assert done.returncode == 0
    assert done.stdout.startswith("Server-sent events are a way for a server")
    assert done.stdout.endswith("and was shown at once.\n")
    assert done.stderr == ""


def test_demo_as_json_is_one_event_a_line() -> None:
    done = run("demo", "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["type"] == "response.completed"


@pytest.mark.http
@pytest.mark.parametrize("how", ["option", "variable"])
def test_demo_asks_the_server_that_is_named(llmock_server: LlmockServer, how: str) -> None:
    llmock_server.scenario([{"type": "reply", "text": "Asked and answered."}])
    url = llmock_server.base_url
    done = run("demo", "--base-url", url) if how == "option" else run("demo", OPENAI_BASE_URL=url)
    assert (done.returncode, done.stdout) == (0, "Asked and answered.\n")
    assert llmock_server.requests()[0]["model"] == "gpt-5-mini"
    llmock_server.assert_clean()


@pytest.mark.http
def test_stream_prints_the_answer_and_sends_what_was_given(scripted: Scripted) -> None:
    server = scripted(sse(recordings.text_response("Grüße, 東京!")))
    done = run(
        "stream", "--base-url", server.base_url, "--model", "m", "--instructions", "Be.", "Hi"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "Grüße, 東京!\n", "")
    (request,) = server.requests
    assert request.path == "/v1/responses"
    assert request.json() == {"model": "m", "input": "Hi", "instructions": "Be.", "stream": True}
    assert request.headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.http
def test_stream_asks_what_standard_input_says(scripted: Scripted) -> None:
    server = scripted(sse(recordings.text_response("Hi")))
    done = run("stream", "-", stdin="two\nlines", OPENAI_BASE_URL=server.base_url, OPENAI_MODEL="m")
    assert (done.returncode, done.stdout) == (0, "Hi\n")
    assert server.requests[0].json() == {"model": "m", "input": "two\nlines", "stream": True}


@pytest.mark.http
def test_standard_input_that_is_not_text_is_asked_as_far_as_it_is(scripted: Scripted) -> None:
    server = scripted(sse(recordings.text_response("Hi")))
    done = run("stream", "-", stdin=b"caf\xe9!", OPENAI_BASE_URL=server.base_url)
    assert done.returncode == 0
    assert server.requests[0].json()["input"] == "caf\ufffd!"


@pytest.mark.http
def test_stream_as_json_can_be_replayed(llmock_server: LlmockServer, tmp_path: Path) -> None:
    llmock_server.scenario([{"type": "reply", "text": "Record me, Zürich."}])
    done = run("stream", "--json", "--base-url", llmock_server.base_url, "Hi")
    assert done.returncode == 0
    recording = tmp_path / "recording.sse"
    recording.write_text("".join(f"data: {line}\n" for line in done.stdout.splitlines()))
    assert run("replay", str(recording)).stdout == "Record me, Zürich.\n"
    assert run("replay", str(recording), "--json").stdout == done.stdout


@pytest.mark.http
def test_a_server_of_ones_own_needs_no_key(scripted: Scripted) -> None:
    server = scripted(sse(recordings.text_response("Hi")))
    done = run("stream", "--base-url", server.base_url, "x", OPENAI_API_KEY="")
    assert (done.returncode, done.stdout) == (0, "Hi\n")
    assert "Authorization" not in server.requests[0].headers


def test_plain_text_has_calls_and_refusals_on_lines_of_their_own(tmp_path: Path) -> None:
    items = [
        recordings.reasoning(),
        recordings.message("Let me look."),
        recordings.function_call(),
        recordings.refusal(item_id="msg_2"),
    ]
    recording = tmp_path / "recording.sse"
    recording.write_text(recordings.to_fixture(recordings.response(items)))
    assert run("replay", str(recording)).stdout.splitlines() == [
        "reasoning: rs_1",
        "Let me look.",
        'function_call: get_weather({"city":"Zürich","unit":"celsius"})',
        "refusal: I cannot help with that.",
    ]


def test_text_that_comes_without_deltas_is_printed(tmp_path: Path) -> None:
    events = recordings.text_response("All at once.")
    recording = tmp_path / "recording.sse"
    recording.write_text(recordings.to_fixture([e for e in events if "delta" not in e]))
    assert run("replay", str(recording)).stdout == "All at once.\n"
    recording.write_text(recordings.to_fixture([events[0], events[-1]]))
    assert run("replay", str(recording)).stdout.strip() == "All at once."


def test_version_names_what_a_report_of_a_bug_needs() -> None:
    from reasoning_sdk import __version__

    done = run("version")
    assert done.returncode == 0
    assert done.stdout.startswith(f"reasoning_sdk {__version__}\nPython 3.")
    assert {"requests", "urllib3", "msgspec"} <= {
        line.split()[0] for line in done.stdout.splitlines()
    }


def test_the_script_is_the_module() -> None:
    done = subprocess.run(
        [SCRIPT, "version"], env=environment(), capture_output=True, timeout=DEADLINE
    )
    assert done.stdout.decode() == run("version").stdout


@pytest.mark.parametrize("name", [None, "demo", "stream", "replay", "version"])
def test_help(name: str | None) -> None:
    done = run(*filter(None, [name]), "--help", NO_COLOR="1")
    assert done.returncode == 0
    assert f"Usage: reasoning-sdk {name or '[OPTIONS] COMMAND'}" in done.stdout
    if name != "version":
        assert "130 interrupted" in " ".join(done.stdout.split())
    if name in ("demo", "stream"):
        assert {"--model", "--base-url", "--json"} <= set(done.stdout.split())
    if name is None:
        assert {"demo", "stream", "replay", "version"} <= set(done.stdout.split())


# -- exit codes --------------------------------------------------------------------------------


@pytest.mark.http
def test_exit_1_when_the_service_refuses(scripted: Scripted) -> None:
    def refuse(connection: object) -> None:
        sent = connection.request.headers["Authorization"]  # type: ignore[attr-defined]
        body = {"error": {"code": "invalid_api_key", "message": f"Incorrect key in {sent}"}}
        json_answer(401, body)(connection)  # type: ignore[arg-type]

    done = run("stream", "--base-url", serving(scripted, refuse), "x")
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: 401 Unauthorized: Incorrect key in" in done.stderr


def test_exit_1_when_nobody_answers() -> None:
    done = run("stream", "--base-url", "http://127.0.0.1:9/v1", "x", OPENAI_REQUEST_MAX_RETRIES="0")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: cannot connect to http://127.0.0.1:9: connection refused\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stream"], "Missing argument"),
        (["stream", "--no-such-option", "x"], "No such option"),
        (["nonsense"], "No such command"),
        (["stream", "--base-url", "ftp://x", "x"], "base_url must be an http or https URL"),
        (["replay", "/nowhere/at all.sse"], "no such file or directory"),
    ],
)
def test_exit_2_when_it_is_used_wrongly(arguments: list[str], said: str) -> None:
    done = run(*arguments, NO_COLOR="1")
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_exit_2_without_a_key_for_the_default_server() -> None:
    done = run("stream", "x", OPENAI_API_KEY="")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no API key")


@pytest.mark.http
@pytest.mark.parametrize(
    ("handler", "text", "said"),
    [
        (sse(recordings.cut_response()), "Hello, wor", "stream closed before response.completed"),
        (sse(recordings.failed_response()), "Hello, wor", "response failed: server_error: The mod"),
        (sse(recordings.errored_response()), "Hello, wor", "The server had an error."),
        (sse(recordings.incomplete_response()), "Hello, wor\n", "incomplete: max_output_tokens"),
        (silence(first=recordings.cut_response()), "Hello, wor", "no event for 0.2 seconds"),
    ],
    ids=["cut", "failed", "error", "incomplete", "idle"],
)
def test_exit_3_with_the_text_so_far_when_the_response_does_not_complete(
    scripted: Scripted, handler: Handler, text: str, said: str
) -> None:
    base_url = serving(scripted, handler)
    done = run("stream", "--base-url", base_url, "x", OPENAI_STREAM_IDLE_TIMEOUT_MS="200")
    assert (done.returncode, done.stdout) == (3, text)
    assert done.stderr.startswith("error: ")
    assert said in done.stderr


@contextlib.contextmanager
def started(arguments: Sequence[str], **options: object):  # type: ignore[no-untyped-def]
    process: Process = subprocess.Popen(arguments, env=environment(), **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.kill()
        process.wait(DEADLINE)
        for file in (process.stdin, process.stdout, process.stderr):
            if file is not None:
                file.close()


@pytest.mark.http
@pytest.mark.parametrize("begun", [False, True], ids=["before the headers", "in the stream"])
def test_exit_130_when_interrupted_while_nothing_comes(scripted: Scripted, begun: bool) -> None:
    first = recordings.cut_response() if begun else b""
    server = scripted(silence(headers=begun, first=first))
    with started(
        command("stream", "--base-url", server.base_url, "x"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        server.wait_for_requests(1, DEADLINE)
        if begun:
            assert process.stdout.read(10) == b"Hello, wor"
        interrupt(process.pid)
        out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out) == (130, b"")
    assert err.decode().split() == ["interrupted"]
    server.wait_no_connections(DEADLINE)


@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["text", "json"])
def test_exit_141_without_a_traceback_when_nobody_reads_on(
    as_json: list[str], tmp_path: Path
) -> None:
    recording = tmp_path / "recording.sse"  # larger than any pipe
    recording.write_text(recordings.to_fixture(recordings.text_response("word " * 200_000)))
    replay = command("replay", *as_json, str(recording))
    with started(replay, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        with subprocess.Popen(["head", "-c", "20"], stdin=process.stdout, stdout=-1) as head:
            process.stdout.close()
            assert len(head.communicate(timeout=DEADLINE)[0]) == 20
        process.stdout = None
        _, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, err) == (141, b"")


@pytest.mark.parametrize("name", ["demo", "version"])
def test_exit_141_when_nobody_reads_at_all(name: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with started(command(name), stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        _, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, err) == (141, b"")


# -- what a server says is shown, not obeyed ------------------------------------------------------


@pytest.mark.http
def test_markup_in_an_error_is_printed_as_it_is(scripted: Scripted) -> None:
    body = {"error": {"message": "[red]x[/red] [/foo] [link=http://x]y"}}
    done = run("stream", "--base-url", serving(scripted, json_answer(400, body)), "x")
    assert done.returncode == 1
    assert done.stderr == "error: 400 Bad Request: [red]x[/red] [/foo] [link=http://x]y\n"


@pytest.mark.http
def test_control_characters_in_an_error_do_not_reach_the_terminal(scripted: Scripted) -> None:
    body = {"error": {"message": "a \x1b]0;title\x07 b \x9b2J"}}
    done = run("stream", "--base-url", serving(scripted, json_answer(400, body)), "x")
    assert done.stderr == "error: 400 Bad Request: a \ufffd]0;title\ufffd b \ufffd2J\n"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_text_that_the_output_cannot_take_does_not_stop_it(tmp_path: Path, encoding: str) -> None:
    recording = tmp_path / "recording.sse"
    events = [json.dumps(event) for event in recordings.text_response("ü \ud800 \U0001f338.")]
    recording.write_text("".join(f"data: {event}\n" for event in events))
    plain = run("replay", str(recording), PYTHONIOENCODING=encoding)
    shown = "ü \\ud800 \U0001f338." if encoding == "utf-8" else "\\xfc \\ud800 \\U0001f338."
    assert (plain.returncode, plain.stdout) == (0, shown + "\n")
    lines = run("replay", str(recording), "--json", PYTHONIOENCODING=encoding).stdout.splitlines()
    assert [json.loads(line) for line in lines] == [json.loads(event) for event in events]


# -- a terminal --------------------------------------------------------------------------------


# Makes its standard input its controlling terminal, which sends the signal for a Ctrl-C.
CONTROLLED = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def on_terminal(
    *arguments: str, rows: int = 24, columns: int = 80, ctrl_c: bool = False, **variables: str
) -> tuple[int, str]:
    """Runs it on a pseudo-terminal: the exit code and what the terminal got."""
    plain = environment(**variables)
    del plain["COLUMNS"]
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
                if ctrl_c and b"Hello, wor" in shown:
                    ctrl_c = False
                    wait_until_it_waits(process.pid)
                    os.write(terminal, b"\x03")
            code = process.wait(max(deadline - time.monotonic(), 0.1))
        finally:
            os.close(terminal)
            process.kill()
    text = shown.decode()
    assert KEY not in text
    assert "Traceback" not in text
    return code, text


def without_escapes(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    items = [recordings.function_call(), recordings.message("Hello, [red]world[/red]! [/foo]")]
    events = recordings.response(items, response_id="resp_[/b]")
    path = tmp_path / "recording.sse"
    path.write_text(recordings.to_fixture(events))
    return path


def test_a_terminal_gets_a_panel_that_stays(recording: Path) -> None:
    code, shown = on_terminal("replay", str(recording))
    assert code == 0
    end = without_escapes(shown[shown.rindex("╭") :])
    assert "Hello, [red]world[/red]! [/foo]" in end
    assert 'function_call: get_weather({"city":"Zürich"' in end
    assert " resp_[/b] " in end
    assert "11 → 7 tokens" in end
    assert "\x1b[32m" in shown  # a border in green: it is complete
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") > 0  # the cursor is back


@pytest.mark.parametrize(("rows", "columns"), [(3, 10), (1, 1), (2, 4)])
def test_a_tiny_window_is_no_reason_to_crash(recording: Path, rows: int, columns: int) -> None:
    code, shown = on_terminal("replay", str(recording), rows=rows, columns=columns)
    assert code == 0
    if columns == 10:
        end = without_escapes(shown[shown.rindex("╭") :])
        assert "Hello,[red]world" in re.sub(r"[│\s]", "", end)


def test_no_color_means_no_color(recording: Path) -> None:
    code, shown = on_terminal("replay", str(recording), NO_COLOR="1")
    assert code == 0
    assert "Hello, [red]world[/red]! [/foo]" in shown
    assert re.findall(r"\x1b\[(?:3|4|9|10)\d[;\d]*m", shown) == []


def test_a_dumb_terminal_gets_plain_lines(recording: Path) -> None:
    code, shown = on_terminal("replay", str(recording), TERM="dumb")
    assert code == 0
    assert "\x1b" not in shown
    assert shown.endswith("Hello, [red]world[/red]! [/foo]\r\n")


def test_a_pipe_gets_plain_lines_whatever_colors_are_forced(recording: Path) -> None:
    done = run("replay", str(recording), FORCE_COLOR="1")
    assert "\x1b" not in done.stdout
    assert done.stdout.endswith("\nHello, [red]world[/red]! [/foo]\n")


def test_a_terminal_that_asks_for_json_gets_json(recording: Path) -> None:
    code, shown = on_terminal("replay", "--json", str(recording), columns=1000)
    assert code == 0
    assert json.loads(shown.strip().splitlines()[-1])["type"] == "response.completed"


def test_escapes_in_a_response_do_not_reach_the_terminal(tmp_path: Path) -> None:
    recording = tmp_path / "recording.sse"
    events = recordings.text_response("a \x1b]0;title\x07 b \x1b[2J c")
    recording.write_text("".join(f"data: {json.dumps(event)}\n" for event in events))
    _, shown = on_terminal("replay", str(recording))
    assert "\x1b]0;" not in shown
    assert "\x1b[2J" not in shown
    assert "a �]0;title� b �[2J c" in shown


@pytest.mark.http
def test_ctrl_c_on_a_terminal_leaves_the_text_so_far(scripted: Scripted) -> None:
    server = scripted(silence(first=recordings.cut_response()))
    code, shown = on_terminal("stream", "--base-url", server.base_url, "x", ctrl_c=True)
    assert code == 130
    assert "Hello, wor" in without_escapes(shown[shown.rindex("╭") :])
    assert "interrupted" in shown
    server.wait_no_connections(DEADLINE)


# -- the extra is missing ------------------------------------------------------------------------


HIDE = """
import sys

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name == {0!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hide())
"""


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_it_says_how_to_install_it(missing: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDE.format(missing))
    done = run("demo", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"the command line needs {missing}" in done.stderr
    assert "pip install 'reasoning_sdk[cli]'" in done.stderr


# -- standard streams that are closed, full or odd ------------------------------------------------


def in_shell(line: str, **variables: str) -> "subprocess.CompletedProcess[bytes]":
    """Run the command line with what a shell does to its streams."""
    shell = ["sh", "-c", f'"$0" -m reasoning_sdk {line}', sys.executable]
    env = environment(**variables)
    done = subprocess.run(shell, env=env, capture_output=True, timeout=DEADLINE)
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    return done


@pytest.mark.parametrize("name", ["version", "demo", "demo --json"])
def test_exit_1_when_standard_output_is_closed(name: str) -> None:
    done = in_shell(f"{name} >&-")
    assert (done.returncode, done.stderr) == (1, b"error: standard output is closed\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has it")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("name", ["version", "demo", "demo --json"])
def test_exit_1_when_the_disk_is_full(name: str, unbuffered: str) -> None:
    done = in_shell(f"{name} >/dev/full", PYTHONUNBUFFERED=unbuffered)
    said = b"error: cannot write the output: no space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.parametrize(
    ("redirection", "said"),
    [
        ("<&-", b"error: standard input is closed\n"),
        ("0>/dev/null", b"error: cannot read standard input: "),
    ],
)
def test_exit_2_when_standard_input_cannot_be_read(redirection: str, said: bytes) -> None:
    done = in_shell(f"stream - {redirection}", OPENAI_BASE_URL="http://127.0.0.1:9/v1")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(said)


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_the_exit_code_says_it_when_standard_error_cannot(redirection: str) -> None:
    done = in_shell(f"replay /nowhere {redirection}")
    assert (done.returncode, done.stdout) == (2, b"")
    assert in_shell(f"demo {redirection}").returncode == 0
    assert in_shell(f"demo >&- {redirection}").returncode == 1


def test_json_too_deep_to_be_written_is_said_in_a_line(tmp_path: Path) -> None:
    recording = tmp_path / "recording.sse"  # where reading ends and writing does differ a little
    deep = ("[" * depth + "]" * depth for depth in range(900, 1000))
    recording.write_text("".join(f'data: {{"type":"x","deep":{value}}}\n' for value in deep))
    done = run("replay", "--json", str(recording))
    assert done.stdout.startswith('{"type": "x", "deep": [[[')
    too_deep = "error: an event is nested too deeply to be written as JSON\n"
    cut = "error: stream closed before response.completed\n"
    assert (done.returncode, done.stderr) in [(1, too_deep), (3, cut)]  # Pythons differ


def test_a_variable_with_a_bad_url_is_named() -> None:
    done = run("stream", "x", OPENAI_BASE_URL="ftp://h")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: OPENAI_BASE_URL must be an http or https URL")
    done = run("stream", "x", "--base-url", "ftp://x", OPENAI_BASE_URL="ftp://h")
    assert done.stderr.startswith("error: base_url must be")
