"""What becomes of a viewer's events when the process ends, in real processes."""

import contextlib
import os
import random
import signal
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.counting import CountingServer, blackhole
from tests.support.programs import finish, python, run, started, wait_for_line

pytestmark = pytest.mark.http

SEND_20 = "viewer = ViewerClient(); send(viewer, 'run', 20)\n"
ALL_20 = [("run", n) for n in range(20)]


@pytest.fixture
def server() -> Iterator[CountingServer]:
    with CountingServer() as server:
        yield server


# -- a program comes to its end --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "code", "tracebacks"),
    [
        ("", 0, 0),
        ("import sys; sys.exit(3)", 3, 0),
        ("import sys, threading; threading.Thread(target=sys.exit, args=(3,)).start()", 0, 0),
        ("1 / 0", 1, 1),
        ("import threading; threading.Thread(target=lambda: 1 / 0).start()", 0, 1),
        ("viewer.close(); ends()", 0, 0),
        ("with viewer: 1 / 0", 1, 1),
        ("del viewer; import gc; gc.collect()", 0, 0),
    ],
    ids=["end", "exit", "exit in thread", "error", "thread's error", "close", "with", "deleted"],
)
def test_what_was_sent_arrives(
    server: CountingServer, end: str, code: int, tracebacks: int
) -> None:
    done = run(python(f"{SEND_20}ends()\n{end}"), server.url)
    assert (done.code, done.err.count("Traceback")) == (code, tracebacks), done.err
    assert server.events == ALL_20
    assert server.repeated() == {}
    assert done.seconds < 2.0


SENDERS = {
    "atexit": "atexit.register(send, viewer, 'last', 5)",
    "atexit, on its own": "atexit.register(lambda: send(ViewerClient(), 'last', 5))",
    "finalize": "import weakref; weakref.finalize(viewer, print); "
    "weakref.finalize(os, send, viewer, 'last', 5)",
    "thread": "threading.Thread(target=lambda: (time.sleep(0.1), send(viewer, 'last', 5))).start()",
}


@pytest.mark.parametrize("sender", SENDERS.values(), ids=SENDERS.keys())
def test_what_is_sent_late_arrives(server: CountingServer, sender: str) -> None:
    """Once the handlers of ours have run nothing is promised; they run after later ones."""
    done = run(python(f"import atexit, threading\n{SEND_20}{sender}\nends()"), server.url)
    assert (done.code, done.err) == (0, "")
    assert server.numbers("run") == list(range(20))
    assert server.numbers("last") == list(range(5))
    assert server.repeated() == {}
    assert done.seconds < 2.0


TOO_LATE = {
    "atexit": "import atexit; atexit.register(lambda: late())",
    "finalize": "import weakref\nclass A: pass\na = A(); weakref.finalize(a, lambda: late())",
    "finaliser": "class A:\n    def __del__(self): late()\na = A()",
}


@pytest.mark.parametrize("sender", TOO_LATE.values(), ids=TOO_LATE.keys())
@pytest.mark.parametrize("before", [20, 0], ids=["others before", "none before"])
def test_what_is_sent_too_late_does_no_harm(
    server: CountingServer, sender: str, before: int
) -> None:
    program = f"""
from sending import *
viewer = ViewerClient()
def late(viewer=viewer, send=send): send(viewer, 'last', 5)
send(viewer, 'run', {before})
ends()
"""
    done = run([sys.executable, "-c", f"{sender}\n{program}"], server.url)
    assert (done.code, done.err.count("Traceback")) == (0, 0), done.err
    assert server.numbers("run") == list(range(before))
    assert server.repeated() == {}
    assert done.seconds < 3.0


def test_a_daemon_thread_that_goes_on_sending_does_no_harm(server: CountingServer) -> None:
    program = """
        import threading
        viewer = ViewerClient(exit_timeout=1.0, max_queue=100)
        def sending():
            n = 0
            while True:
                n += send(viewer, 'daemon', 1, n)
        send(viewer, 'run', 20)
        for _ in range(2):
            threading.Thread(target=sending, daemon=True).start()
        viewer.flush()
        ends()
    """
    done = run(python(program), server.url)
    assert (done.code, done.err.count("Traceback")) == (0, 0), done.err
    assert server.numbers("run") == list(range(20))
    assert done.seconds < 2.5


# -- a signal --------------------------------------------------------------------------------------

LOOP = """
import signal, sys
def stop(signum, frame):
    {handler}
for which in (signal.SIGTERM, signal.SIGINT):
    signal.signal(which, stop)
viewer, n = ViewerClient(max_queue=200), 0
try:
    print("ready", 1)
    while True:
        if viewer.send_agent_completion_continue({{"id": "run", "n": n}}):
            n += 1
        else:
            viewer.flush(0.005)
except KeyboardInterrupt:
    sys.exit(130)
finally:
    print("accepted", n)
    ends()
"""


def check_loop(server: CountingServer, code: int, out: str, err: str) -> None:
    accepted = int(out.split()[out.split().index("accepted") + 1])
    assert "Traceback" not in err, err
    assert code in (0, 130)
    assert server.repeated() == {}
    numbers = server.numbers("run")
    # One may have been accepted whose sender was not told any more.
    assert numbers in (list(range(accepted)), list(range(accepted + 1)))


@pytest.mark.parametrize(
    "handler",
    [
        "sys.exit()",
        "viewer.close(); sys.exit()",
        "raise KeyboardInterrupt",
        "send(viewer, 'h', 9); sys.exit()",
    ],
)
def test_sigterm_with_a_handler_loses_nothing(handler: str) -> None:
    with CountingServer() as server:
        with started(python(LOOP.format(handler=handler)), server.url) as process:
            server.wait_for(10)
            process.send_signal(signal.SIGTERM)
            done = finish(process)
        check_loop(server, done.code, done.out, done.err)
        assert done.seconds < 3.0


def test_ctrl_c_loses_nothing_at_any_moment() -> None:
    """Thirty times, in sixes."""
    moments, pause = random.Random(1), threading.Event()
    program = python(LOOP.format(handler="raise KeyboardInterrupt"))
    for _ in range(5):
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(CountingServer()) for _ in range(6)]
            processes = [stack.enter_context(started(program, s.url)) for s in servers]
            for process in processes:
                wait_for_line(process, "ready")
                pause.wait(moments.uniform(0.0, 0.05))
                process.send_signal(signal.SIGINT)
            for server, process in zip(servers, processes, strict=True):
                done = finish(process)
                check_loop(server, done.code, done.out, done.err)
                assert done.seconds < 5.0


# -- killed ----------------------------------------------------------------------------------------

KILLED = """
import signal
viewer = ViewerClient(spool={spool!r})
send(viewer, "run", 10)
print("flushed", int(viewer.flush(20)))
open({fifo!r}).close()
send(viewer, "run", 40, 10)
print("sent", 1)
{end}
"""
NEXT = """
viewer = ViewerClient(spool={spool!r})
print("flushed", int(viewer.flush(20)))
print("delivered", viewer.stats.delivered)
"""


@pytest.mark.parametrize("end", ["SIGTERM", "SIGKILL", "os._exit"])
@pytest.mark.parametrize("spooled", [True, False], ids=["spool", "no spool"])
def test_what_a_killed_process_has_left_is_sent_by_the_next_from_the_spool(
    server: CountingServer, tmp_path: Path, spooled: bool, end: str
) -> None:
    spool = str(tmp_path / "spool") if spooled else None
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    last = "os._exit(9)" if end == "os._exit" else "signal.pause()"
    killed = python(KILLED.format(spool=spool, fifo=fifo, end=last))
    with started(killed, server.url) as process:
        wait_for_line(process, "flushed 1")
        server.hold()
        open(fifo, "w").close()
        wait_for_line(process, "sent")
        if end != "os._exit":
            process.send_signal(signal.Signals[end])
        done = finish(process)
    assert done.code == (9 if end == "os._exit" else -signal.Signals[end])
    assert done.err == ""
    server.release()

    done = run(python(NEXT.format(spool=spool)), server.url)
    assert (done.code, done.err) == (0, "")
    assert done.said == {"flushed": 1, "delivered": 40 if spooled else 0}
    assert server.numbers("run") == list(range(50 if spooled else 10))
    assert server.repeated() == {}


def test_two_processes_that_begin_at_once_share_what_was_left(
    server: CountingServer, tmp_path: Path
) -> None:
    spool = str(tmp_path)
    server.hold()
    left = """
        for id in "abcd":  # each of them in a segment of its own
            if not os.fork():
                send(ViewerClient(spool={spool!r}), id, 25)
                os._exit(0)
            os.wait()
    """
    assert run(python(textwrap.dedent(left).format(spool=spool)), server.url).code == 0
    server.release()
    with (
        started(python(NEXT.format(spool=spool)), server.url) as one,
        started(python(NEXT.format(spool=spool)), server.url) as other,
    ):
        done = finish(one), finish(other)
    assert [(d.code, d.err) for d in done] == [(0, ""), (0, "")]
    assert sum(d.said["delivered"] for d in done) == 100
    assert sorted(server.events) == [(id, n) for id in "abcd" for n in range(25)]
    assert server.disordered() == []
    assert server.repeated() == {}


def test_what_is_left_is_sent_though_a_child_of_the_killed_process_lives(
    server: CountingServer, tmp_path: Path
) -> None:
    spool = str(tmp_path / "spool")
    server.refuse()  # connections would be the child's, too
    killed = f"""
        import logging, signal
        logging.disable()
        viewer = ViewerClient(spool={spool!r})
        send(viewer, "run", 20)
        if os.fork():
            os._exit(0)
        print("child", os.getpid())
        signal.pause()
    """
    with started(python(killed), server.url) as process:
        wait_for_line(process, "child")
        assert process.wait() == 0
        server.accept()
        done = run(python(NEXT.format(spool=spool)), server.url)
        assert done.said == {"flushed": 1, "delivered": 20}
    assert server.events == ALL_20
    assert server.repeated() == {}


# -- a server that does not answer -----------------------------------------------------------------


@pytest.fixture(params=["hangs", "refuses", "accepts nothing", "fails"])
def bad_url(request: pytest.FixtureRequest, server: CountingServer) -> Iterator[str]:
    with contextlib.ExitStack() as stack:
        url = server.url
        if request.param == "hangs":
            server.hold()
        elif request.param == "refuses":
            server.refuse()
        elif request.param == "fails":
            server.answer(503)
        else:
            url = stack.enter_context(blackhole())
        yield url


@pytest.mark.parametrize("seconds", [0, 0.5])
@pytest.mark.parametrize("begun", [True, False], ids=["while it sends", "at once"])
def test_the_exit_waits_so_long_for_a_server_and_no_longer(
    bad_url: str, seconds: float, begun: bool
) -> None:
    program = f"""
        viewer = ViewerClient(exit_timeout={seconds})
        send(viewer, "run", 5)
        if {begun}:
            viewer.flush(0.1)
        ends()
    """
    done = run(python(program), bad_url)
    assert done.code == 0
    assert "5 events were not delivered before the exit: lost" in done.err
    assert "Traceback" not in done.err
    assert seconds <= done.seconds < seconds + 1.0


def test_several_clients_share_the_time_of_the_exit(bad_url: str) -> None:
    program = """
        viewers = [ViewerClient(exit_timeout=0.8) for _ in range(4)]
        for viewer in viewers:
            send(viewer, "run", 5)
        ends()
    """
    done = run(python(program), bad_url)
    assert (done.code, done.err.count("Traceback")) == (0, 0)
    assert done.err.count("5 events were not delivered before the exit: lost") == 4
    assert 0.8 <= done.seconds < 1.8


def test_what_the_exit_cannot_deliver_stays_in_the_spool(
    bad_url: str, server: CountingServer, tmp_path: Path
) -> None:
    program = f"""
        viewer = ViewerClient(spool={str(tmp_path)!r}, exit_timeout=0.3)
        send(viewer, "run", 20)
        ends()
    """
    done = run(python(program), bad_url)
    assert "20 events were not delivered before the exit: kept for the next process" in done.err
    with CountingServer() as other:
        done = run(python(NEXT.format(spool=str(tmp_path))), other.url)
        assert (done.code, done.err, done.said) == (0, "", {"flushed": 1, "delivered": 20})
        assert other.events == ALL_20
        assert other.repeated() == {}
