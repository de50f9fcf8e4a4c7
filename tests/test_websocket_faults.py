"""WebSocketConnection when the network, or the server, goes wrong.

A server counts in real time, so what was missed shows as a gap. ``pytest -s`` prints what was
measured: how long it took to notice each fault, and what was lost.
"""

import gc
import itertools
import os
import random
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import reasoning_sdk as r
from reasoning_sdk.websocket import ConnectionState
from tests.support.fault_proxy import FaultProxy
from tests.support.threads import InThread
from tests.support.websocket_peer import WebSocketPeer

Connect = Callable[..., r.WebSocketConnection]
Fault = Callable[[FaultProxy], object]
EVERY = 0.01
PING_INTERVAL, PING_TIMEOUT, OPEN_TIMEOUT = 0.4, 0.2, 0.3
RETRY = r.RetryPolicy(initial_interval=0.02, max_interval=0.1, randomization_factor=0)
#: What two busy cores may add to any time.
LOAD = 0.4
BAD_FRAME = b"\x83\x00"  # of an opcode that is reserved


def let_pass(seconds: float) -> None:
    """Lets real time pass, which the limits of a connection are made of."""
    threading.Event().wait(seconds)


class Watcher:
    """Reads the events of a connection in a thread, and notes when each came."""

    def __init__(self, connection: r.WebSocketConnection) -> None:
        self.connection = connection
        self.seen: list[tuple[float, Any]] = []
        self._changed = threading.Condition()
        self._thread = InThread(self._read)

    def _read(self) -> None:
        for event in self.connection.events():
            with self._changed:
                self.seen.append((time.monotonic(), event))
                self._changed.notify_all()

    def count(self, kind: type) -> int:
        return sum(isinstance(event, kind) for _, event in self.seen)

    def wait_for(self, condition: Callable[[], Any], timeout: float = 10.0) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, timeout), Counter(
                type(event).__name__ for _, event in self.seen
            )

    def wait_for_messages(self, more: int) -> None:
        """Waits for so many, which all come from now on."""
        before = len(self.seen)

        def have_come() -> bool:
            new = self.seen[before:]
            return sum(isinstance(event, r.Message) for _, event in new) >= more

        self.wait_for(have_come)

    def first(self, kind: type, since: float) -> tuple[float, Any] | None:
        found = ((at, event) for at, event in self.seen if at >= since and isinstance(event, kind))
        return next(found, None)

    def end(self) -> BaseException | None:
        """Closes it, and what reading it has raised."""
        self.connection.close()
        return self._thread.raises(5.0)

    def ends(self) -> BaseException | None:
        """Waits until it has ended by itself; what reading it has raised."""
        return self._thread.raises(5.0)

    def losses(self) -> "Losses":
        losses = Losses()
        last, is_marked = None, False
        for _, event in self.seen:
            if isinstance(event, r.Disconnected):
                is_marked = True
            elif isinstance(event, r.Message):
                number = event.data["n"]
                if last is not None:
                    losses.add(number - last - 1, is_marked)
                last, is_marked = number, False
        return losses


class Losses:
    """What is missing in a series."""

    def __init__(self) -> None:
        self.marked = self.unmarked = self.wrong = 0

    def add(self, gap: int, is_marked: bool) -> None:
        if gap < 0:
            self.wrong += 1
        elif is_marked:
            self.marked += gap
        else:
            self.unmarked += gap


@pytest.fixture(scope="module")
def table() -> Iterator[list[tuple[str, ...]]]:
    """What was measured: fault, noticed after, messages missed, what ``events()`` shows."""
    rows: list[tuple[str, ...]] = []
    yield rows
    widths = [max(len(row[at]) for row in rows) for at in range(4)] if rows else []
    print()
    for row in rows:
        print("| " + " | ".join(map(str.ljust, row, widths)) + " |")


@pytest.fixture
def watch(fault_proxy: FaultProxy, connect: Connect) -> Callable[..., Watcher]:
    """Watches a series of numbers through the proxy."""

    def make(every: float = EVERY, **options: Any) -> Watcher:
        settings = {
            "retry": RETRY,
            "ping_interval": PING_INTERVAL,
            "ping_timeout": PING_TIMEOUT,
            "open_timeout": OPEN_TIMEOUT,
        }
        url = f"{fault_proxy.url}/ticks?series=a&every={every}"
        return Watcher(connect(url, **{**settings, **options}))

    return make


def shown(event: r.Disconnected) -> str:
    code = "" if event.close_code is None else f", {event.close_code}"
    return f"Disconnected({type(event.error).__name__}{code}): {event.error}"


# -- connections that are open -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fault", "limit", "kind", "said"),
    [
        ("reset", FaultProxy.reset, 0.0, r.ConnectionLostError, "reset"),
        ("FIN", FaultProxy.fin, 0.0, r.ConnectionLostError, "without a close"),
        ("cut in mid-frame", lambda it: it.cut_after(3), 0.1, r.ConnectionLostError, "reset"),
        ("bad frame", lambda it: it.inject(BAD_FRAME), 0.0, r.ProtocolError, "opcode 3"),
        (
            "text that is not UTF-8", lambda it: it.inject(b"\x81\x01\xff"), 0.0,
            r.ProtocolError, "UTF-8",
        ),
        ("stall, both ways", FaultProxy.stall, 0.6, r.ConnectionLostError, "ping"),
        (
            "stall, from the server", lambda it: it.stall(upstream=False), 0.6,
            r.ConnectionLostError, "ping",
        ),
    ],
)  # fmt: skip
def test_a_fault_is_noticed_and_marked(
    fault_proxy: FaultProxy,
    connect: Connect,
    watch: Callable[..., Watcher],
    table: list[tuple[str, ...]],
    name: str,
    fault: Fault,
    limit: float,
    kind: type[Exception],
    said: str,
) -> None:
    watcher = watch()
    plain = connect(
        f"{fault_proxy.url}/ticks?series=a&every={EVERY}",
        retry=RETRY,
        ping_interval=PING_INTERVAL,
        ping_timeout=PING_TIMEOUT,
        open_timeout=OPEN_TIMEOUT,
    )
    reader = InThread(lambda: [message["n"] for message in plain])
    watcher.wait_for_messages(10)
    began = time.monotonic()
    fault(fault_proxy)
    watcher.wait_for(lambda: watcher.first(r.Disconnected, began))
    fault_proxy.resume()
    watcher.wait_for(lambda: watcher.first(r.Connected, began))
    watcher.wait_for_messages(10)
    found = watcher.first(r.Disconnected, began)
    assert found is not None
    at, lost = found
    assert isinstance(lost.error, kind)
    assert said in str(lost.error)
    assert watcher.count(r.Disconnected) == 1
    assert at - began < limit + LOAD
    losses = watcher.losses()
    assert losses.unmarked == losses.wrong == 0
    assert watcher.end() is None
    plain.close()
    numbers = reader.ends(5.0)  # which shows nothing of it, and ends quietly
    assert reader.error is None
    assert numbers == sorted(set(numbers))
    table.append((name, f"{at - began:.3f} s", str(losses.marked), shown(lost)))


def test_a_silent_server_that_hears_nothing_is_noticed(
    fault_proxy: FaultProxy, watch: Callable[..., Watcher], table: list[tuple[str, ...]]
) -> None:
    watcher = watch(every=1000.0)
    watcher.wait_for(lambda: watcher.count(r.Connected) == 1)
    began = time.monotonic()
    fault_proxy.stall(downstream=False)
    watcher.wait_for(lambda: watcher.first(r.Disconnected, began))
    fault_proxy.resume()
    watcher.wait_for(lambda: watcher.count(r.Connected) == 2)
    at, lost = next((at, event) for at, event in watcher.seen if isinstance(event, r.Disconnected))
    assert at - began < PING_INTERVAL + PING_TIMEOUT + LOAD
    assert watcher.end() is None
    table.append(("stall, to a silent server", f"{at - began:.3f} s", "0", shown(lost)))


@pytest.mark.parametrize(
    ("name", "fault", "seconds"),
    [
        ("stall, to a server that sends", lambda it: it.stall(downstream=False), 0.8),
        ("stall for 0.3 s", FaultProxy.stall, 0.3),
        ("delay of 0.15 s", lambda it: it.delay(0.15), 0.5),
        ("slow loris, 300 bytes/s", lambda it: it.slow_loris(300.0), 0.7),
    ],
)
def test_what_is_only_slow_is_no_loss(
    fault_proxy: FaultProxy,
    watch: Callable[..., Watcher],
    table: list[tuple[str, ...]],
    name: str,
    fault: Fault,
    seconds: float,
) -> None:
    watcher = watch(ping_interval=0.2, ping_timeout=0.5)
    watcher.wait_for_messages(10)
    fault(fault_proxy)
    let_pass(seconds)
    fault_proxy.resume()
    watcher.wait_for_messages(20)
    assert watcher.count(r.Disconnected) == 0
    losses = watcher.losses()
    assert losses.marked == losses.unmarked == losses.wrong == 0
    assert watcher.end() is None
    table.append((name, "–", "0", "nothing: the connection goes on"))


@pytest.mark.parametrize(
    ("name", "fault", "limit"),
    [
        ("reset", FaultProxy.reset, 0.0),
        ("FIN", FaultProxy.fin, 0.0),
        ("cut in mid-record", lambda it: it.cut_after(20), 0.1),
        ("garbage in place of a record", lambda it: it.inject(b"\x00garbage" * 10), 0.0),
        ("stall", FaultProxy.stall, 0.6),
    ],
)
def test_tls_changes_nothing(
    connect: Connect, table: list[tuple[str, ...]], name: str, fault: Fault, limit: float
) -> None:
    with WebSocketPeer(tls=True) as peer, FaultProxy(peer.port, tls=True) as proxy:
        watcher = Watcher(
            connect(
                f"{proxy.url}/ticks?series=a&every={EVERY}",
                ssl_context=ssl.create_default_context(cafile=peer.ca_file),
                retry=RETRY,
                ping_interval=PING_INTERVAL,
                ping_timeout=PING_TIMEOUT,
            )
        )
        watcher.wait_for_messages(10)
        began = time.monotonic()
        fault(proxy)
        watcher.wait_for(lambda: watcher.first(r.Disconnected, began))
        proxy.resume()
        watcher.wait_for(lambda: watcher.first(r.Connected, began))
        watcher.wait_for_messages(10)
        found = watcher.first(r.Disconnected, began)
        assert found is not None
        at, lost = found
        assert isinstance(lost.error, (r.ConnectionLostError, r.ProtocolError))
        assert at - began < limit + LOAD
        losses = watcher.losses()
        assert losses.unmarked == losses.wrong == 0
        assert watcher.end() is None
    table.append((f"TLS: {name}", f"{at - began:.3f} s", str(losses.marked), shown(lost)))


# -- connections that cannot be made again -------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fault", "attempt", "limit"),
    [
        (
            "503, twice, Retry-After: 0",
            lambda it: it.answer(503, {"Retry-After": "0"}, times=2), 3, 0.1,
        ),
        ("429, Retry-After: 1", lambda it: it.answer(429, {"Retry-After": "1"}, times=1), 2, 1.1),
        ("401, once", lambda it: it.answer(401, times=1), 2, 0.1),
        ("500, three times", lambda it: it.answer(500, times=3), 4, 0.3),
        ("upgrade never answered, once", lambda it: it.never_answer(times=1), 2, 0.4),
        ("accepted and closed, three times", lambda it: it.flap(times=3), 4, 0.3),
        ("upgraded and closed, three times", lambda it: it.flap_after_upgrade(times=3), 4, 0.3),
        ("garbage for an answer, twice", lambda it: it.garbage(b"\xff\r\n\r\n", times=2), 3, 0.2),
        ("half an answer, once", lambda it: it.garbage(b"HTTP/1.1 101 Sw", times=1), 2, 0.2),
        (
            "half an answer and silence, once",
            lambda it: it.garbage(b"HTTP/1.1 101 Sw", close=False, times=1), 2, 0.4,
        ),
        ("cut in the upgrade, once", lambda it: it.cut_after(30), 2, 0.2),
    ],
)  # fmt: skip
def test_what_meets_an_attempt_is_outlived(
    fault_proxy: FaultProxy,
    watch: Callable[..., Watcher],
    table: list[tuple[str, ...]],
    name: str,
    fault: Fault,
    attempt: int,
    limit: float,
) -> None:
    watcher = watch()
    watcher.wait_for_messages(10)
    if "cut" in name:
        fault_proxy.refuse()
        fault_proxy.reset()
        fault_proxy.wait_until(lambda: fault_proxy.open == 0)
        fault(fault_proxy)
        fault_proxy.accept()
        began = time.monotonic()
    else:
        fault(fault_proxy)
        began = time.monotonic()
        fault_proxy.reset()
    watcher.wait_for_messages(10)
    connected = [event for at, event in watcher.seen[1:] if isinstance(event, r.Connected)]
    back_at = next(at for at, event in watcher.seen if event is connected[-1])
    assert back_at - began < limit + LOAD
    if "cut" not in name:
        assert connected[-1].attempt == attempt
        upgraded = 3 if "upgraded" in name else 0
        assert len(connected) == upgraded + 1
        assert watcher.count(r.Disconnected) == upgraded + 1
    losses = watcher.losses()
    assert losses.unmarked == losses.wrong == 0
    assert watcher.end() is None
    table.append(
        (
            f"reset, then {name}", f"back {back_at - began:.3f} s", str(losses.marked),
            f"Disconnected, Connected(attempt={connected[-1].attempt})",
        )
    )  # fmt: skip


def test_a_server_that_refuses_connections_is_waited_for(
    fault_proxy: FaultProxy, watch: Callable[..., Watcher], table: list[tuple[str, ...]]
) -> None:
    watcher = watch()
    watcher.wait_for_messages(10)
    fault_proxy.refuse()
    fault_proxy.reset()
    let_pass(0.5)
    fault_proxy.accept()
    began = time.monotonic()
    watcher.wait_for_messages(10)
    found = watcher.first(r.Connected, began)
    assert found is not None
    assert found[0] - began < 0.1 + LOAD
    assert found[1].attempt > 4
    losses = watcher.losses()
    assert losses.marked > 20
    assert losses.unmarked == losses.wrong == 0
    assert watcher.end() is None
    table.append(
        (
            "reset, then refused for 0.5 s", f"back {found[0] - began:.3f} s after",
            str(losses.marked), f"Disconnected, Connected(attempt={found[1].attempt})",
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("status", "kind", "connections"),
    [(401, r.AuthenticationError, 3), (403, r.PermissionDeniedError, 2), (404, r.NotFoundError, 2)],
)
def test_a_refusal_that_is_final_ends_it(
    fault_proxy: FaultProxy,
    watch: Callable[..., Watcher],
    table: list[tuple[str, ...]],
    status: int,
    kind: type[Exception],
    connections: int,
) -> None:
    watcher = watch()
    watcher.wait_for_messages(10)
    fault_proxy.answer(status)
    began = time.monotonic()
    fault_proxy.reset()
    error = watcher.ends()
    took = time.monotonic() - began
    assert isinstance(error, kind)
    assert watcher.connection.error is error
    assert fault_proxy.connections == connections
    assert isinstance(watcher.seen[-1][1], r.Disconnected)
    assert took < 0.1 + LOAD
    row = (f"reset, then {status} for ever", f"ended {took:.3f} s", "–", f"raises {error!r}")
    table.append(row)


def test_a_server_that_closes_at_once_sees_few_connections(
    fault_proxy: FaultProxy, watch: Callable[..., Watcher], table: list[tuple[str, ...]]
) -> None:
    retry = r.RetryPolicy(initial_interval=0.1, randomization_factor=0)
    watcher = watch(retry=retry)
    watcher.wait_for_messages(10)
    fault_proxy.flap_after_upgrade()
    before = fault_proxy.connections
    fault_proxy.reset()
    let_pass(1.2)
    seen = fault_proxy.connections - before
    assert 2 <= seen <= 3  # after 0.1, 0.3 and 0.7 seconds
    assert watcher.end() is None
    row = (
        "closed after each upgrade, for 1.2 s",
        "–",
        "–",
        f"{seen} connections, delays 0.1 s × 2ⁿ",
    )
    table.append(row)


# -- many ----------------------------------------------------------------------------------------


def faults(proxy: FaultProxy, rng: random.Random, stall: float) -> dict[str, Callable[[], object]]:
    """What may go wrong, each of them for a moment."""

    def stall_for(seconds: float) -> None:
        proxy.stall(upstream=rng.random() < 0.5)
        let_pass(seconds)

    def refuse_for(seconds: float) -> None:
        proxy.refuse()
        proxy.reset()
        let_pass(seconds)

    def meet(fault: Callable[..., object], *args: Any, **options: Any) -> None:
        fault(*args, times=rng.randint(1, 2), **options)
        rng.choice([proxy.reset, proxy.fin])()
        let_pass(0.05)

    return {
        "reset": proxy.reset,
        "fin": proxy.fin,
        "cut": lambda: proxy.cut_after(rng.randint(0, 40)),
        "bad frame": lambda: proxy.inject(BAD_FRAME),
        "half a frame": lambda: (proxy.inject(b"\x81\x7e"), proxy.fin()),
        "stall": lambda: stall_for(stall),
        "pause": lambda: stall_for(0.02),
        "delay": lambda: (proxy.delay(rng.random() / 20), let_pass(0.05)),
        "slow": lambda: (proxy.slow_loris(500.0), let_pass(0.05)),
        "refuse": lambda: refuse_for(0.05),
        "503": lambda: meet(proxy.answer, 503, {"Retry-After": "0"}),
        "500": lambda: meet(proxy.answer, 500),
        "flap": lambda: meet(proxy.flap),
        "upgrade": lambda: meet(proxy.flap_after_upgrade),
        "garbage": lambda: meet(proxy.garbage, b"\xff" * 20),
        "silence": lambda: meet(proxy.never_answer),
    }


def test_200_faults_lose_nothing_without_a_mark(
    fault_proxy: FaultProxy, watch: Callable[..., Watcher], table: list[tuple[str, ...]]
) -> None:
    rng = random.Random(20240607)
    watcher = watch(
        every=0.004,
        ping_interval=0.1,
        ping_timeout=0.1,
        open_timeout=0.1,
        retry=r.RetryPolicy(initial_interval=0.005, max_interval=0.02),
    )
    repertoire = faults(fault_proxy, rng, 0.25)
    names = [rng.choice(list(repertoire)) for _ in range(200)]
    assert set(names) == set(repertoire)
    for name in names:
        watcher.wait_for_messages(rng.randint(1, 5))
        repertoire[name]()
        fault_proxy.resume()
        fault_proxy.accept()
    watcher.wait_for_messages(10)
    losses = watcher.losses()
    messages, gaps = watcher.count(r.Message), watcher.count(r.Disconnected)
    assert losses.unmarked == 0
    assert losses.wrong == 0
    assert gaps > 100
    assert watcher.connection.stats.received == messages + watcher.connection.stats.queued
    assert watcher.end() is None
    table.append(
        (
            "200 faults at random", "–", f"{losses.marked} marked, 0 unmarked",
            f"{messages} messages, {gaps} Disconnected, 0 twice, in order",
        )
    )  # fmt: skip


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs /proc")
def test_100_rounds_leave_neither_threads_nor_files(
    fault_proxy: FaultProxy, websocket_peer: WebSocketPeer, table: list[tuple[str, ...]]
) -> None:
    rng = random.Random(7)
    closing = itertools.cycle([None, 0, 0.05])

    def go() -> None:
        attempts: list[int] = []
        connection = r.WebSocketConnection.connect(
            fault_proxy.url + "/ticks",
            retry=RETRY,
            open_timeout=0.2,
            close_timeout=0.1,
            on_reconnect=attempts.append,
            should_reconnect=rng.choice([None, lambda _: 1 / 0, lambda _: False]),
        )
        assert next(connection)["n"] >= 0
        rng.choice(list(faults(fault_proxy, rng, 0.02).values()))()
        if rng.random() < 0.5:
            let_pass(0.02)
        connection.close(next(closing))
        assert connection.state is ConnectionState.CLOSED
        fault_proxy.resume()
        fault_proxy.accept()
        for broken in (b"", b"HTTP/1.1 503 x\r\n\r\n"):
            fault_proxy.garbage(broken, times=1)
            with pytest.raises(r.ReasoningError):
                r.WebSocketConnection.connect(fault_proxy.url + "/ticks", open_timeout=0.2)

    go()
    gc.collect()
    fault_proxy.wait_until(lambda: fault_proxy.open == 0)
    threads, files = threading.active_count(), open_files()
    for _ in range(100):
        go()
    fault_proxy.wait_until(lambda: fault_proxy.open == 0)
    deadline = time.monotonic() + 5.0
    while (now := (threading.active_count(), open_files())) != (threads, files):
        assert time.monotonic() < deadline, f"before: {threads, files}, after: {now}"
        let_pass(0.05)
    websocket_peer.wait_until("/ticks", lambda stats: stats.open == 0)
    row = ("100 × connect, fault, close", "–", "–", f"{threads} threads, {files} files: as before")
    table.append(row)
