"""The life of a WebSocket, driven by hand: what it makes of a clock that jumps."""

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from reasoning_sdk._io import link as module
from reasoning_sdk._io.dial import Pipe
from reasoning_sdk._io.link import Link, LinkSettings
from reasoning_sdk._io.translate import Hide
from reasoning_sdk._io.websocket import Dialed, Wire
from reasoning_sdk.errors import ConnectionLostError, IdleTimeoutError, RequestTimeoutError
from reasoning_sdk.events import Disconnected
from reasoning_sdk.retry import RetryPolicy

LIMITS: dict[str, dict[str, Any]] = {
    "ping": {"ping_interval": 10.0, "ping_timeout": 5.0},
    "idle": {"idle_timeout": 5.0},
    "both": {"ping_interval": 10.0, "ping_timeout": 5.0, "idle_timeout": 15.0},
}
MESSAGE, PONG = b"\x81\x05hello", b"\x8a\x011"


class FakeTime:
    """A monotonic clock that stands still, but for when a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


class Driven:
    """A link whose thread never runs: each step is the test's."""

    def __init__(self, clock: FakeTime, wire: Wire, peer: socket.socket, **limits: float) -> None:
        self.clock = clock
        self.peer = peer
        settings: dict[str, Any] = dict.fromkeys(LinkSettings._fields)
        settings.update(retry=RetryPolicy(), close_timeout=1.0, overflow="block", **limits)
        self.link = Link(lambda: ("ws://h/", {}), LinkSettings(**settings), lambda: None)
        self.link._use(Dialed(wire, {}, None, None, Hide()))
        self.wire = wire
        self._receive = wire.receive
        if "ping_interval" in limits:
            clock.now += 10.0
            self.step()
            assert peer.recv(100)[:1] == b"\x89"  # now the answer is waited for

    def step(self) -> None:
        self.link._step()

    def is_stopped_in_a_wait(self, meanwhile: Callable[[], object]) -> None:
        """A step in whose wait the process is stopped, and goes on long after the limits."""

        def receive(timeout: float) -> bytes:
            assert timeout > 0
            self.wire.receive = self._receive  # type: ignore[method-assign]
            self.clock.now += 1000.0
            meanwhile()
            raise TimeoutError("nothing yet")  # which is what the kernel has said before

        self.wire.receive = receive  # type: ignore[method-assign]
        self.step()

    def given(self) -> list[Any]:
        """What there is to take."""
        items: list[Any] = []
        while True:
            try:
                batch = self.link.first(0.0)
            except RequestTimeoutError:
                return items
            if batch is None:
                return items
            items += batch.items


Drive = Callable[..., Driven]


@pytest.fixture
def drive(monkeypatch: pytest.MonkeyPatch) -> Iterator[Drive]:
    clock = FakeTime()
    monkeypatch.setattr(module, "time", clock)
    client, server = socket.socketpair()
    wire = Wire(Pipe(client))
    with client, server:
        server.settimeout(5.0)
        yield lambda **limits: Driven(clock, wire, server, **limits)
        wire.free()


@pytest.mark.parametrize("limits", LIMITS)
def test_a_peer_is_not_judged_before_what_it_sent_was_read(drive: Drive, limits: str) -> None:
    driven = drive(**LIMITS[limits])
    driven.is_stopped_in_a_wait(lambda: driven.peer.sendall(MESSAGE))
    driven.step()
    assert driven.given() == ["hello"]
    assert driven.link._wire is driven.wire


@pytest.mark.parametrize("limits", LIMITS)
def test_a_peer_that_has_sent_nothing_is_judged(drive: Drive, limits: str) -> None:
    driven = drive(**LIMITS[limits])
    driven.is_stopped_in_a_wait(lambda: None)
    driven.step()
    (lost,) = driven.given()
    assert isinstance(lost, Disconnected)
    if limits == "idle":
        assert isinstance(lost.error, IdleTimeoutError)
    else:
        assert type(lost.error) is ConnectionLostError
        assert str(lost.error) == "no answer to a ping in 5 s"
    assert driven.link._wire is None


@pytest.mark.parametrize("limits", LIMITS)
def test_what_waits_at_the_limit_is_read_though_it_comes_in_pieces(
    drive: Drive, limits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    driven = drive(**LIMITS[limits])
    pieces = [PONG, MESSAGE[:1], MESSAGE[1:3], MESSAGE[3:]]

    def receive(timeout: float) -> bytes:
        driven.clock.now += 1.0  # each takes its time
        if pieces:
            return pieces.pop(0)
        raise TimeoutError("nothing yet")

    driven.clock.now += 1000.0
    monkeypatch.setattr(driven.wire, "receive", receive)
    for _ in range(4):
        driven.step()
    assert driven.given() == ["hello"]
    assert driven.link._wire is driven.wire


def test_a_ping_that_is_due_is_sent_though_there_is_always_something_to_read(drive: Drive) -> None:
    driven = drive(**LIMITS["ping"])
    driven.peer.sendall(PONG)
    driven.step()
    driven.clock.now += 10.0
    driven.peer.sendall(MESSAGE)
    driven.step()
    assert driven.peer.recv(100)[:1] == b"\x89"
    assert driven.given() == ["hello"]


def test_a_wait_that_ends_early_is_no_judgement(drive: Drive) -> None:
    driven = drive(**LIMITS["both"])
    driven.clock.now += 4.9
    driven.link._wire.receive = _nothing  # type: ignore[union-attr,method-assign]
    for _ in range(5):
        driven.step()
    assert driven.link._wire is driven.wire
    driven.clock.now += 0.2
    driven.step()
    assert driven.link._wire is None


def _nothing(timeout: float) -> bytes:
    raise TimeoutError("nothing yet")
