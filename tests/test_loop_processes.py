"""Response loops in real processes: Ctrl-C, exits, forks, gevent and servers."""

import contextlib
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import requests
import urllib3

from tests.support.model_server import Call, Hang, ModelServer, Say
from tests.support.programs import DEADLINE, Ended, Process, finish, started, wait_for_line
from tests.support.signals import interrupt

#: With urllib3-future, sockets of a session that nobody closes are left to the garbage collector.
WARNINGS = "ignore" if hasattr(urllib3, "AsyncPoolManager") else "default"

#: How soon a process ends, and how soon Ctrl-C comes through, on two busy cores.
PROMPTLY = 1.0


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server
    server.check()


def starting(text: str, model: ModelServer, **options: Any) -> AbstractContextManager[Process]:
    """Starts a program that has a model. It shows warnings of what it leaves open."""
    first = options.pop("first", "")
    return started(
        [sys.executable, "-c", f"{first}\nfrom looping import *\n{textwrap.dedent(text)}"],
        "",
        environment={
            "MODEL": model.url,
            "PYTHONWARNINGS": f"ignore::DeprecationWarning,{WARNINGS}::ResourceWarning",
            **options.pop("environment", {}),
        },
        **options,
    )


def run(text: str, model: ModelServer, **options: Any) -> Ended:
    """Runs a program until it ends."""
    with starting(text, model, **options) as process:
        return finish(process)


def check(done: Ended, code: int = 0, seconds: float = PROMPTLY) -> None:
    """It has ended as it should, has said nothing, and soon."""
    assert (done.code, done.err) == (code, ""), done.out + done.err
    assert done.seconds < seconds


def two_calls(*names: str) -> Say:
    return Call(*[(name, {"a": 1, "b": 2} if name == "add" else {}) for name in names])


def answering(body: dict[str, Any]) -> Say:
    """A model that has two numbers added, for as many as ask."""
    messages = body["messages"]
    if messages[-1]["role"] == "tool":
        return Say(f"{messages[0]['content']}: {messages[-1]['content']}")
    return two_calls("add", "add")


# -- Ctrl-C ----------------------------------------------------------------------------------------

#: What blocks, and the turns that it takes to come there.
BLOCKED: dict[str, tuple[str, list[Any]]] = {
    "model call": ("loop.run(GO)", [Hang()]),
    "model call, streamed": ("loop.run({**GO, 'stream': True})", [Hang(after=3)]),
    "tools": ("loop.run(GO)", [two_calls("hang", "hang")]),
    "tool": ("loop.run(GO)", [two_calls("hang")]),
    "stream, tools": ("for event in loop.stream(GO): pass", [two_calls("hang", "add")]),
    "stream": ("for event in loop.stream(GO): pass", [Hang(after=3)]),
    "stream, text": ("list(loop.stream(GO).text_deltas())", [Hang(after=3)]),
    "stream, until done": ("loop.stream(GO).until_done()", [Hang()]),
    "events of an answer": ("for piece in loop.sse(GO): pass", [Hang(after=3)]),
}


def wait_until_blocked(process: Process, model: ModelServer, turns: list[Any]) -> None:
    """Until the program waits for the model, or for a tool."""
    model.wait_for_requests(1, DEADLINE)
    if any(isinstance(turn, Say) for turn in turns):
        wait_for_line(process, "hangs")


each_blocked = pytest.mark.parametrize(("blocked", "turns"), BLOCKED.values(), ids=BLOCKED.keys())


@each_blocked
def test_ctrl_c_ends_what_blocks_at_once(
    model: ModelServer, blocked: str, turns: list[Any]
) -> None:
    model.then(*turns)
    with starting(
        f"""
        loop = make()
        try:
            {blocked}
        except KeyboardInterrupt:
            ends()
            loop.close()
            wait_until(lambda: loop.stats.running == 0)
            sys.exit(3)
        """,
        model,
    ) as process:
        wait_until_blocked(process, model, turns)
        interrupt(process.pid)
        check(finish(process), 3)
    model.http.wait_no_connections(DEADLINE)


@each_blocked
def test_ctrl_c_that_nobody_catches_ends_the_program(
    model: ModelServer, blocked: str, turns: list[Any]
) -> None:
    """With the traceback that Python shows, and no other."""
    model.then(*turns)
    with starting(
        f"import atexit; atexit.register(ends)\nloop = make()\n{blocked}", model
    ) as process:
        wait_until_blocked(process, model, turns)
        interrupt(process.pid)
        done = finish(process)
    assert done.code == -signal.SIGINT, done.err
    assert done.err.count("Traceback") == 1, done.err
    assert done.err.endswith("KeyboardInterrupt\n")
    assert "Exception ignored" not in done.err
    assert done.seconds < PROMPTLY


def test_after_ctrl_c_the_loop_goes_on(model: ModelServer) -> None:
    model.then(Hang(after=3), Say("Hello, world!"), Hang(), Say("Hello again!"))
    with starting(
        """
        loop = make()
        for call in (lambda: loop.stream(GO).until_done(), lambda: loop.run(GO)):
            try:
                call()
            except KeyboardInterrupt:
                say("interrupted", loop.stats.running)
            assert call()["status"] == "completed"
        wait_until(lambda: loop.stats.running == 0)
        say("stats", loop.stats.completed)
        ends()
        """,
        model,
    ) as process:
        model.wait_for_requests(1, DEADLINE)
        interrupt(process.pid)
        wait_for_line(process, "interrupted")
        model.wait_for_requests(3, DEADLINE)
        interrupt(process.pid)
        done = finish(process)
    check(done)
    assert done.said["stats"] == 2


@each_blocked
def test_a_signal_handler_may_cancel(model: ModelServer, blocked: str, turns: list[Any]) -> None:
    """In whatever code of ours the signal comes."""
    model.then(*turns)
    blocked = blocked.replace("run(GO)", "run(GO, cancel=cancel)")
    blocked = blocked.replace("True})", "True}, cancel=cancel)")
    with starting(
        f"""
        loop, cancel = make(), Cancellation()
        def stop(*_):
            cancel.cancel()
            loop.close()
        signal.signal(signal.SIGTERM, stop)
        try:
            {blocked}
        except LoopCanceledError:
            say("canceled", 1)
        ends()
        """,
        model,
    ) as process:
        wait_until_blocked(process, model, turns)
        process.send_signal(signal.SIGTERM)
        done = finish(process)
    check(done)
    if "sse" not in blocked:
        assert "canceled 1" in done.out


# -- exits -----------------------------------------------------------------------------------------

UNFINISHED: dict[str, tuple[str, list[Any]]] = {
    "stream": ("stream = loop.stream(GO); next(stream.text_deltas())", [Hang(after=3)]),
    "stream, unread": ("stream = loop.stream(GO)", [Hang(after=3)]),
    "stream, tools": (
        "stream = loop.stream(GO); [0 for e in stream if 'output' in e.data.get('item', '')][:0]",
        [two_calls("add"), Say("Done.")],
    ),
    "tools": (
        "stream = loop.stream(GO)\nwait_until(lambda: threading.active_count() > 3)",
        [two_calls("hang", "hang")],
    ),
    "thread": (
        (
            "threading.Thread(target=loop.run, args=(GO,), daemon=True).start()\n"
            "wait_until(lambda: loop.stats.running)"
        ),
        [Hang()],
    ),
    "answer": ("body = iter(loop.sse(GO)); next(body)", [Hang(after=3)]),
}


@pytest.mark.parametrize(("begun", "turns"), UNFINISHED.values(), ids=UNFINISHED.keys())
@pytest.mark.parametrize("end", ["", "sys.exit(3)", "1 / 0"], ids=["end", "exit", "error"])
def test_what_is_unfinished_does_not_hold_up_the_exit(
    model: ModelServer, begun: str, turns: list[Any], end: str
) -> None:
    model.then(*turns)
    done = run(f"loop = make()\n{begun}\nimport time; time.sleep(0.05)\nends()\n{end}", model)
    code, tracebacks = {"": (0, 0), "sys.exit(3)": (3, 0), "1 / 0": (1, 1)}[end]
    assert (done.code, done.err.count("Traceback")) == (code, tracebacks), done.err
    assert tracebacks or not done.err
    assert "Exception ignored" not in done.err
    assert "Fatal" not in done.err
    assert done.seconds < PROMPTLY


def test_a_loop_may_run_while_the_interpreter_ends(model: ModelServer) -> None:
    """No thread can be started any more then, from Python 3.12 on."""
    model.then(two_calls("add", "add"), Say("Done."), two_calls("add", "add"), Say("Done."))
    done = run(
        """
        import atexit
        loop = make()
        loop.run(GO)
        atexit.register(lambda: say("late", int(loop.run(GO)["status"] == "completed")))
        ends()
        """,
        model,
    )
    check(done)
    assert done.said["late"] == 1


# -- forks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("api", ["chat_completions", "responses"])
def test_a_child_of_a_fork_runs_loops_of_its_own(model: ModelServer, api: str) -> None:
    """With the loop of its parent, which has threads and a connection; and the parent goes on."""
    turns = [two_calls("add", "add"), Say("Done.")]
    model.then(*turns, *turns, *turns, *turns, *turns)
    done = run(
        """
        loop = make()
        def works():
            streamed = loop.stream(GO).until_done()
            assert streamed["status"] == "completed", streamed
            assert [i["output"] for i in streamed["output"] if "output" in i] == ["3", "3"]
        works()
        for end in (os._exit, sys.exit):
            pid = os.fork()
            if not pid:
                works()
                end(0)
            assert os.waitpid(pid, 0)[1] == 0
            works()
        ends()
        """,
        model,
        environment={"API": api},
    )
    check(done)


def test_a_fork_in_the_middle_of_a_stream_disturbs_nobody(model: ModelServer) -> None:
    model.then(Say("Hello, world!", gate="held"), *[Say("Hello from below!")] * 8)
    with starting(
        """
        loop = make()
        stream = loop.stream(GO)
        begun = next(stream.text_deltas())
        children = []
        for number in range(8):
            pid = os.fork()
            if not pid:
                assert loop.run(GO)["status"] == "completed"
                (sys.exit if number % 2 else os._exit)(0)
            children.append(pid)
        for pid in children:
            assert os.waitpid(pid, 0)[1] == 0
        say("forked")
        assert stream.until_done()["status"] == "completed"
        assert stream.text == "Hello, world!"
        ends()
        """,
        model,
    ) as process:
        wait_for_line(process, "forked")
        model.open("held")
        check(finish(process))


def test_a_child_does_not_wait_for_a_stream_of_its_parent(model: ModelServer) -> None:
    """And its runs are its own: one of the same id is not under way there."""
    model.then(Say("Hello, world!", gate="held"), Say("Hello from below!"))
    with starting(
        """
        from reasoning_sdk import StateError
        loop = make()
        stream = loop.stream(GO, request_id="r")
        next(stream.text_deltas())
        pid = os.fork()
        if not pid:
            signal.alarm(10)
            try:
                stream.until_done()
            except StateError as exc:
                say("told:", exc)
            assert loop.run(GO, request_id="r")["status"] == "completed"
            assert loop.stats.running == 0
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert loop.stats.running == 1
        say("forked")
        assert stream.until_done()["status"] == "completed"
        assert stream.text == "Hello, world!"
        ends()
        """,
        model,
    ) as process:
        wait_for_line(process, "told: the response is carried out by the process that was forked")
        wait_for_line(process, "forked")
        model.open("held")
        check(finish(process))


def test_a_tool_may_fork() -> None:
    with ModelServer(answering) as shared:
        done = run(
            """
            def forking(a: int, b: int) -> int:
                "Add two numbers."
                pid = os.fork()
                if not pid:
                    os._exit(make().run(GO)["status"] != "completed")
                return os.waitpid(pid, 0)[1] + a + b
            forking.__name__ = "add"
            response = make(forking).run(GO)
            assert [i["output"] for i in response["output"] if "output" in i] == ["3", "3"]
            ends()
            """,
            shared,
        )
    check(done)


@pytest.mark.parametrize("kind", ["process", "pool"])
def test_children_of_multiprocessing_run_loops(kind: str) -> None:
    with ModelServer(answering) as shared:
        done = run(
            f"""
            import multiprocessing
            context = multiprocessing.get_context("fork")
            loop = make()
            def work(n):
                response = loop.run({{**GO, "input": str(n)}})
                return response["output"][-1]["content"][0]["text"] == f"{{n}}: 3"
            assert work(0)
            if {kind == "process"}:
                children = [context.Process(target=work, args=(n,)) for n in (5, 6)]
                for child in children:
                    child.start()
                for child in children:
                    child.join()
                    assert child.exitcode == 0
            else:
                with context.Pool(2) as pool:
                    assert pool.map(work, range(6), chunksize=1) == [True] * 6
                    pool.close()
                    pool.join()
            assert work(7)
            ends()
            """,
            shared,
        )
    check(done)


# -- gevent ----------------------------------------------------------------------------------------

PATCHED = "from gevent import monkey; monkey.patch_all()"


@pytest.mark.parametrize("when", ["first", "last"])
def test_gevent(when: str) -> None:
    """Greenlets run loops side by side, and none keeps the others from their work."""
    with ModelServer(answering) as shared:
        done = run(
            f"""
            {PATCHED if when == "last" else ""}
            import gevent
            both = []
            def slowly(a: int, b: int) -> int:
                "Add two numbers."
                both.append(a)
                deadline = time.monotonic() + 5
                while len(both) < 2 and time.monotonic() < deadline:
                    time.sleep(0.002)
                return a + b
            slowly.__name__ = "add"
            loop = make(slowly)
            ticks = []
            def tick():
                while True:
                    ticks.append(gevent.sleep(0.001))
            ticking = gevent.spawn(tick)
            response = loop.run(GO)
            assert [i["output"] for i in response["output"] if "output" in i] == ["3", "3"]
            assert len(ticks) > 2, len(ticks)

            def talk(n):
                stream = loop.stream({{**GO, "input": str(n)}})
                assert "".join(stream.text_deltas()) == f"{{n}}: 3"
            greenlets = [gevent.spawn(talk, n) for n in range(10)]
            gevent.joinall(greenlets, raise_error=True)
            ticking.kill()
            loop.close()
            ends()
            """,
            shared,
            first=PATCHED if when == "first" else "",
        )
    assert (done.code, done.err.count("Traceback")) == (0, 0), done.err  # gevent itself warns
    assert done.seconds < PROMPTLY


def test_a_stream_of_a_greenlet_may_be_killed_and_the_loop_goes_on(model: ModelServer) -> None:
    model.then(Hang(after=3), Say("Hello, world!"))
    done = run(
        """
        import gevent
        loop = make()
        def read():
            with loop.stream(GO) as stream:
                stream.until_done()
        reading = gevent.spawn(read)
        gevent.sleep(0.2)
        reading.kill(timeout=5)
        wait_until(lambda: loop.stats.running == 0)
        assert loop.stats.failed == 1
        assert loop.stream(GO).until_done()["status"] == "completed"
        ends()
        """,
        model,
        first=PATCHED,
    )
    assert (done.code, done.err.count("Traceback")) == (0, 0), done.err
    assert done.seconds < PROMPTLY


# -- gunicorn --------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(kind: str, tmp_path: Path, *options: str) -> Iterator[tuple[Process, str]]:
    """gunicorn, with two workers that run tests/programs/answering.py."""
    command = [sys.executable, "-m", "gunicorn", "--bind=127.0.0.1:0", "--workers=2"]
    command += [f"--worker-class={kind}", f"--worker-tmp-dir={tmp_path}", *options]
    command += ["--config=python:gunicorn_settings", "--no-control-socket", "answering:flask_app"]
    with started(command, "", stderr=subprocess.STDOUT, cwd=tmp_path) as process:
        address = re.search(r"127\.0\.0\.1:\d+", wait_for_line(process, "Listening at"))
        assert address is not None
        for _ in range(2):
            wait_for_line(process, "Worker is ready")
        yield process, f"http://{address[0]}"


def ask(url: str, model: ModelServer, question: str) -> str:
    """What a server answers, in a stream, from its first line to its last."""
    body = {"model": "m", "input": question, "stream": True}
    with requests.Session() as session:
        session.trust_env = False
        headers = {"Model": model.url, "Connection": "close"}
        answer = session.post(f"{url}/v1/responses", json=body, headers=headers, timeout=DEADLINE)
        return answer.content.decode()


@pytest.mark.parametrize("preload", [True, False], ids=["preload", "no preload"])
@pytest.mark.parametrize("kind", ["sync", "gthread", "gevent"])
def test_gunicorn_streams(kind: str, preload: bool, tmp_path: Path) -> None:
    options = [*["--threads=4"] * (kind == "gthread"), *["--preload"] * preload]
    with ModelServer(answering) as shared, serving(kind, tmp_path, *options) as (process, url):
        with ThreadPoolExecutor(8) as pool:
            told = list(pool.map(lambda n: ask(url, shared, f"q{n}"), range(16)))
        for n, text in enumerate(told):
            assert text.replace(": keep-alive\n", "").startswith("event: response.created\nid: 0\n")
            assert text.count("event: response.completed\n") == 1
            assert f'"text":"q{n}: 3"' in text
        process.send_signal(signal.SIGTERM)
        done = finish(process)
    assert (done.code, done.out.count("Traceback")) == (0, 0), done.out


@contextlib.contextmanager
def reading(url: str, model: ModelServer) -> Iterator[None]:
    """Somebody who has read the first text of an answer, and leaves."""
    body = {"model": "m", "input": "go", "stream": True}
    with requests.Session() as session:
        session.trust_env = False
        options: dict[str, Any] = {"headers": {"Model": model.url}, "timeout": DEADLINE}
        with session.post(f"{url}/v1/responses", json=body, stream=True, **options) as answer:
            assert any(b"output_text.delta" in line for line in answer.iter_lines())
            yield


@pytest.mark.parametrize("kind", ["sync", "gthread", "gevent"])
def test_gunicorn_cancels_when_a_client_goes_away(
    model: ModelServer, kind: str, tmp_path: Path
) -> None:
    model.then(Hang(after=3), Say("Hello, world!"))
    options = ["--threads=4"] if kind == "gthread" else []
    with serving(kind, tmp_path, *options) as (process, url):
        with reading(url, model):
            pass
        model.http.wait_no_connections(DEADLINE)
        assert "response.completed" in ask(url, model, "again")
        process.send_signal(signal.SIGTERM)
        done = finish(process)
    assert (done.code, done.out.count("Traceback")) == (0, 0), done.out


@pytest.mark.parametrize("kind", ["gthread", "gevent"])
def test_gunicorn_ends_while_a_response_is_under_way(
    model: ModelServer, kind: str, tmp_path: Path
) -> None:
    """After the time that it gives to what is under way."""
    model.then(Hang(after=3))
    with (
        serving(kind, tmp_path, "--graceful-timeout=1") as (process, url),
        reading(url, model),
    ):
        process.send_signal(signal.SIGTERM)
        done = finish(process, 10)
    assert done.code == 0, done.out
    model.http.wait_no_connections(DEADLINE)
