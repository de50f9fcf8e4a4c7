"""WebSocketConnection in real processes: forks, exits, signals, servers, notebooks."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import requests
from jupyter_client.manager import KernelManager, start_new_kernel

import reasoning_sdk as r
from tests.support.fault_proxy import FaultProxy
from tests.support.programs import (
    DEADLINE,
    Ended,
    Process,
    finish,
    started,
    wait_for_line,
)
from tests.support.signals import interrupt, wait_until_it_waits
from tests.support.threads import InThread
from tests.support.websocket_peer import WebSocketPeer

#: How soon a process ends, and how soon Ctrl-C comes through, on two busy cores.
PROMPTLY, AT_ONCE = 1.0, 0.5


def starting(
    text: str,
    url: str,
    *,
    first: str = "",
    environment: dict[str, str] | None = None,
    **options: Any,
) -> AbstractContextManager[Process]:
    """Starts a program whose peer is at a URL. It shows warnings of what it leaves open."""
    return started(
        [sys.executable, "-c", f"{first}\nfrom connecting import *\n{textwrap.dedent(text)}"],
        "",
        environment={
            "PEER": url,
            "PYTHONWARNINGS": "ignore::DeprecationWarning,default::ResourceWarning",
            **(environment or {}),
        },
        **options,
    )


def run(text: str, url: str, **options: Any) -> Ended:
    """Runs a program until it ends."""
    with starting(text, url, **options) as process:
        return finish(process)


def check(done: Ended, code: int = 0, seconds: float = PROMPTLY) -> None:
    """It has ended as it should, has said nothing, and soon."""
    assert (done.code, done.err) == (code, ""), done.out
    assert done.seconds < seconds


def go(process: Process) -> None:
    """Lets a program go on that waits for that."""
    process.send_signal(signal.SIGUSR1)


def until_closed(peer: WebSocketPeer, path: str) -> int | None:
    """The close code that the server has got on a path, when nothing is open there any more."""
    return peer.wait_until(path, lambda stats: stats.opened and not stats.open).close_code


@pytest.fixture(scope="module")
def _tls_process() -> Iterator[WebSocketPeer]:
    with WebSocketPeer(tls=True) as peer:
        yield peer


@pytest.fixture
def tls_peer(_tls_process: WebSocketPeer) -> WebSocketPeer:
    """The WebSocket server with TLS."""
    _tls_process.reset()
    return _tls_process


@pytest.fixture(params=["plain", "TLS"])
def peer(request: pytest.FixtureRequest) -> WebSocketPeer:
    """The WebSocket server, once without TLS and once with it."""
    name = "tls_peer" if request.param == "TLS" else "websocket_peer"
    peer: WebSocketPeer = request.getfixturevalue(name)
    return peer


def trusting(peer: WebSocketPeer) -> dict[str, str]:
    return {"REQUESTS_CA_BUNDLE": peer.ca_file} if peer.ca_file else {}


# -- forks -----------------------------------------------------------------------------------------

CHILD = """
import gc

def fails(use):
    try:
        use()
    except StateError:
        return True
    return False

def in_child(connection, events=None):
    '''What a child tries with a connection that is not its own: whether all of it is refused.'''
    uses = [
        connection.next_message, lambda: connection.next_message(0), lambda: next(connection),
        lambda: next(connection.events()), lambda: connection.send({"from": "the child"}),
    ]
    if events is not None:
        uses.append(lambda: next(events))
    refused = [fails(use) for use in uses]
    is_closed = connection.state is ConnectionState.CLOSED
    repr(connection), connection.stats
    with connection:
        pass
    connection.close()
    connection.close(0)
    assert all(refused), refused
    assert is_closed

def forked(work, end=sys.exit):
    '''A child that does something, and ends as a program does.'''
    pid = os.fork()
    if not pid:
        work()
        gc.collect()
        end(0)
    return pid

def ends_well(pid):
    assert os.waitpid(pid, 0)[1] == 0
"""


def test_a_forked_child_is_refused_and_disturbs_nothing(peer: WebSocketPeer) -> None:
    done = run(
        f"""{CHILD}
connection = connect("/echo")
def echo(n):
    connection.send({{"n": n}})
    assert connection.next_message(timeout=5) == {{"n": n}}
echo(0)
def work():
    in_child(connection)
    with connect("/count?n=3") as own:
        assert numbers(take(own, 3)) == [0, 1, 2]
def drop():
    global connection
    del connection
for n, (what, end) in enumerate([(work, sys.exit), (work, os._exit), (drop, sys.exit)], 1):
    pid = forked(what, end)
    echo(2 * n - 1)
    ends_well(pid)
    echo(2 * n)
connection.close()
ends()
""",
        peer.ws_url,
        environment=trusting(peer),
    )
    check(done)
    stats = peer.wait_until("/echo", lambda stats: not stats.open)
    assert (stats.opened, stats.received, stats.close_code) == (1, 7, 1000)
    assert peer.stats("/count").opened == 2


def test_a_child_is_not_given_what_its_parent_has_received(websocket_peer: WebSocketPeer) -> None:
    """Neither what waits nor what is in the parent's hands; and the parent gets all of it."""
    done = run(
        f"""{CHILD}
connection = connect("/count?n=300")
events = connection.events()
wait_until(lambda: connection.stats.received == 300)
begun = [next(events), next(events).data, connection.next_message()]
ends_well(forked(lambda: in_child(connection, events)))
got = numbers(begun[1:]) + numbers(take(connection, 298))
assert got == list(range(300)), got
connection.close()
ends()
""",
        websocket_peer.ws_url,
    )
    check(done)
    assert until_closed(websocket_peer, "/count") == 1000


def test_a_child_is_refused_while_a_thread_of_its_parent_waits(
    websocket_peer: WebSocketPeer,
) -> None:
    done = run(
        f"""{CHILD}
connection = connect("/echo")
got = []
waiting = threading.Thread(target=lambda: got.append(connection.next_message()))
waiting.start()
time.sleep(0.05)
ends_well(forked(lambda: in_child(connection)))
connection.send("for the thread")
waiting.join(5)
assert got == ["for the thread"], got
connection.close()
ends()
""",
        websocket_peer.ws_url,
    )
    check(done)


def test_forty_forks_in_a_row_steal_no_frame(peer: WebSocketPeer) -> None:
    """The series that the parent reads is complete, and all that it sends meanwhile arrives."""
    done = run(
        f"""{CHILD}
connection = connect("/ticks?every=0.001")
done, sent = threading.Event(), 0
def sending():
    global sent
    while not done.wait(0.001):
        connection.send({{"n": sent}})
        sent += 1
sender = threading.Thread(target=sending)
sender.start()
got, children = [], []
for number in range(40):
    children.append(forked(lambda: in_child(connection), sys.exit if number % 2 else os._exit))
    got += numbers(take(connection, 10))
for child in children:
    ends_well(child)
got += numbers(take(connection, 10))
done.set()
sender.join()
assert got == list(range(410)), got
assert connection.stats.reconnects == 0
connection.close()
say("sent", sent)
ends()
""",
        peer.ws_url,
        environment=trusting(peer),
    )
    check(done)
    stats = peer.wait_until("/ticks", lambda stats: not stats.open)
    assert (stats.opened, stats.close_code) == (1, 1000)
    assert stats.received == done.said["sent"]


@pytest.mark.parametrize("moment", ["wait", "dial"])
def test_a_fork_while_it_reconnects_disturbs_nothing(
    websocket_peer: WebSocketPeer, moment: str
) -> None:
    """The child neither makes the connection again nor keeps its parent from doing so."""
    done = run(
        f"""{CHILD}
urls = iter(["/close?after=1", "/echo?handshake=0.3"])
dials = threading.Event()
def url():
    path = next(urls)
    if "echo" in path:
        dials.set()
    return os.environ["PEER"] + path
wait = RetryPolicy(initial_interval={0.3 if moment == "wait" else 0.01}, randomization_factor=0)
connection = WebSocketConnection.connect(url, retry=wait)
take(connection, 1)
wait_until(lambda: connection.state is ConnectionState.RECONNECTING)
if {moment == "dial"}:
    dials.wait(5)
children = []
for _ in range(10):
    children.append(forked(lambda: in_child(connection)))
    time.sleep(0.005)
for child in children:
    ends_well(child)
wait_until(lambda: connection.state is ConnectionState.OPEN)
connection.send("x")
assert connection.next_message(timeout=5) == "x"
assert connection.stats.reconnects == 1
connection.close()
ends()
""",
        websocket_peer.ws_url,
    )
    check(done)
    assert until_closed(websocket_peer, "/echo") == 1000
    assert websocket_peer.stats("/echo").opened == 1
    assert websocket_peer.stats("/close").opened == 1


def test_a_fork_while_a_thread_sends_disturbs_nothing(
    websocket_peer: WebSocketPeer, fault_proxy: FaultProxy
) -> None:
    """The thread holds what every sender has to wait for; the child does not wait for it."""
    with starting(
        f"""{CHILD}
connection = connect("/echo", compression=False, send_timeout=20)
wait_for_go()
message = "x" * 12_000_000
sender = threading.Thread(target=connection.send, args=(message,))
sender.start()
wait_until(connection._link._wire._writing.locked)
began = time.monotonic()
ends_well(forked(lambda: in_child(connection)))
assert time.monotonic() - began < 2
say("forked")
sender.join(20)
assert connection.next_message(timeout=20) == message
connection.close()
ends()
""",
        fault_proxy.url,
    ) as process:
        wait_for_line(process, "ready")
        fault_proxy.stall()
        go(process)
        wait_for_line(process, "forked")
        fault_proxy.resume()
        check(finish(process))
    stats = websocket_peer.stats("/echo")
    assert (stats.opened, stats.received) == (1, 1)


def test_on_connect_may_fork(websocket_peer: WebSocketPeer) -> None:
    """The child has no connection, and makes none."""
    done = run(
        """
        children = []
        def fork(connection):
            children.append(os.fork())
        try:
            connection = connect("/echo", on_connect=fork)
        except StateError:
            assert children == [0]
            os._exit(threading.active_count() != 1)
        assert children[0]
        assert os.waitpid(children[0], 0)[1] == 0
        connection.send("x")
        assert connection.next_message(timeout=5) == "x"
        connection.close()
        ends()
        """,
        websocket_peer.ws_url,
    )
    check(done)
    assert until_closed(websocket_peer, "/echo") == 1000
    assert websocket_peer.stats("/echo").opened == 1


@pytest.mark.parametrize("kind", ["process", "pool"])
def test_a_child_of_multiprocessing_is_refused_and_disturbs_nothing(
    websocket_peer: WebSocketPeer, kind: str
) -> None:
    done = run(
        f"""{CHILD}
import multiprocessing
context = multiprocessing.get_context("fork")
connection = connect("/ticks?every=0.002")
def work(n):
    in_child(connection)
    with connect(f"/count?n={{n}}") as own:
        return numbers(take(own, n)) == list(range(n))
got = numbers(take(connection, 5))
if {kind == "process"}:
    children = [context.Process(target=work, args=(n,)) for n in (5, 6)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
else:
    with context.Pool(2) as pool:
        assert pool.map(work, [5, 6], chunksize=1) == [True, True]
        pool.close()
        pool.join()
got += numbers(take(connection, 50))
assert got == list(range(55)), got
connection.close()
ends()
""",
        websocket_peer.ws_url,
    )
    check(done)
    assert websocket_peer.stats("/ticks").opened == 1
    assert until_closed(websocket_peer, "/ticks") == 1000
    assert until_closed(websocket_peer, "/count") == 1000
    assert websocket_peer.stats("/count").opened == 2


# -- exits -----------------------------------------------------------------------------------------

ENDS = {
    "end": ("ends()", 0, 1001),
    "exit": ("ends(); sys.exit(3)", 3, 1001),
    "error": ("ends(); 1 / 0", 1, 1001),
    "with": ("with connection: ends()", 0, 1000),
    "with, error": ("with connection: ends(); 1 / 0", 1, 1000),
    "with, exit": ("with connection: ends(); sys.exit(3)", 3, 1000),
    "handler": ("import atexit; atexit.register(connection.close); ends()", 0, 1000),
    "thread": ("threading.Thread(target=lambda: (take(connection, 5), ends())).start()", 0, 1001),
}


@pytest.mark.parametrize(("end", "code", "close_code"), ENDS.values(), ids=ENDS.keys())
def test_the_server_is_told_of_the_exit(
    websocket_peer: WebSocketPeer, end: str, code: int, close_code: int
) -> None:
    done = run(
        f"""
        connection = connect("/ticks?every=0.005")
        take(connection, 3)
        {end}
        """,
        websocket_peer.ws_url,
    )
    check_exit(done, code, tracebacks=int("1 / 0" in end))
    assert until_closed(websocket_peer, "/ticks") == close_code


def check_exit(done: Ended, code: int = 0, *, tracebacks: int = 0) -> None:
    assert (done.code, done.err.count("Traceback")) == (code, tracebacks), done.err
    assert "Fatal" not in done.err
    assert "Warning" not in done.err
    assert "Exception ignored" not in done.err
    assert tracebacks or not done.err
    assert 0 < done.seconds < PROMPTLY


LEFT = {
    "deleted": "del connection",
    "rebound": "connection = connect('/echo'); connection.close()",
    "in a function": "(lambda connection: None)(globals().pop('connection'))",
}


@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT.keys())
def test_one_that_nobody_refers_to_any_more_is_closed_with_a_warning(
    websocket_peer: WebSocketPeer, left: str
) -> None:
    done = run(
        f"""
        connection = connect("/ticks?every=0.005")
        take(connection, 3)
        {left}
        wait_until(lambda: threading.active_count() == 1)
        ends()
        """,
        websocket_peer.ws_url,
    )
    assert (done.code, done.err.count("unclosed")) == (0, 1), done.err
    assert "ResourceWarning: unclosed <WebSocketConnection OPEN" in done.err
    assert done.seconds < PROMPTLY
    assert until_closed(websocket_peer, "/ticks") == 1000


AT_WORK = {
    "iterates": "for message in connection: pass",
    "waits": "silent.next_message()",
    "sends": "while True: connection.send('x' * 1000)",
    "takes long to send": "while True: deaf.send('x' * 1_000_000, timeout=60)",
    "connects": "while True: connect('/echo').close()",
}


@pytest.mark.parametrize("work", AT_WORK.values(), ids=AT_WORK.keys())
def test_a_daemon_thread_at_work_does_not_hold_up_the_exit(
    websocket_peer: WebSocketPeer, work: str
) -> None:
    done = run(
        f"""
        connection = connect("/ticks?every=0.001")
        silent, deaf = connect("/headers"), connect("/deaf", compression=False)
        silent.next_message()
        def work():
            try:
                {work}
            except StateError:
                pass  # it is closed
        threading.Thread(target=work, daemon=True).start()
        time.sleep(0.1)
        ends()
        """,
        websocket_peer.ws_url,
    )
    check_exit(done)
    assert until_closed(websocket_peer, "/ticks") == 1001
    assert until_closed(websocket_peer, "/headers") == 1001


STUCK = {
    "idle": "",
    "sending": "threading.Thread(target=connection.send, args=('x' * 30_000_000, ),"
    " kwargs={'timeout': 60}, daemon=True).start(); time.sleep(0.1)",
    "closing": "threading.Thread(target=connection.close, args=(60,), daemon=True).start()",
}


@pytest.mark.parametrize("stuck", STUCK.values(), ids=STUCK.keys())
@pytest.mark.parametrize("is_paused", [False, True], ids=["", "paused"])
def test_a_server_that_is_stuck_does_not_hold_up_the_exit(
    fault_proxy: FaultProxy, stuck: str, is_paused: bool
) -> None:
    with starting(
        f"""
        connection = connect("/ticks?every=0.001", compression=False, max_queue_bytes=500)
        take(connection, 3)
        {"wait_until(lambda: connection.stats.queued > 20)" if is_paused else ""}
        wait_for_go()
        {stuck}
        ends()
        """,
        fault_proxy.url,
    ) as process:
        wait_for_line(process, "ready")
        fault_proxy.stall()
        go(process)
        check_exit(finish(process))


@pytest.mark.parametrize("moment", ["waits", "dials", "looks up"])
def test_the_exit_does_not_wait_for_another_connection(
    fault_proxy: FaultProxy, moment: str
) -> None:
    """Neither for the next attempt, nor for a server or a name's look-up that does not answer."""
    with starting(
        f"""
        import socket
        look_up, asked = socket.getaddrinfo, threading.Event()
        def slow(*arguments, **options):
            if not options.get("flags"):
                asked.set()
                time.sleep(60)
            return look_up(*arguments, **options)
        def url():
            is_named = {moment == "looks up"} and socket.getaddrinfo is slow
            host = "some.invalid" if is_named else "127.0.0.1"
            return os.environ["PEER"].replace("127.0.0.1", host) + "/echo"
        retry = {"LATER" if moment == "waits" else "SOON"}
        connection = WebSocketConnection.connect(url, retry=retry, proxy="")
        socket.getaddrinfo = slow
        wait_for_go()
        wait_until(lambda: connection.state is ConnectionState.RECONNECTING)
        if {moment == "looks up"}:
            asked.wait(5)
        elif {moment == "dials"}:
            wait_for_go()
        ends()
        """,
        fault_proxy.url,
    ) as process:
        wait_for_line(process, "ready")
        fault_proxy.never_answer()
        fault_proxy.reset()
        go(process)
        if moment == "dials":
            fault_proxy.wait_until(lambda: len(fault_proxy.requests) == 2)
            go(process)
        check_exit(finish(process))
    assert fault_proxy.connections == 1 + (moment == "dials")


def test_after_the_goodbye_it_does_not_connect_again(websocket_peer: WebSocketPeer) -> None:
    """Also where the exit goes on for long, and the server's answer comes."""
    done = run(
        """
        connection = connect("/ticks?every=0.005", on_reconnect=lambda attempt: say("again", 1))
        take(connection, 3)
        ends()
        """,
        websocket_peer.ws_url,
        first="import atexit, time; atexit.register(time.sleep, 0.5)",  # it runs last
    )
    assert (done.code, done.err) == (0, "")
    assert "again" not in done.said
    assert until_closed(websocket_peer, "/ticks") == 1001
    assert websocket_peer.stats("/ticks").opened == 1


# -- Ctrl-C ----------------------------------------------------------------------------------------

INTERRUPTED = """
def interrupted(wait):
    '''Waits until Ctrl-C, of which it tells when it has come through.'''
    say("waits", 1)
    try:
        wait()
    except KeyboardInterrupt:
        say("interrupted", time.monotonic())
    else:
        say("not interrupted", 1)
"""


def press_ctrl_c(process: Process) -> None:
    """Sends SIGINT once the program waits; it must come through at once."""
    wait_for_line(process, "waits")
    wait_until_it_waits(process.pid)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    told = wait_for_line(process, "interrupted")
    assert told.startswith("interrupted"), told
    assert float(told.split()[1]) - began < AT_ONCE


WAITS = {
    "for": "lambda: list(connection)",
    "next_message": "connection.next_message",
    "next_message with a timeout": "lambda: connection.next_message(60)",
    "events": "lambda: list(events)",
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())
def test_ctrl_c_ends_a_wait_at_once_and_twice_in_a_row(peer: WebSocketPeer, wait: str) -> None:
    with starting(
        f"""{INTERRUPTED}
connection = connect("/echo")
events = connection.events()
next(events)
interrupted({wait})
interrupted({wait})
for n in range(20):
    connection.send({{"n": n}})
assert numbers(take(connection, 20)) == list(range(20))
interrupted({wait})
assert connection.state is ConnectionState.OPEN
assert connection.stats.reconnects == 0
connection.close()
ends()
""",
        peer.ws_url,
        environment=trusting(peer),
    ) as process:
        for _ in range(3):
            press_ctrl_c(process)
        check(finish(process))
    stats = peer.wait_until("/echo", lambda stats: not stats.open)
    assert (stats.opened, stats.close_code) == (1, 1000)


def test_ctrl_c_again_and_again_loses_nothing_that_was_only_waited_for(
    websocket_peer: WebSocketPeer,
) -> None:
    """Forty times, while messages come: one that had been taken just then is the program's."""
    with starting(
        """
        connection, got, times = connect("/ticks?every=0.002"), [], 0
        say("waits", 1)
        while times < 40:
            try:
                for message in connection:
                    got.append(message["n"])
            except KeyboardInterrupt:
                times += 1
                say("waits", 1)
        got += numbers(take(connection, 20))
        missing = set(range(got[-1])) - set(got)
        assert got == sorted(set(got)), got
        assert len(missing) <= 4, missing
        assert connection.stats.reconnects == 0
        connection.close()
        ends()
        """,
        websocket_peer.ws_url,
    ) as process:
        for _ in range(40):
            wait_for_line(process, "waits")
            interrupt(process.pid)
        check(finish(process))


class InterruptedDict(dict[str, int]):
    """A dict that Ctrl-C interrupts just when it has taken something in, once."""

    is_interrupted = False

    def setdefault(self, key: str, value: int) -> int:  # type: ignore[override]
        kept = super().setdefault(key, value)
        if not self.is_interrupted:
            self.is_interrupted = True
            raise KeyboardInterrupt
        return kept


def test_ctrl_c_just_as_a_wait_begins_leaves_nobody_waiting(
    connect: Callable[..., r.WebSocketConnection],
) -> None:
    connection = connect("/count?n=2")
    connection._turn = InterruptedDict()
    with pytest.raises(KeyboardInterrupt):
        connection.next_message()
    assert InThread(lambda: connection.next_message(timeout=5.0)["n"]).ends() == 0
    assert next(connection)["n"] == 1


def test_ctrl_c_ends_a_send_that_is_blocked(peer: WebSocketPeer) -> None:
    """The half of a message that is on its way is the end of that connection; another is made."""
    with (
        FaultProxy(peer.port, tls=peer.ca_file is not None) as proxy,
        starting(
            f"""{INTERRUPTED}
connection = connect("/echo", compression=False, send_timeout=60)
for n in (1, 2):
    wait_for_go()
    interrupted(lambda: connection.send("x" * 30_000_000))
    wait_until(lambda: connection.stats.reconnects == n)
    connection.send("y")
    assert connection.next_message(timeout=5) == "y"
connection.close()
ends()
""",
            proxy.url,
            environment=trusting(peer),
        ) as process,
    ):
        for _ in range(2):
            wait_for_line(process, "ready")
            proxy.stall()
            go(process)
            press_ctrl_c(process)
            proxy.resume()
        check(finish(process))
    assert peer.stats("/echo").opened == 3
    assert peer.stats("/echo").received == 2


def test_ctrl_c_ends_a_send_that_waits_for_another_and_disturbs_it_not(
    websocket_peer: WebSocketPeer, fault_proxy: FaultProxy
) -> None:
    with starting(
        f"""{INTERRUPTED}
connection = connect("/echo", compression=False, send_timeout=60)
wait_for_go()
message = "x" * 12_000_000
sender = threading.Thread(target=connection.send, args=(message,))
sender.start()
wait_until(connection._link._wire._writing.locked)
interrupted(lambda: connection.send("y"))
sender.join(20)
assert connection.next_message(timeout=20) == message
assert connection.stats.reconnects == 0
connection.close()
ends()
""",
        fault_proxy.url,
    ) as process:
        wait_for_line(process, "ready")
        fault_proxy.stall()
        go(process)
        press_ctrl_c(process)
        fault_proxy.resume()
        check(finish(process))
    assert websocket_peer.stats("/echo").received == 1


SILENT = {
    "handshake": "",
    "name": """
import socket
look_up = socket.getaddrinfo
def slow(*arguments, **options):
    if not options.get("flags"):
        time.sleep(60)
    return look_up(*arguments, **options)
socket.getaddrinfo = slow
os.environ["PEER"] = "ws://some.invalid"
""",
}


@pytest.mark.parametrize("silent", SILENT.values(), ids=SILENT.keys())
def test_ctrl_c_ends_connect_at_once(fault_proxy: FaultProxy, silent: str) -> None:
    """Whether a server does not answer, or nobody says where it is; nothing is left of it."""
    fault_proxy.never_answer()
    with starting(
        f"""{INTERRUPTED}{silent}
open_before = len(os.listdir("/proc/self/fd"))
for _ in range(2):
    interrupted(lambda: WebSocketConnection.connect(
        os.environ["PEER"] + "/echo", open_timeout=60, proxy=""
    ))
assert len(os.listdir("/proc/self/fd")) == open_before
ends()
""",
        fault_proxy.url,
    ) as process:
        press_ctrl_c(process)
        press_ctrl_c(process)
        check(finish(process))
    fault_proxy.wait_until(lambda: fault_proxy.open == 0)


def test_ctrl_c_ends_connect_in_the_handshake_of_tls(tls_peer: WebSocketPeer) -> None:
    with FaultProxy(tls_peer.port, tls=True) as proxy:
        proxy.stall()
        with starting(
            f"""{INTERRUPTED}
interrupted(lambda: connect("/echo", open_timeout=60))
ends()
""",
            proxy.url,
            environment=trusting(tls_peer),
        ) as process:
            press_ctrl_c(process)
            check(finish(process))


def test_ctrl_c_that_nobody_catches_ends_the_program(websocket_peer: WebSocketPeer) -> None:
    with starting(
        """
        connection = connect("/ticks?every=0.5")
        say("waits", 1)
        try:
            list(connection)
        finally:
            ends()
        """,
        websocket_peer.ws_url,
    ) as process:
        wait_for_line(process, "waits")
        interrupt(process.pid)
        done = finish(process)
    assert done.code == -signal.SIGINT
    assert done.err.count("Traceback") == 1
    assert done.err.endswith("KeyboardInterrupt\n")
    assert done.seconds < PROMPTLY
    assert until_closed(websocket_peer, "/ticks") == 1001


# -- SIGTERM ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "wait"),
    [
        ("/echo", "got = list(connection); assert got == [], got"),
        ("/echo", "got = connection.next_message(); assert got is None, got"),
        ("/deaf", "while True: connection.send('x' * 1_000_000, timeout=60)"),
    ],
    ids=["for", "next_message", "send"],
)
@pytest.mark.parametrize("handler", ["connection.close()", "connection.close(); sys.exit(3)"])
def test_a_handler_of_sigterm_may_close(
    peer: WebSocketPeer, path: str, wait: str, handler: str
) -> None:
    with starting(
        f"""
        connection = connect({path!r}, compression=False, close_timeout=0.3)
        def stop(number, frame):
            began = time.monotonic()
            {handler.replace("; sys", "; say('took', time.monotonic() - began); sys")}
            say("took", time.monotonic() - began)
        signal.signal(signal.SIGTERM, stop)
        say("waits", 1)
        try:
            {wait}
        except StateError:
            assert {path == "/deaf"}
        else:
            assert {path == "/echo"}
        finally:
            ends()
        """,
        peer.ws_url,
        environment=trusting(peer),
    ) as process:
        wait_for_line(process, "waits")
        wait_until_it_waits(process.pid)
        process.send_signal(signal.SIGTERM)
        done = finish(process)
    check(done, 3 if "exit" in handler else 0)
    assert done.said["took"] < PROMPTLY
    if path == "/echo":
        assert until_closed(peer, path) == 1000


# -- many ------------------------------------------------------------------------------------------


def test_twenty_connections_at_once_leave_nothing_behind(peer: WebSocketPeer) -> None:
    """Each echoes 200 messages, and is closed from another thread."""
    done = run(
        """
        from concurrent.futures import ThreadPoolExecutor
        def descriptors():
            return len(os.listdir("/proc/self/fd"))
        connect("/echo").close()
        before = descriptors()
        def talk(number):
            connection = connect("/echo")
            for n in range(200):
                connection.send({"n": n, "of": number})
            got = take(connection, 200)
            assert got == [{"n": n, "of": number} for n in range(200)]
            return connection
        with ThreadPoolExecutor(20) as pool:
            connections = list(pool.map(talk, range(20)))
            assert len({id(connection) for connection in connections}) == 20
        with ThreadPoolExecutor(20) as pool:
            list(pool.map(WebSocketConnection.close, reversed(connections)))
        assert threading.active_count() == 1, threading.enumerate()
        assert descriptors() == before
        ends()
        """,
        peer.ws_url,
        environment=trusting(peer),
    )
    check(done)
    stats = peer.wait_until("/echo", lambda stats: not stats.open)
    assert (stats.opened, stats.received, stats.close_code) == (21, 4000, 1000)


# -- web servers -----------------------------------------------------------------------------------


class Site:
    """gunicorn, with one worker that runs tests/programs/streaming.py."""

    def __init__(self, url: str, process: Process) -> None:
        self.url = url
        self._process = process

    def ask(self, path: str) -> list[Any]:
        """What a request is told; the process that has answered it is left out."""
        with requests.Session() as session:
            session.trust_env = False
            answer = session.get(f"{self.url}/{path}", timeout=DEADLINE)
        assert answer.ok, answer.text
        told: list[Any] = answer.json()
        return told[1:]

    def ask_at_once(self, *paths: str) -> list[list[Any]]:
        """The same of requests that all come at once."""
        with ThreadPoolExecutor(len(paths)) as pool:
            return list(pool.map(self.ask, paths))

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        done = finish(self._process)
        assert (done.code, done.out.count("Traceback")) == (0, 0), done.out
        assert "Warning" not in done.out, done.out


@contextlib.contextmanager
def serving(
    kind: str, peer: WebSocketPeer, folder: Path, *options: str, ca_file: str | None = None
) -> Iterator[Site]:
    command = [sys.executable, "-m", "gunicorn", "--bind=127.0.0.1:0", "--workers=1"]
    command += [f"--worker-class={kind}", f"--worker-tmp-dir={folder}", *options]
    command += ["--config=python:gunicorn_settings", "--no-control-socket", "streaming:app"]
    environment = {"PEER": peer.ws_url, **trusting(peer)}
    with started(
        command, "", environment=environment, stderr=subprocess.STDOUT, cwd=folder
    ) as process:
        found = re.search(r"http://127\.0\.0\.1:\d+", wait_for_line(process, "Listening at"))
        assert found is not None
        wait_for_line(process, "Worker is ready")
        yield Site(found[0], process)


def test_gunicorn_with_gevent(peer: WebSocketPeer, tmp_path: Path) -> None:
    with serving("gevent", peer, tmp_path) as site:
        # Each request has a connection of its own, and none holds up the others.
        began = time.monotonic()
        assert site.ask_at_once(*["stream?n=5&every=0.2"] * 20) == [list(range(5))] * 20
        assert time.monotonic() - began < 4.0  # one after the other, it would be 16
        assert peer.stats("/count").opened == 20
        # All of them share one, send over it at once, and one of them reads it.
        assert site.ask_at_once(*(f"send?{n}" for n in range(30))) == [["sent"]] * 30
        assert sorted(site.ask("receive?30")) == list(range(30))
        # One that is told to give up leaves it as it is.
        assert site.ask("give_up?") == ["timeout", 0]
        assert site.ask("give_up?") == ["timeout", 0]
        assert (peer.stats("/echo").opened, peer.stats("/echo").open) == (1, 1)
        site.stop()
    assert until_closed(peer, "/echo") == 1001
    assert until_closed(peer, "/count") == 1000


def test_gunicorn_with_gevent_reads_while_others_send(
    websocket_peer: WebSocketPeer, tmp_path: Path
) -> None:
    with serving("gevent", websocket_peer, tmp_path) as site:
        reading = InThread(lambda: site.ask("receive?20"))
        site.ask_at_once(*(f"send?{n}" for n in range(20)))
        assert sorted(reading.ends(10.0)) == list(range(20))
        site.stop()


@pytest.mark.parametrize("kind", ["sync", "gthread"])
def test_gunicorn_that_forks_after_connecting(
    websocket_peer: WebSocketPeer, tmp_path: Path, kind: str
) -> None:
    """The worker is refused the connection of its parent, and may open its own."""
    with serving(kind, websocket_peer, tmp_path, "--preload") as site:
        assert site.ask("use") == ["StateError"] * 3 + ["CLOSED"]
        assert site.ask("stream?n=5") == list(range(5))
        assert websocket_peer.stats("/echo").open == 1
        site.stop()
    assert until_closed(websocket_peer, "/echo") == 1001
    assert websocket_peer.stats("/echo").opened == 1


def test_gunicorn_with_threads(websocket_peer: WebSocketPeer, tmp_path: Path) -> None:
    with serving("gthread", websocket_peer, tmp_path, "--threads=8") as site:
        assert site.ask_at_once(*["stream?n=5&every=0.1"] * 8) == [list(range(5))] * 8
        assert site.ask_at_once(*(f"send?{n}" for n in range(8))) == [["sent"]] * 8
        assert sorted(site.ask("receive?8")) == list(range(8))
        site.stop()
    assert until_closed(websocket_peer, "/echo") == 1001


GREENLETS = """
from gevent import monkey
{before}
from connecting import *
{after}
import gevent

def talk(number):
    with connect("/echo") as connection:
        for n in range(20):
            connection.send({{"n": n, "of": number}})
        assert take(connection, 20) == [{{"n": n, "of": number}} for n in range(20)]

shared = connect("/echo")
greenlets = [gevent.spawn(talk, number) for number in range(10)]
senders = [gevent.spawn(shared.send, {{"n": n}}) for n in range(10)]
gevent.joinall(greenlets + senders, raise_error=True)
assert sorted(numbers(take(shared, 10))) == list(range(10))

waiting = gevent.spawn(shared.next_message)
gevent.sleep(0.05)
try:
    shared.next_message()
except ConcurrencyError:
    pass
else:
    raise AssertionError("two wait")
waiting.kill()
shared.send("x")
assert shared.next_message(timeout=5) == "x"

large = "y" * 5_000_000  # it has to wait for room, and others run meanwhile
ticks = []
ticking = gevent.spawn(lambda: [ticks.append(gevent.sleep(0.001)) for _ in range(1000)])
shared.send(large)
assert shared.next_message(timeout=20) == large
assert ticks
ticking.kill()

closing = gevent.spawn_later(0.05, shared.close)
assert list(shared) == []
closing.get()
left = connect("/ticks?every=0.01")
take(left, 2)
ends()
"""


@pytest.mark.parametrize("when", ["before all", "after the import"])
def test_gevent(peer: WebSocketPeer, when: str) -> None:
    """The modules may be patched until the first connection."""
    patch, never = "monkey.patch_all()", ""
    before, after = (patch, never) if when == "before all" else (never, patch)
    text = GREENLETS.format(before=before, after=after)
    environment = {"PEER": peer.ws_url, **trusting(peer)}
    with started([sys.executable, "-c", text], "", environment=environment) as process:
        done = finish(process)
    assert (done.code, done.err.count("Traceback")) == (0, 0), done.err  # gevent itself warns
    assert done.seconds < PROMPTLY
    stats = peer.wait_until("/echo", lambda stats: not stats.open)
    assert (stats.opened, stats.close_code) == (11, 1000)
    assert until_closed(peer, "/ticks") == 1001


# -- notebooks -------------------------------------------------------------------------------------


class Kernel:
    """A real IPython kernel, a process of its own."""

    def __init__(self) -> None:
        self._manager: KernelManager
        self._manager, self._client = start_new_kernel(kernel_name="python3")

    def run(self, code: str, *, interrupt_at: str | None = None) -> dict[str, Any]:
        """Runs a cell: its reply, with what it has printed and shown.

        Args:
            code: The cell.
            interrupt_at: Once it has printed this and waits, the stop button is pressed.
        """
        printed, shown = "", None
        request = self._client.execute(textwrap.dedent(code), stop_on_error=False)
        while True:
            message = self._client.get_iopub_msg(timeout=DEADLINE)
            if message["parent_header"].get("msg_id") != request:
                continue
            content = message["content"]
            if content.get("execution_state") == "idle":
                break
            printed += content.get("text", "")
            shown = content.get("data", {}).get("text/plain", shown)
            if interrupt_at is not None and interrupt_at in printed:
                interrupt_at = None
                interrupt(self._manager.provisioner.pid)
        reply: dict[str, Any] = {}  # the start may have left another
        while reply.get("parent_header", {}).get("msg_id") != request:
            reply = self._client.get_shell_msg(timeout=DEADLINE)
        return {**reply["content"], "printed": printed, "shown": shown}

    def value(self, code: str) -> Any:
        """What the last line of a cell is."""
        reply = self.run(code)
        assert reply["status"] == "ok", reply
        return json.loads(reply["shown"]) if reply["shown"] else None

    def stop(self) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)
        self._manager.cleanup_resources()


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    kernel = Kernel()
    kernel.run(
        """
        import threading
        from reasoning_sdk import *
        def ours():
            return sum(thread.name == "reasoning-sdk.websocket" for thread in threading.enumerate())
        def until_ours_are(count):
            for _ in range(1000):
                if ours() == count:
                    return True
                threading.Event().wait(0.005)
        """
    )
    yield kernel
    kernel.stop()


@pytest.mark.parametrize("how", ["connection", "iter(connection.next_message, None)"])
def test_a_notebook_may_be_interrupted_and_read_on(
    kernel: Kernel, websocket_peer: WebSocketPeer, how: str
) -> None:
    """It opens in one cell, reads in the next, is stopped, reads on in another, and closes."""
    url = f"{websocket_peer.ws_url}/echo"
    kernel.run(f"connection, got = WebSocketConnection.connect({url!r}), []")
    for end in (10, 20, 30):
        reply = kernel.run(
            f"""
            for n in range({end - 10}, {end}):
                connection.send(n)
            for n in {how}:
                got.append(n)
                print("got", n)
            """,
            interrupt_at=f"got {end - 1}",
        )
        assert reply["ename"] == "KeyboardInterrupt"
    assert kernel.value("got") == list(range(30))
    assert kernel.value("connection.stats.reconnects") == 0
    kernel.run("connection.close()")
    assert kernel.value("int(until_ours_are(0))") == 1
    assert until_closed(websocket_peer, "/echo") == 1000


def test_running_the_opening_cell_again_ends_the_connection_before(
    kernel: Kernel, websocket_peer: WebSocketPeer
) -> None:
    cell = f"connection = WebSocketConnection.connect({websocket_peer.ws_url + '/echo'!r})"
    read = "connection.send('x'); print(connection.next_message())"
    for _ in range(3):
        assert kernel.run(cell)["status"] == "ok"
        assert kernel.run(read)["printed"] == "x\n"
    assert kernel.value("int(until_ours_are(1))") == 1
    stats = websocket_peer.wait_until("/echo", lambda stats: stats.open == 1)
    assert (stats.opened, stats.close_code) == (3, 1000)
    kernel.run("connection.close()")
    assert kernel.value("int(until_ours_are(0))") == 1
