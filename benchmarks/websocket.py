"""Messages received through a WebSocket, sent to and fro, and what a connection that breaks does.

The server is in a process of its own, and shakes hands, frames and unmasks by hand: it has to keep
ahead of each client. The messages of one kind are all of the same size, so that the floor, which
knows it, has nothing to decode but the messages themselves.
"""

import json
import random
import socket
import struct
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, suppress
from functools import partial
from hashlib import sha1
from itertools import count as numbers_from
from itertools import islice
from typing import Any

import attrs

from benchmarks.harness import Candidate, Comparison, Result, is_installed, serving
from reasoning_sdk import RetryPolicy, WebSocketConnection
from reasoning_sdk.errors import ReasoningError
from reasoning_sdk.events import Connected, Disconnected, Message

__all__ = ["SMALL", "Sizes", "comparisons", "server"]

_BLOCK = 65536
_LARGEST = 16 * 1024 * 1024  # bytes of a message
_WAIT = 60.0  # seconds for what should take one or two


@attrs.frozen(kw_only=True)
class Sizes:
    """How many messages, and how long what breaks is waited for.

    Args:
        small: How many messages of 200 bytes.
        slow: How many of them a peer gets that takes many times as long.
        middle: How many of 20 KB.
        large: How many of 5 MB.
        trips: How many messages are sent to and fro at a time.
        turns: How often a round does that.
        ping_interval: Seconds between pings to a server that answers none.
        ping_timeout: Seconds to wait for the answer.
        close_timeout: The same for a close.
        faults: How many connections break.
    """

    small: int = 100_000
    slow: int = 10_000
    middle: int = 5000
    large: int = 20
    trips: int = 500
    turns: int = 8
    ping_interval: float = 2.0
    ping_timeout: float = 1.0
    close_timeout: float = 2.0
    faults: int = 200


SMALL = Sizes(
    small=700,
    slow=50,
    middle=10,
    large=2,
    trips=20,
    turns=1,
    ping_interval=0.1,
    ping_timeout=0.1,
    close_timeout=0.1,
    faults=20,
)


# -- messages ----------------------------------------------------------------------------------

_CHUNK = {
    "type": "agent.completion.chunk",
    "created": 1_760_000_000,
    "agent": {"name": "researcher", "model": "gpt-5-mini"},
    "delta": {"content": "The quick brown fox jumps over the lazy dog.", "refusal": None},
}
_SMALL, _MIDDLE, _LARGE = 1, 106, 26_600  # chunks that make 200 bytes, 20 KB and 5 MB


def message_of(chunks: int, number: int) -> dict[str, Any]:
    """A message of one chunk, or of many."""
    more = _CHUNK if chunks == 1 else {"chunks": [_CHUNK] * chunks}
    return {"number": f"{number:08d}", **more}


def frames_of(chunks: int, count: int) -> bytes:
    """The frames of numbered messages."""
    whole = frame(json.dumps(message_of(chunks, 0), separators=(",", ":")).encode())
    before, _, after = whole.partition(b"00000000")
    return b"".join([b"%s%08d%s" % (before, number, after) for number in range(count)])


def frame(payload: bytes) -> bytes:
    """A server's text message."""
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size <= 0xFFFF:
        return struct.pack(">BBH", 0x81, 126, size) + payload
    return struct.pack(">BBQ", 0x81, 127, size) + payload


# -- the server --------------------------------------------------------------------------------

_CLOSE = b"\x88\x02\x03\xe8"
_AWAY = b"\x88\x02\x03\xe9"


def server() -> AbstractContextManager[int]:
    """A server in a process of its own; gives its port. The path says what it does."""
    return serving(_serve)


def _serve(accepted: socket.socket) -> None:
    with accepted, suppress(ConnectionError):  # a client that has what it wants may just leave
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        does, *arguments = _shake_hands(accepted)
        {"send": _send, "echo": _echo, "silent": _be_silent, "drop": _drop, "break": _break}[does](
            accepted, *arguments
        )


def _shake_hands(accepted: socket.socket) -> list[str]:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += accepted.recv(_BLOCK)
    fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:-2])
    key = {name.lower(): value for name, value in fields.items()}["sec-websocket-key"]
    told = f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()
    accept = b64encode(sha1(told).digest())  # noqa: S324  # RFC 6455 wants it
    accepted.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %s\r\n\r\n" % accept
    )
    return head.split(b" ", 2)[1].decode().removeprefix("/").split("/")


def _send(accepted: socket.socket, chunks: str, count: str) -> None:
    """Wait for a message, then send many."""
    frames = frames_of(int(chunks), int(count))
    accepted.recv(_BLOCK)
    accepted.sendall(frames)
    if accepted.recv(_BLOCK):
        accepted.sendall(_CLOSE)


def _echo(accepted: socket.socket) -> None:
    """Send back each frame, of which there is one at a time, shorter than 126 bytes."""
    receive, send, number = accepted.recv, accepted.sendall, int.from_bytes
    while data := receive(_BLOCK):
        size = data[1] & 0x7F
        mask = number((data[2:6] * 32)[:size], "big")
        send(bytes((data[0], size)) + (number(data[6:], "big") ^ mask).to_bytes(size, "big"))
        if data[0] == _CLOSE[0]:
            return


def _be_silent(_: socket.socket) -> None:
    """Neither read nor write, as if nobody were there."""
    threading.Event().wait()


def _drop(accepted: socket.socket) -> None:
    """Leave."""


_SERIES: dict[str, tuple[Iterator[int], Iterator[int], random.Random]] = {}


def _break(accepted: socket.socket, name: str, faults: str) -> None:
    """Send some more messages of a series, and break the connection; or close, at the end.

    What is on its way then may be lost. The next connection goes on with the next number.
    """
    chance = random.Random(name)  # noqa: S311
    numbers, tries, chance = _SERIES.setdefault(name, (numbers_from(), numbers_from(), chance))
    more = b"".join(frame(b"%d" % next(numbers)) for _ in range(chance.randint(1, 40)))
    if next(tries) == int(faults):
        accepted.sendall(more + _CLOSE)
        accepted.recv(_BLOCK)
        return
    fault = chance.choice(["end", "end inside", "reset", "reset inside", "close"])
    if fault.endswith("inside"):
        part = frame(b'"%s"' % (b"x" * 200))
        more += part[: chance.randrange(1, len(part))]
    accepted.sendall(more + (_AWAY if fault == "close" else b""))
    if chance.random() < 0.5:  # else what was just sent may not have been read
        time.sleep(chance.random() * 0.005)
    if fault.startswith("reset"):
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# -- receiving ---------------------------------------------------------------------------------


def connected(port: int, path: str, **options: Any) -> WebSocketConnection:
    """This library, with no compression."""
    options.setdefault("close_timeout", 10.0)
    url = f"ws://127.0.0.1:{port}/{path}"
    return WebSocketConnection.connect(url, proxy="", compression=False, **options)


def receive_ours(port: int, chunks: int, count: int) -> Result:
    """This library, iterated as users do."""
    with connected(port, f"send/{chunks}/{count}") as connection:
        found, message = 0, {}
        start = time.process_time()
        connection.send("go")
        for message in islice(connection, count):  # noqa: B007
            found += 1
        return Result(found, message, time.process_time() - start)


def receive_by_peer(port: int, make: "Opened", chunks: int, count: int) -> Result:
    """A peer, whose ``recv`` gives a text."""
    with closing(make(port, f"send/{chunks}/{count}")) as connection:
        found, message = 0, {}
        loads, recv = json.loads, connection.recv
        start = time.process_time()
        connection.send("go")
        for _ in range(count):
            message = loads(recv())
            found += 1
        return Result(found, message, time.process_time() - start)


def receive_raw(port: int, at_end: bool, chunks: int, count: int) -> Result:
    """A floor: a socket, and the places where messages are known to be; as they come, or at end."""
    one = frames_of(chunks, 1)
    size, head = len(one), one.index(b"{")
    wanted = size * count if at_end else size
    with raw(port, f"send/{chunks}/{count}") as sock:
        found, message, parts, held = 0, {}, [], 0
        loads, recv = json.loads, sock.recv
        start = time.process_time()
        sock.sendall(_GO)
        while found < count:
            data = recv(_BLOCK)
            parts.append(data)
            held += len(data)
            if held >= wanted:
                data = b"".join(parts)
                end = held - held % size
                for at in range(0, end, size):
                    message = loads(data[at + head : at + size].decode())
                    found += 1
                parts, held = [data[end:]], held - end
        return Result(found, message, time.process_time() - start)


_GO = b"\x81\x84\0\0\0\0" + b'"go"'


def raw(port: int, path: str) -> socket.socket:
    """A socket over which hands have been shaken."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(f"GET /{path} HTTP/1.1\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFi\r\n\r\n".encode())
    while not sock.recv(_BLOCK).endswith(b"\r\n\r\n"):  # nothing comes behind it yet
        pass
    return sock


Opened = Callable[[int, str], Any]


def websocket_client(port: int, path: str, **options: Any) -> Any:
    """websocket-client."""
    import websocket  # noqa: PLC0415  # as with the other peer

    url = f"ws://127.0.0.1:{port}/{path}"
    return websocket.create_connection(url, **options)


def websockets_sync(port: int, path: str) -> Any:
    """The threaded client of websockets."""
    from websockets.sync.client import connect  # noqa: PLC0415

    url = f"ws://127.0.0.1:{port}/{path}"
    return connect(url, compression=None, max_size=_LARGEST, proxy=None)


# -- to and fro --------------------------------------------------------------------------------


def trips_ours(port: int, count: int) -> Result:
    """The median time until a message that was sent has come back, by this library."""
    with connected(port, "echo") as connection:
        send, receive = connection.send, connection.next_message

        def trip(message: Any) -> Any:
            send(message)
            return receive()

        return _timed(trip, count)


def trips_by_peer(port: int, make: Opened, count: int) -> Result:
    """The same by a peer."""
    with closing(make(port, "echo")) as connection:
        send, receive, dumps, loads = connection.send, connection.recv, json.dumps, json.loads

        def trip(message: Any) -> Any:
            send(dumps(message))
            return loads(receive())

        return _timed(trip, count)


def trips_raw(port: int, count: int) -> Result:
    """The least: a socket, in the one thread that waits."""
    with raw(port, "echo") as sock:
        send, receive, dumps, loads = sock.sendall, sock.recv, json.dumps, json.loads

        def trip(message: Any) -> Any:
            payload = dumps(message).encode()
            send(bytes((0x81, 0x80 | len(payload))) + b"\0\0\0\0" + payload)
            return loads(receive(_BLOCK)[2:].decode())

        return _timed(trip, count)


def _timed(trip: Callable[[Any], Any], count: int) -> Result:
    now, took, right = time.perf_counter_ns, [], 0
    for number in range(count):
        message = {"type": "input.append", "number": number, "text": "Hello, how are you?"}
        start = now()
        answer = trip(message)
        took.append(now() - start)
        right += answer == message
    took.sort()
    return Result(right, "came back", took[len(took) // 2] / 1e9)


# -- connections that break --------------------------------------------------------------------


def half_open(port: int, interval: float, timeout: float) -> Result:
    """The seconds until a connection is given up whose other side is not there any more."""
    start = time.monotonic()
    with connected(
        port,
        "silent",
        ping_interval=interval,
        ping_timeout=timeout,
        should_reconnect=lambda _: False,
    ) as connection:
        try:
            for _ in connection:
                pass
        except ReasoningError as exc:
            return Result(1, str(exc), time.monotonic() - start)
    raise RuntimeError("nothing was noticed")


def close_reader(port: int, timeout: float) -> Result:
    """The seconds until a close has returned, and a thread that waits for a message."""
    connection = connected(port, "silent", close_timeout=timeout)
    return _closed(connection, connection.next_message, lambda: True)


def close_sender(port: int, timeout: float) -> Result:
    """The same of a thread that sends what nobody reads."""
    connection = connected(port, "silent", close_timeout=timeout, send_timeout=_WAIT, codec="raw")

    def send() -> None:
        with suppress(ReasoningError):
            while True:
                connection.send(b"x" * _BLOCK)

    sent = [-1]

    def is_stuck() -> bool:
        sent.append(connection.stats.sent)
        return 0 < sent[-1] == sent[-2]

    return _closed(connection, send, is_stuck)


def close_waiting(port: int, timeout: float) -> Result:
    """The same of a thread that waits for a message, before a connection is made again."""
    waits = threading.Event()
    connection = connected(
        port,
        "drop",
        close_timeout=timeout,
        retry=RetryPolicy(initial_interval=_WAIT, max_interval=_WAIT),
        on_reconnect=lambda _: waits.set(),
    )
    return _closed(connection, connection.next_message, waits.is_set)


def _closed(
    connection: WebSocketConnection, work: Callable[[], Any], is_stuck: Callable[[], bool]
) -> Result:
    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.05)
    while not is_stuck():
        time.sleep(0.05)
    start = time.monotonic()
    connection.close()
    thread.join(_WAIT)
    return Result(1 - thread.is_alive(), "woken", time.monotonic() - start)


_series = numbers_from()


def break_often(port: int, faults: int) -> Result:
    """How many messages are lost or doubled where nothing says so."""
    connection = connected(
        port,
        f"break/{time.time_ns()}-{next(_series)}/{faults}",
        retry=RetryPolicy(initial_interval=0.001, max_interval=0.001),
        should_reconnect=lambda error: getattr(error, "close_code", None) != 1000,
    )
    events: list[Connected | Message | Disconnected] = []
    with connection, suppress(ReasoningError):
        events.extend(connection.events())
    ends = [event.close_code for event in events if isinstance(event, Disconnected)]
    last = "closed" if ends[-1] == 1000 else f"lost: {connection.error}"
    return Result(len(ends) - 1, last, wrong_in(events))


def wrong_in(events: Iterable[Connected | Message | Disconnected]) -> int:
    """How many numbers are missing with no gap marked, or come again."""
    wrong, last, is_gap = 0, -1, False
    for event in events:
        if isinstance(event, Disconnected):
            is_gap = True
        elif isinstance(event, Message):
            if event.data <= last:
                wrong += 1
            elif not is_gap:
                wrong += event.data - last - 1
            last, is_gap = max(last, event.data), False
    return wrong


# -- comparisons -------------------------------------------------------------------------------

_WITHOUT_SPEED = ("msgspec",)
_FEW = 3  # rounds, of what has no bound, is long, or hardly differs
_FLOORS = ("raw socket + `json.loads`", "raw socket + `json.loads`, all at the end")
_FAST = "websocket-client, `skip_utf8_validation`"
_fast = partial(websocket_client, skip_utf8_validation=True, enable_multithread=False)


def comparisons(sizes: Sizes, port: int) -> list[Comparison]:
    """All figures of this file."""
    return [
        *_small(sizes, port),
        _larger(port, "20 KB", _MIDDLE, sizes.middle, (1e6, "µs")),
        _larger(port, "5 MB", _LARGE, sizes.large, (1e3, "ms")),
        *_trips(sizes, port),
        *_breaks(sizes, port),
    ]


def _receiving(
    name: str, run: Callable[..., Result], chunks: int, count: int, **options: Any
) -> Candidate:
    return Candidate(
        name=name,
        run=partial(_received, run, chunks),
        given=partial(int, count),
        count=count,
        last=message_of(chunks, count - 1),
        per=count,
        **options,
    )


def _received(run: Callable[..., Result], chunks: int, count: int) -> Result:
    return run(chunks, count)


def _receiving_ours(port: int, chunks: int, count: int) -> Candidate:
    run = partial(receive_ours, port)
    return _receiving("ours, WebSocket", run, chunks, count, without=_WITHOUT_SPEED)


def _floors(port: int, chunks: int, count: int) -> list[Candidate]:
    runs = (partial(receive_raw, port, at_end) for at_end in (False, True))
    return [_receiving(name, run, chunks, count) for name, run in zip(_FLOORS, runs, strict=True)]


def _small(sizes: Sizes, port: int) -> list[Comparison]:
    """CPU time per message of 200 bytes."""
    chunks, count = _SMALL, sizes.small
    what = "WebSocket, messages of 200 bytes"
    ours, floors = _receiving_ours(port, chunks, count), _floors(port, chunks, count)

    def peer(name: str, make: Opened, count: int = count) -> Candidate:
        return _receiving(name, partial(receive_by_peer, port, make), chunks, count)

    peers = [peer(_FAST, _fast)]
    if is_installed("websockets"):
        peers.append(peer("websockets", websockets_sync))
    slow = peer("websocket-client", websocket_client, sizes.slow)
    found = [
        Comparison(what=what, ours=ours, others=floors, at_most=1.25, judge=_FLOORS),
        Comparison(what=what, ours=ours, others=peers, at_most=0.6, judge=["websockets"]),
        Comparison(what=what, ours=ours, others=[slow], rounds=_FEW),
    ]
    if is_installed("msgspec"):
        run = partial(receive_ours, port)
        fast = _receiving("ours, WebSocket", run, chunks, count)
        found.append(Comparison(what=f"{what}, with `speed`", ours=fast, others=floors))
    return found


def _larger(port: int, size: str, chunks: int, count: int, unit: tuple[float, str]) -> Comparison:
    """CPU time per message that is larger."""
    return Comparison(
        what=f"WebSocket, messages of {size}",
        ours=_receiving_ours(port, chunks, count),
        others=_floors(port, chunks, count),
        at_most=1.15,
        judge=_FLOORS,
        unit=unit,
    )


def _trips(sizes: Sizes, port: int) -> list[Comparison]:
    """The time to and fro."""
    of = partial(Candidate, given=partial(int, sizes.trips), count=sizes.trips, last="came back")
    others = [
        of(name="raw socket", run=partial(trips_raw, port)),
        of(name=_FAST, run=partial(trips_by_peer, port, _fast)),
    ]
    if is_installed("websockets"):
        run = partial(trips_by_peer, port, websockets_sync)
        others.append(of(name="websockets", run=run))
    run = partial(trips_ours, port)
    what = "WebSocket, to and fro, p50"
    about = partial(Comparison, others=others, turns=sizes.turns)
    found = [
        about(
            what=what,
            ours=of(name="ours, WebSocket", run=run, without=_WITHOUT_SPEED),
            at_most=0.8,
            judge=["websockets"],
        )
    ]
    if is_installed("msgspec"):
        found.append(about(what=f"{what}, with `speed`", ours=of(name="ours, WebSocket", run=run)))
    return found


def _breaks(sizes: Sizes, port: int) -> list[Comparison]:
    """Seconds until what is broken is left, and messages lost."""

    def about(what: str, run: Callable[..., Result], *arguments: Any, **options: Any) -> Comparison:
        expected = {"count": 1, "last": "woken", "at_most": 2.1, "unit": (1, "s"), **options}
        ours = Candidate(
            name="ours, WebSocket, broken",
            run=partial(_broken, run, arguments),
            given=partial(int, port),
            count=expected.pop("count"),
            last=expected.pop("last"),
            without=_WITHOUT_SPEED,
        )
        return Comparison(what=f"WebSocket, {what}", ours=ours, **expected)

    interval, timeout = sizes.ping_interval, sizes.ping_timeout
    limit = sizes.close_timeout
    closes = partial(about, rounds=_FEW)
    return [
        about(
            f"half open, noticed; `ping_interval={interval:g}`, `ping_timeout={timeout:g}`",
            half_open,
            interval,
            timeout,
            last=f"no answer to a ping in {timeout:g} s",
            at_most=3.5,
            rounds=_FEW,
        ),
        closes("`close`, a reader is blocked, no answer", close_reader, limit),
        closes("`close`, a sender is blocked, no answer", close_sender, limit),
        closes("`close`, while it waits to connect again", close_waiting, limit),
        about(
            f"lost or doubled without a mark, {sizes.faults} random faults",
            break_often,
            sizes.faults,
            count=sizes.faults,
            last="closed",
            at_most=0,
            unit=(1, "messages"),
            rounds=_FEW,
        ),
    ]


def _broken(run: Callable[..., Result], arguments: tuple[Any, ...], port: int) -> Result:
    return run(port, *arguments)
