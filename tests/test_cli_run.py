"""The command `run`: its steps as a tree, in this process, and as processes of their own."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from reasoning_sdk.cli import app
from reasoning_sdk.cli_run import Step, StepTree
from reasoning_sdk.events import LoopEvent, LoopEventKind
from reasoning_sdk.loop import LoopConfig, ResponseLoop, UpstreamTarget
from reasoning_sdk.sinks import CallbackSink
from reasoning_sdk.tools import AgentTools
from tests.support.model_server import Call, Cut, Hang, ModelServer, Refuse, Say, Turn, Usage
from tests.support.recordings import errored_response, failed_response
from tests.support.signals import interrupt
from tests.test_cli import (
    DEADLINE,
    KEY,
    command,
    environment,
    in_shell,
    on_terminal,
    started,
    without_escapes,
)
from tests.test_cli import run as run_process

Models = Callable[..., ModelServer]
NOBODY = "http://127.0.0.1:9/v1"
EVIL = "\x1b]0;title\x07 \x9b2J"

TOOLS = '''
"""Tools."""
import threading

from reasoning_sdk import AgentTools, FunctionTools
from reasoning_sdk.tools import Context

class Box:
    functions = FunctionTools()

@Box.functions.register
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b

def fail(why: str) -> str:
    """Fail."""
    raise ValueError(why)

def say(text: str) -> str:
    """Say it."""
    return text

def hang() -> None:
    """Never return."""
    print("hanging", flush=True)
    threading.Event().wait()

def shout() -> None:
    """Never be silent."""
    while True:
        print("shouting", flush=True)

def wait(context: Context) -> None:
    """Return when nobody waits."""
    context.request.cancellation.wait(30)

helper = AgentTools()
helper.register("helper", description="Helps.")
both = [add, fail]
everything = (Box.functions, fail, say, helper)
number, box, nothing = 3, Box(), []
'''


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A file of tools, under a name that no other test uses."""
    file = tmp_path / f"tools_{tmp_path.name.replace('-', '_')}.py"
    file.write_text(TOOLS)
    return file


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Result]]:
    """Runs the command in this process, in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name, value in {"OPENAI_API_KEY": KEY, "OPENAI_MODEL": "m", "COLUMNS": "100"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("FORCE_COLOR", raising=False)

    def invoke(*arguments: str | Path, stdin: str = "", **variables: str) -> Result:
        done = CliRunner().invoke(app, ["run", *map(str, arguments)], input=stdin, env=variables)
        assert KEY not in done.output
        assert done.exception is None or isinstance(done.exception, SystemExit)
        return done

    yield invoke
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def steps_told(done: Result) -> list[str]:
    """The lines on standard error, without the seconds."""
    return re.sub(r" \d+\.\d s", "", done.stderr).splitlines()


def with_helper(body: Any) -> Turn:
    """A model that asks an agent, which adds."""
    asked = next(m["content"] for m in body["messages"] if m["role"] == "user")
    answered = body["messages"][-1]["role"] == "tool"
    if asked == "sub":
        return Say("ten") if answered else Call(("add", {"a": 5, "b": 5}))
    return Say("It is ten.") if answered else Call(("helper", {"input": "sub"}), text="I ask.")


# -- what is asked, and what is answered ---------------------------------------------------------


def test_the_answer_goes_to_stdout_and_the_steps_to_stderr(
    model_server: Models, run: Any, tools: Path
) -> None:
    calls = Call(("add", {"a": 1, "b": 2}), ("fail", {"why": "so"}), text="Let me see.")
    model = model_server([calls, Say("3, 東京!")])
    options = ["--base-url", model.url, "--instructions", "Be.", "--model", "other"]
    done = run("--tools", f"{tools.stem}:both", *options, "1 + 2?")
    assert (done.exit_code, done.stdout) == (0, "Let me see.\n3, 東京!\n")
    first, *called, last = steps_told(done)
    assert (first, last) == ("✓ model call Let me see.", "✓ model call")
    assert set(called) == {
        '✓ add {"a":1,"b":2} → 3',
        '✗ fail {"why":"so"}: ValueError: so',
    }
    request = model.requests[0]
    assert (request.path, request.json()["model"]) == ("/v1/chat/completions", "other")
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.json()["messages"] == [
        {"role": "system", "content": "Be."},
        {"role": "user", "content": "1 + 2?"},
    ]
    assert [tool["function"]["name"] for tool in request.json()["tools"]] == ["add", "fail"]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("api", ["chat_completions", "responses"])
def test_both_dialects_are_spoken_streamed_or_not(
    model_server: Models, run: Any, tools: Path, api: str, stream: bool
) -> None:
    model = model_server([Call(("add", {"a": 1, "b": 2})), Say("3")])
    options = ["--api", api, *([] if stream else ["--no-stream"])]
    done = run("--tools", f"{tools.stem}:both", *options, "x", OPENAI_BASE_URL=model.url)
    assert (done.exit_code, done.stdout) == (0, "3\n")
    assert model.requests[0].path == "/v1/" + api.replace("_", "/")
    assert [body.get("stream", False) for body in model.bodies] == [stream, stream]


def test_standard_input_is_asked_and_no_tools_are_fine(model_server: Models, run: Any) -> None:
    model = model_server([Say("Hi\n")])
    done = run("--base-url", model.url, "-", stdin="two\nlines", OPENAI_API_KEY="")
    assert (done.exit_code, done.stdout, steps_told(done)) == (0, "Hi\n", ["✓ model call"])
    assert model.bodies[0]["messages"] == [{"role": "user", "content": "two\nlines"}]
    assert "Authorization" not in model.requests[0].headers


def test_a_refusal_is_told_as_one(model_server: Models, run: Any) -> None:
    model = model_server([Say(refusal="I will not.")])
    done = run("--base-url", model.url, "x")
    assert (done.exit_code, done.stdout) == (0, "refusal: I will not.\n")


@pytest.mark.parametrize("option", ["--agent-events", "--no-agent-events"])
def test_the_steps_of_agents_have_their_names(
    model_server: Models, run: Any, tools: Path, option: str
) -> None:
    model = model_server(with_helper)
    done = run("--tools", f"{tools.stem}:everything", "--base-url", model.url, option, "x")
    assert (done.exit_code, done.stdout) == (0, "I ask.\nIt is ten.\n")
    inner = [
        "✓ helper/model call",
        '✓ helper/add {"a":5,"b":5} → 10',
        "✓ helper/model call",
    ]
    assert steps_told(done) == [
        "✓ model call I ask.",
        *(inner if option == "--agent-events" else []),
        '✓ helper {"input":"sub"} → ten',
        "✓ model call",
    ]


def test_json_is_every_event_in_a_line(model_server: Models, run: Any, tools: Path) -> None:
    model = model_server(with_helper)
    done = run("--json", "--tools", f"{tools.stem}:everything", "--base-url", model.url, "x")
    assert (done.exit_code, done.stderr) == (0, "")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    numbers = [event["sequence_number"] for event in events]
    assert numbers == sorted(set(numbers))
    assert events[0]["type"] == "response.created"
    assert events[-1]["type"] == "response.completed"
    assert {event["agent"]["name"] for event in events if "agent" in event} == {"helper"}


def test_long_and_odd_results_are_short_lines(model_server: Models, run: Any, tools: Path) -> None:
    model = model_server([Call(("say", {"text": f"a\n{EVIL}" + "x" * 1000})), Say("y")])
    done = run("--tools", f"{tools.stem}:say", "--base-url", model.url, "x")
    line = steps_told(done)[1]
    assert "\x1b" not in line
    assert "\x9b" not in line
    arguments, _, result = line.partition(" → ")
    assert arguments.endswith("x…")
    assert result.startswith("a \ufffd]0;title\ufffd \ufffd2Jx")
    assert len(result) == 301


# -- tools ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "names"),
    [
        (["{name}:add"], ["add"]),
        (["{name}:Box.functions"], ["add"]),
        (["{file}:add"], ["add"]),
        (["{name}.py:both", "{name}:helper"], ["add", "fail", "helper"]),
        (["{name}:box.functions", "{file}:fail"], ["fail", "add"]),
        (["{name}:nothing"], []),
    ],
)
def test_tools_are_named_by_module_or_file_and_attribute(
    model_server: Models, run: Any, tools: Path, named: list[str], names: list[str]
) -> None:
    model = model_server([Say("x")])
    given = [part for one in named for part in ("--tools", one.format(name=tools.stem, file=tools))]
    assert run(*given, "--base-url", model.url, "x").exit_code == 0
    told = model.bodies[0].get("tools", [])
    assert [tool["function"]["name"] for tool in told] == names


def test_a_file_finds_what_is_beside_it(
    model_server: Models, run: Any, tools: Path, tmp_path: Path
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "beside_it.py").write_text("answer = 42")
    (inner / "my-tools.py").write_text(
        "import beside_it\ndef ask() -> int:\n    return beside_it.answer\n"
    )
    model = model_server([Call(("ask", {})), Say("x")])
    done = run("--tools", "inner/my-tools.py:ask", "--base-url", model.url, "x")
    assert steps_told(done)[1] == "✓ ask {} → 42"


MODULES = {
    "broken.py": "x = 1 +",
    "raises.py": "raise RuntimeError('first\\nlast \\x1b[2J')",
    "leaves.py": "import sys; sys.exit(7)",
    "wants.py": "import nowhere_at_all",
    "json.py": "x = print",
    "time.py": "x = print",
}


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("x", "--tools must be MODULE:ATTR, got 'x'"),
        (":x", "--tools must be MODULE:ATTR"),
        ("x:", "--tools must be MODULE:ATTR"),
        ("nowhere:x", "cannot import nowhere: ModuleNotFoundError: No module named 'nowhere'"),
        ("..x:x", "cannot import ..x: TypeError"),
        ("nowhere.py:x", "cannot import nowhere.py: no such file"),
        ("{name}:nope", "has no attribute 'nope'"),
        ("{name}:Box.nope", "--tools {name}:Box.nope: type object 'Box' has no attribute 'nope'"),
        ("{name}:a..b", "has no attribute 'a'"),
        ("broken:x", "cannot import broken: SyntaxError: invalid syntax (broken.py, line 1)"),
        ("raises:x", "cannot import raises: RuntimeError: first last \ufffd[2J"),
        ("leaves.py:x", "cannot import leaves.py: SystemExit: 7"),
        ("wants:x", "cannot import wants: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("json.py:x", "cannot import json.py: there is another json, "),
        ("time.py:x", "cannot import time.py: there is another time, of Python's"),
        ("{name}:number", "must be a function, a ToolExecutor, or a list of them, got a int"),
        ("{name}:Box", "or a list of them, got the class Box"),
        ("{name}:box", "or a list of them, got a Box"),
        ("{name}:threading", "or a list of them, got a module"),
        ("os:environ", "or a list of them, got a _Environ"),
        ("builtins:print", "tool 'print'"),
    ],
)
def test_what_is_no_tool_is_said(
    run: Any, tools: Path, tmp_path: Path, named: str, said: str
) -> None:
    for name, source in MODULES.items():
        (tmp_path / name).write_text(source)
    done = run("--tools", named.format(name=tools.stem), "--base-url", NOBODY, "x")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert said.format(name=tools.stem) in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_two_tools_of_one_name_are_refused(run: Any, tools: Path) -> None:
    given = ["--tools", f"{tools.stem}:add", "--tools", f"{tools.stem}:Box.functions"]
    done = run(*given, "--base-url", NOBODY, "x")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "error: tool 'add' is in both" in done.stderr


# -- exit codes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        ([], {}, "Missing argument"),
        (["x"], {"OPENAI_API_KEY": "", "OPENAI_BASE_URL": ""}, "error: no API key"),
        (["x"], {"OPENAI_MODEL": ""}, "error: no model: give --model, or set OPENAI_MODEL"),
        (["--base-url", "ftp://x", "x"], {}, "error: base_url must be an http or https URL"),
        (["x"], {"OPENAI_BASE_URL": "ftp://x"}, "error: OPENAI_BASE_URL must be an http or"),
        (["--base-url", f"{NOBODY}/responses", "x"], {}, "error: url must end in /v1"),
        (["--api", "soap", "x"], {}, "error: api must be 'chat_completions' or 'responses'"),
        (["--max-iterations", "0", "x"], {}, "Invalid value for '--max-iterations'"),
        (["--max-depth", "0", "x"], {}, "Invalid value for '--max-depth'"),
        (["--max-parallel-tools", "x", "x"], {}, "Invalid value for '--max-parallel-tools'"),
        (["--tool-timeout", "0", "x"], {}, "error: tool_timeout must be > 0 seconds"),
        (["--tool-timeout", "nan", "x"], {}, "error: tool_timeout must be > 0 seconds"),
    ],
)
def test_exit_2_when_it_is_used_wrongly(
    run: Any, arguments: list[str], variables: dict[str, str], said: str
) -> None:
    done = run(*arguments, **{"OPENAI_BASE_URL": NOBODY, "NO_COLOR": "1"} | variables)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr


def test_exit_1_when_nobody_answers(run: Any) -> None:
    done = run("--base-url", NOBODY, "x")
    assert (done.exit_code, done.stdout) == (1, "")
    refused = "cannot connect to http://127.0.0.1:9: connection refused"
    assert steps_told(done) == [f"✗ model call: {refused}", f"error: response failed: {refused}"]


def test_exit_1_when_the_service_refuses(model_server: Models, run: Any) -> None:
    body = {"error": {"code": "invalid_api_key", "message": "[red]no[/red] \x1b]0;t\x07"}}
    model = model_server([Refuse(401, body)])
    done = run("--base-url", model.url, "x")
    assert (done.exit_code, done.stdout) == (1, "")
    said = "error: response failed: invalid_api_key: [red]no[/red] \ufffd]0;t\ufffd"
    assert steps_told(done)[-1] == said


def broken(events: list[Any]) -> bytes:
    return b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events)


@pytest.mark.parametrize(
    ("options", "turns", "text", "said"),
    [
        ([], [Call(("add", {"a": 1, "b": 2})), Refuse(400)], "", "refused"),
        ([], [Cut(3, Say("Hello, world!"))], "Hello, w\n", "closed before its end"),
        (["--api", "responses"], [broken(failed_response())], "Hello, wor\n", "server_error"),
        (["--api", "responses"], [broken(errored_response())], "Hello, wor\n", "had an error"),
        ([], [Say("Hello", finish_reason="length")], "Hello\n", "incomplete: max_output_tokens"),
        (["--max-iterations", "1"], [Call(("add", {"a": 1, "b": 2}))], "", "after 1 iterations"),
        (
            ["--max-iterations", "2"],
            [Call(("add", {"a": 1, "b": 2}), text="A")],
            "A\n",
            "after 2 iterations",
        ),
    ],
    ids=["later", "cut", "failed", "error", "incomplete", "one", "two"],
)
def test_exit_3_with_the_text_so_far_when_the_response_does_not_complete(
    model_server: Models,
    run: Any,
    tools: Path,
    options: list[str],
    turns: list[Turn],
    text: str,
    said: str,
) -> None:
    model = model_server(turns)
    done = run("--tools", f"{tools.stem}:both", "--base-url", model.url, *options, "x")
    assert (done.exit_code, done.stdout) == (3, text)
    assert said in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_limits_reach_the_loop(model_server: Models, run: Any, tools: Path) -> None:
    model = model_server([Call(("wait", {}), ("helper", {"input": "x"})), Say("Done.")])
    limits = ["--tool-timeout", "0.05", "--max-depth", "1"]
    done = run("--tools", f"{tools.stem}:wait", "--tools", f"{tools.stem}:helper", *limits,
               "--base-url", model.url, "x")  # fmt: skip
    assert done.exit_code == 0
    assert set(steps_told(done)[1:-1]) == {
        "✗ wait {}: tool 'wait' took too long",
        '✗ helper {"input":"x"}: agents are nested more than 1 levels deep',
    }


def test_the_help_has_options_variables_and_exit_codes(run: Any) -> None:
    done = run("--help", NO_COLOR="1")
    words = " ".join(re.sub("[│╭╮╰╯─]", " ", done.stdout).split())
    limits = ["max-iterations", "max-depth", "max-parallel-tools", "tool-timeout"]
    for option in ["tools", "model", "base-url", "api", "instructions", *limits, "json"]:
        assert f"--{option}" in words
    for text in ("--no-stream", "--no-agent-events", "130 interrupted", "OPENAI_MODEL"):
        assert text in words


# -- as processes of their own -------------------------------------------------------------------


def test_ctrl_c_cancels_the_model_call(model_server: Models) -> None:
    model = model_server([Hang(2, Say("Hello, world!", pieces=1))])
    asked = command("run", "--model", "m", "--base-url", model.url, "x")
    with started(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.read(13) == b"Hello, world!"
        interrupt(process.pid)
        out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out, err) == (130, b"", b"\ninterrupted\n")
    model.http.wait_no_connections(DEADLINE)


@pytest.mark.parametrize("tool", ["hang", "shout"])
def test_ctrl_c_does_not_wait_for_a_tool_that_does_not_end(
    model_server: Models, tools: Path, tool: str
) -> None:
    model = model_server([Call((tool, {}))])
    asked = ["run", "--tools", f"{tools}:{tool}", "--model", "m", "--base-url", model.url, "x"]
    with started(command(*asked), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() in (b"hanging\n", b"shouting\n")
        began_at = time.monotonic()
        interrupt(process.pid)
        _, err = process.communicate(timeout=DEADLINE)
        assert time.monotonic() - began_at < 5.0
    assert (process.returncode, err.endswith(b"\ninterrupted\n")) == (130, True)


@pytest.mark.parametrize("tool", ["hang", "shout"])
def test_a_tool_that_does_not_end_does_not_keep_the_command(
    model_server: Models, tools: Path, tool: str
) -> None:
    model = model_server([Call((tool, {})), Say("It hangs.", pieces=1)])
    asked = ["--tools", f"{tools}:{tool}", "--tool-timeout", "0.1", "--base-url", model.url]
    done = run_process("run", *asked, "--model", "m", "x")
    assert done.returncode == 0
    assert f"✗ {tool}" in done.stderr
    assert "It hangs." in done.stdout


@pytest.mark.parametrize("how", [[], ["--json"]], ids=["text", "json"])
def test_exit_141_without_a_traceback_when_nobody_reads_on(
    model_server: Models, how: list[str]
) -> None:
    model = model_server([Say("word " * 100_000, pieces=100)])
    asked = command("run", *how, "--model", "m", "--base-url", model.url, "x")
    with started(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.read(4) in (b"word", b'{"ty')
        process.stdout.close()
        assert process.wait(DEADLINE) == 141
        assert process.stderr.read() == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has it")
def test_exit_1_when_the_disk_is_full(model_server: Models) -> None:
    model = model_server([Say("Hi")])
    done = in_shell(f"run --base-url {model.url} --model m x >/dev/full")
    said = b"error: cannot write the output: no space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_steps_that_cannot_be_told_stop_nobody(model_server: Models, redirection: str) -> None:
    model = model_server([Say("Hi")])
    done = in_shell(f"run --base-url {model.url} --model m x {redirection}")
    assert (done.returncode, done.stdout) == (0, b"Hi\n")


def test_what_the_output_cannot_take_does_not_stop_it(model_server: Models) -> None:
    model = model_server([Say("ü \U0001f338")])
    done = run_process(
        "run", "--base-url", model.url, "--model", "m", "x", PYTHONIOENCODING="ascii"
    )
    assert (done.returncode, done.stdout) == (0, "\\xfc \\U0001f338\n")


def test_other_commands_do_not_load_it() -> None:
    code = "import sys, reasoning_sdk.cli; print(*sys.modules)"
    env = environment()
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True)
    loaded = set(done.stdout.decode().split())
    assert "reasoning_sdk.cli" in loaded
    assert loaded & {f"reasoning_sdk.{name}" for name in ("cli_run", "loop", "tools")} == set()


# -- on a terminal -------------------------------------------------------------------------------


def the_end(shown: str) -> str:
    """What stays: all behind the lines that were drawn last and wiped away."""
    return without_escapes(shown[shown.rindex("\x1b[2K") :]).replace("\r\n", "\n")


def test_a_terminal_gets_a_tree_that_stays_and_the_answer(
    model_server: Models, tools: Path
) -> None:
    model = model_server(with_helper)
    asked = ["--tools", f"{tools}:everything", "--model", "[red]m", "--base-url", model.url, "x"]
    code, shown = on_terminal("run", *asked)
    assert code == 0
    assert re.sub(r"\d+\.\d s", "?", the_end(shown)).splitlines() == [
        "✓ [red]m ? 44 → 28 tokens",
        "├── ✓ model call ? I ask.",
        '│   └── ✓ helper ? {"input":"sub"} → ten',
        "│       ├── ✓ model call ?",
        '│       │   └── ✓ add ? {"a":5,"b":5} → 10',
        "│       └── ✓ model call ?",
        "└── ✓ model call ?",
        "It is ten.",
    ]
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") > 0  # the cursor is back


def test_a_terminal_shows_what_failed(model_server: Models, tools: Path) -> None:
    model = model_server([Call(("fail", {"why": EVIL}), text=EVIL), Say(EVIL)])
    asked = ["--tools", f"{tools}:fail", "--model", "m", "--base-url", model.url, "x"]
    code, shown = on_terminal("run", *asked, columns=200)
    assert code == 0
    end = the_end(shown)
    assert "✓ model call" in end
    assert "✗ fail" in end
    assert "ValueError: \ufffd]0;title\ufffd \ufffd2J" in end
    assert end.endswith("\n\ufffd]0;title\ufffd \ufffd2J\n")
    for escape in ("\x1b]0;", "\x07", "\x9b"):
        assert escape not in shown


def test_the_answer_grows_on_a_terminal_and_ctrl_c_leaves_it(model_server: Models) -> None:
    model = model_server([Hang(2, Say("Hello, world!", pieces=1))])
    code, shown = on_terminal("run", "--model", "m", "--base-url", model.url, "x", ctrl_c=True)
    assert code == 130
    lines = re.sub(r"\d+\.\d s", "?", the_end(shown)).splitlines()
    assert lines[:3] == ["- m ?", "└── - model call ?", "Hello, world!"]
    assert lines[-1] == "interrupted"
    assert any(frame in shown for frame in "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")
    model.http.wait_no_connections(DEADLINE)


def test_a_long_answer_is_whole_and_not_wrapped(model_server: Models) -> None:
    text = "".join(f"line {n} " + "x" * 100 + "\n" for n in range(50))
    model = model_server([Say(text)])
    code, shown = on_terminal("run", "--model", "m", "--base-url", model.url, "x", rows=10)
    assert code == 0
    assert the_end(shown).endswith(f"\n{text}\n")


@pytest.mark.parametrize(("rows", "columns"), [(3, 10), (1, 1), (2, 4)])
def test_a_tiny_window_is_no_reason_to_crash(
    model_server: Models, tools: Path, rows: int, columns: int
) -> None:
    model = model_server(with_helper)
    asked = ["--tools", f"{tools}:everything", "--model", "m", "--base-url", model.url, "x"]
    code, shown = on_terminal("run", *asked, rows=rows, columns=columns)
    assert code == 0
    assert the_end(shown).endswith("It is ten.\n")


def test_no_color_means_no_color(model_server: Models) -> None:
    model = model_server([Say("Hi")])
    asked = ["--model", "m", "--base-url", model.url, "x"]
    code, shown = on_terminal("run", *asked, NO_COLOR="1")
    assert code == 0
    assert re.findall(r"\x1b\[(?:3|4|9|10)\d[;\d]*m", shown) == []


def test_a_dumb_terminal_gets_plain_lines(model_server: Models) -> None:
    model = model_server([Say(f"Hi {EVIL}")])
    asked = ["--model", "m", "--base-url", model.url, "x"]
    code, shown = on_terminal("run", *asked, TERM="dumb")
    assert code == 0
    assert re.sub(r"\d+\.\d s", "?", shown) == (
        "Hi \ufffd]0;title\ufffd \ufffd2J\r\n✓ model call ?\r\n"
    )


def test_a_failure_on_a_terminal_is_said_behind_the_tree(model_server: Models) -> None:
    model = model_server([Refuse(400)])
    code, shown = on_terminal("run", "--model", "m", "--base-url", model.url, "x")
    assert code == 1
    assert re.sub(r"\d+\.\d s", "?", the_end(shown)).splitlines() == [
        "✗ m ?",
        "└── ✗ model call ?: refused",
        "error: response failed: refused: refused",
    ]


# -- the tree alone ------------------------------------------------------------------------------


def described(step: Step) -> Any:
    """A step as a value to compare with."""
    about = " ".join(filter(None, [step.name, step.state.value, step.outcome]))
    return {about: [described(child) for child in step.steps]} if step.steps else about


def tree_of(model: ModelServer, tools: list[Any], **config: Any) -> StepTree:
    """What comes of the events of a real response, of which each takes a second."""
    tree, now = StepTree("m", 0.0), iter(range(1, 1000))
    sink = CallbackSink(lambda event: tree.apply(event, next(now)))
    target = UpstreamTarget(model.url)
    with ResponseLoop(target, tools=tools, config=LoopConfig(agent_events=True, **config)) as loop:
        try:
            loop.run({"model": "m", "input": "x"}, sink=sink)
        except Exception:  # the events tell
            assert tree.response.state.is_terminal
    return tree


def add(a: int, b: int) -> int:
    """Add."""
    return a + b


def helpers() -> AgentTools:
    agents = AgentTools()
    agents.register("helper", description="Helps.")
    return agents


def test_the_tree_has_the_steps_of_agents_below_their_calls(model_server: Models) -> None:
    tree = tree_of(model_server(with_helper), [add, helpers()])
    assert described(tree.response) == {
        "m completed 44 → 28 tokens": [
            {
                "model call completed": [
                    {
                        "helper completed ten": [
                            {"model call completed": ["add completed 10"]},
                            "model call completed",
                        ]
                    }
                ]
            },
            "model call completed",
        ]
    }
    assert tree.answer == "It is ten."


def test_agents_side_by_side_have_their_own_steps(model_server: Models) -> None:
    def turn(body: Any) -> Turn:
        asked = next(m["content"] for m in body["messages"] if m["role"] == "user")
        if asked != "x":
            return Say(f"I am {asked}.")
        if body["messages"][-1]["role"] == "tool":
            return Say("All.")
        return Call(*(("helper", {"input": str(n)}) for n in range(4)))

    tree = tree_of(model_server(turn), [helpers()])
    calls = tree.response.steps[0].steps
    assert [call.outcome for call in calls] == [f"I am {n}." for n in range(4)]
    assert [call.steps[0].text for call in calls] == [f"I am {n}." for n in range(4)]
    assert {step.agents for call in calls for step in call.steps} == {("helper",)}


def test_agents_of_agents_are_nested(model_server: Models) -> None:
    def turn(body: Any) -> Turn:
        asked = next(m["content"] for m in body["messages"] if m["role"] == "user")
        if body["messages"][-1]["role"] == "tool" or asked == "xxx":
            return Say(asked)
        return Call(("helper", {"input": asked + "x"}, "the_same_id"))

    tree = tree_of(model_server(turn), [helpers()])
    (inner,) = tree.response.steps[0].steps[0].steps[0].steps
    assert described(inner) == {"helper completed xxx": ["model call completed"]}
    assert inner.steps[0].agents == ("helper", "helper")


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (1, {"m failed 11 → 7 tokens": [{"model call completed": ["add canceled"]}]}),
        (2, {"m failed 11 → 7 tokens": [{"model call completed": ["add completed 3"]}]}),
    ],
)
def test_what_a_limit_has_kept_from_being_done_is_not_shown_as_done(
    model_server: Models, limit: int, expected: Any
) -> None:
    model = model_server([Call(("add", {"a": 1, "b": 2}))])
    assert described(tree_of(model, [add], max_iterations=limit).response) == expected


def test_an_agent_that_reaches_a_limit_is_a_failed_call(model_server: Models) -> None:
    def turn(body: Any) -> Turn:
        asked = next(m["content"] for m in body["messages"] if m["role"] == "user")
        if asked == "sub":
            return Call(("add", {"a": 1, "b": 2}))
        return (
            Say("So be it.")
            if body["messages"][-1]["role"] == "tool"
            else Call(("helper", {"input": "sub"}))
        )

    tree = tree_of(model_server(turn), [add, helpers()], max_iterations=4)
    (call,) = tree.response.steps[0].steps
    assert described(call) == {
        "helper failed not complete after 4 iterations": [
            {"model call completed": ["add completed 3"]},
            {"model call completed": ["add completed 3"]},
        ]
    }


def test_an_agent_whose_model_fails_is_a_failed_call(model_server: Models) -> None:
    def turn(body: Any) -> Turn:
        asked = next(m["content"] for m in body["messages"] if m["role"] == "user")
        if asked == "sub":
            return Refuse(400)
        return (
            Say("So be it.")
            if body["messages"][-1]["role"] == "tool"
            else Call(("helper", {"input": "sub"}))
        )

    (call,) = tree_of(model_server(turn), [helpers()]).response.steps[0].steps
    assert call.outcome == "refused"


def test_a_call_that_was_cut_off_is_canceled(model_server: Models) -> None:
    model = model_server([Cut(3, Call(("add", {"a": 1, "b": 2})))])
    tree = tree_of(model, [add])
    (turn,) = tree.response.steps
    assert (turn.state.value, described(turn.steps[0])) == ("failed", "add canceled")


def test_steps_take_the_time_between_their_events(model_server: Models) -> None:
    model = model_server([Call(("add", {"a": 1, "b": 2})), Say("3", usage=Usage(1, 2))])
    tree = tree_of(model, [add])
    first, second = tree.response.steps
    (call,) = first.steps
    assert first.began_at == 0.0
    assert first.ended_at == call.began_at < call.ended_at == second.began_at
    assert second.ended_at == tree.response.ended_at
    assert call.seconds(1000.0) == call.ended_at - call.began_at


def test_a_tree_that_is_told_no_more_is_canceled_below_too() -> None:
    tree = StepTree("m", 0.0)
    item = {"type": "function_call", "id": "fc", "call_id": "c", "name": "add", "arguments": "{}"}
    output = {"type": "function_call_output", "id": "fco", "call_id": "c"}
    told = [
        (LoopEventKind.IN_PROGRESS, {}),
        (LoopEventKind.OUTPUT_ITEM_ADDED, {"item": item}),
        (LoopEventKind.OUTPUT_ITEM_DONE, {"item": item}),
        (LoopEventKind.OUTPUT_ITEM_ADDED, {"item": output}),
    ]
    for number, (kind, data) in enumerate(told):
        tree.apply(LoopEvent(number, kind, data), 1.0)
    tree.cancel(3.0)
    assert tree.apply(LoopEvent(9, LoopEventKind.OUTPUT_ITEM_DONE, {"item": item}), 4.0) == []
    assert described(tree.response) == {"m canceled": [{"model call completed": ["add canceled"]}]}
    assert tree.response.steps[0].steps[0].seconds(9.0) == 2.0
