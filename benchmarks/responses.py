"""A response streamed over loopback, from a server in a process of its own.

Work is measured with a server that has the whole body ready. For the time that an event takes to
arrive, the server writes one every few milliseconds and tells in the last one when, by a clock
that all processes share, it wrote each of the others.
"""

import json
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import cache, partial
from typing import Any

import attrs

from benchmarks.harness import Candidate, Comparison, Result, is_installed, serving
from benchmarks.sse import data_of
from reasoning_sdk import ResponsesClient

__all__ = ["Sizes", "comparisons", "server"]

_BLOCK = 65536
_COMPLETED = {"id": "resp_1", "object": "response", "status": "completed", "output": []}


@attrs.frozen(kw_only=True)
class Sizes:
    """How many events a body has, and how many come alone, so many seconds apart."""

    events: int = 20_000
    alone: int = 1000
    alone_pause: float = 0.0005
    timed: int = 25
    timed_pause: float = 0.003
    turns: int = 8


# -- the server --------------------------------------------------------------------------------


def server() -> AbstractContextManager[int]:
    """A server in a process of its own; gives its port."""
    return serving(_answer_all)


def _answer_all(accepted: socket.socket) -> None:
    """Answer requests to ``/FRAMING/COUNT/PAUSE`` on one connection; see :func:`comparisons`."""
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with accepted, accepted.makefile("rb") as lines:
        while True:
            path, length = b"", 0
            while (line := lines.readline()) not in (b"\r\n", b""):
                path = path or line
                if line.lower().startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            if not path:
                return
            lines.read(length)
            framing, count, pause = path.decode().split("/")[1:4]
            if framing in ("blocks", "single"):
                accepted.sendall(_whole(framing, int(count)))
            else:
                _send_one_by_one(accepted, framing, int(count), float(pause))
            if framing == "close":
                return


@cache
def _whole(framing: str, count: int) -> bytes:
    """An answer with many events, in HTTP chunks of 64 KB or of an event each."""
    events = [_event(data_of(number)) for number in range(count - 1)]
    events.append(_event(_completed()))
    body = b"".join(events)
    if framing == "blocks":
        events = [body[i : i + _BLOCK] for i in range(0, len(body), _BLOCK)]
    return _head("chunked") + b"".join(map(_chunk, events)) + b"0\r\n\r\n"


def _send_one_by_one(accepted: socket.socket, framing: str, count: int, pause: float) -> None:
    """Send events, and with the last the times at which the others were written."""
    accepted.sendall(_head(framing))
    compress = zlib.compressobj(wbits=31)
    sent: list[int] = []
    for number in range(count):
        time.sleep(pause)
        data = _event(data_of(number) if number < count - 1 else _completed(sent=sent))
        if framing == "gzip":
            data = compress.compress(data) + compress.flush(zlib.Z_SYNC_FLUSH)
        if framing != "close":
            data = _chunk(data)
        sent.append(time.monotonic_ns())
        accepted.sendall(data)
    if framing == "gzip":
        accepted.sendall(_chunk(compress.flush()))
    if framing != "close":
        accepted.sendall(b"0\r\n\r\n")


def _head(framing: str) -> bytes:
    fields = {
        "chunked": "Transfer-Encoding: chunked",
        "gzip": "Transfer-Encoding: chunked\r\nContent-Encoding: gzip",
        "close": "Connection: close",
    }
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{fields[framing]}\r\n\r\n"
    return head.encode()


def _event(data: str) -> bytes:
    return b"data: %s\n\n" % data.encode()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _completed(**more: Any) -> str:
    return json.dumps({"type": "response.completed", "response": _COMPLETED, **more})


# -- clients -----------------------------------------------------------------------------------


def ours(port: int, path: str) -> Iterator[dict[str, Any]]:
    """This library."""
    for event in _our_client(port, path).stream("hello"):
        yield event.data


@cache
def _our_client(port: int, path: str) -> ResponsesClient:
    return ResponsesClient("m", base_url=f"http://127.0.0.1:{port}{path}/v1", api_key="k")


def count_ours(port: int, path: str) -> Result:
    """This library, iterated as users do."""
    count, event = 0, None
    for event in _our_client(port, path).stream("hello"):  # noqa: B007
        count += 1
    return Result(count, event.type)


def count_openai(port: int, path: str) -> Result:
    """openai, iterated as users do."""
    count, event = 0, None
    stream = _openai_client(port, path).responses.create(model="m", input="hello", stream=True)
    for event in stream:  # noqa: B007
        count += 1
    return Result(count, event.type)


@cache
def _openai_client(port: int, path: str) -> Any:
    from openai import OpenAI  # noqa: PLC0415  # most processes do without

    return OpenAI(base_url=f"http://127.0.0.1:{port}{path}/v1", api_key="k")


def count_raw_at_end(port: int, path: str) -> Result:
    """A floor: receive everything, undo the chunks, split, json.loads."""
    with _ask(port, path) as sock:
        parts, end = [], b""
        while not end.endswith(b"\r\n0\r\n\r\n"):
            part = sock.recv(_BLOCK)
            parts.append(part)
            end = (end + part)[-7:]
    received = b"".join(parts)
    position = received.index(b"\r\n\r\n") + 4
    chunks = []
    while True:
        line_end = received.index(b"\r\n", position)
        size = int(received[position:line_end], 16)
        if not size:
            break
        chunks.append(received[line_end + 2 : line_end + 2 + size])
        position = line_end + 4 + size
    count, data, loads = 0, {}, json.loads
    for part in b"".join(chunks).split(b"\n\n"):
        if part:
            data = loads(part[6:])
            count += 1
    return Result(count, data["type"])


def count_raw(port: int, path: str) -> Result:
    """The same as data arrives."""
    count, data = 0, {}
    for data in raw(port, path, "chunked"):  # noqa: B007
        count += 1
    return Result(count, data["type"])


def raw(port: int, path: str, framing: str) -> Iterator[dict[str, Any]]:
    """A socket, and the least that reads the framing and the events."""
    loads, held = json.loads, b""
    with _ask(port, path) as sock:
        for payload in _payloads(sock, framing):
            complete, blank, rest = payload.rpartition(b"\n\n")
            if not blank:
                held += rest
                continue
            for part in (held + complete).split(b"\n\n"):
                yield loads(part[6:])
            held = rest


def _ask(port: int, path: str) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(f"POST {path}/v1/responses HTTP/1.1\r\nContent-Length: 0\r\n\r\n".encode())
    return sock


def _payloads(sock: socket.socket, framing: str) -> Iterator[bytes]:
    received = sock.recv(_BLOCK)
    while b"\r\n\r\n" not in received:
        received += sock.recv(_BLOCK)
    received = received.partition(b"\r\n\r\n")[2]
    if framing == "close":
        while received := received or sock.recv(_BLOCK):
            yield received
            received = b""
        return
    decompress = zlib.decompressobj(wbits=31).decompress if framing == "gzip" else bytes
    while True:
        position, chunks = 0, []
        while (line_end := received.find(b"\r\n", position)) > 0:
            size = int(received[position:line_end], 16)
            end = line_end + 2 + size
            if len(received) < end + 2:
                break
            chunks.append(received[line_end + 2 : end])
            position = end + 2
        if chunks:
            yield decompress(b"".join(chunks))
            if not chunks[-1]:
                return
        received = received[position:] + sock.recv(_BLOCK)


# -- time to arrive ----------------------------------------------------------------------------


def delay_ours(port: int, path: str) -> Result:
    """The median time until this library gives an event."""
    return _delay(ours(port, path))


def delay_raw(port: int, framing: str, path: str) -> Result:
    """The median time until a raw socket's reader gives it."""
    return _delay(raw(port, path, framing))


def _delay(events: Iterator[dict[str, Any]]) -> Result:
    arrived, data, now = [], {}, time.monotonic_ns
    for data in events:  # noqa: B007
        arrived.append(now())
    delays = [a - s for a, s in zip(arrived, data["sent"], strict=False)]
    delays.sort()
    return Result(len(arrived), data["type"], delays[len(delays) // 2] / 1e9)


# -- comparisons -------------------------------------------------------------------------------


FLOOR = "raw socket + split + `json.loads`"
_WITHOUT_SPEED = ("msgspec",)


def comparisons(sizes: Sizes, port: int) -> list[Comparison]:
    """All figures of this file."""
    blocks, single = "HTTP chunks of 64 KB", "one event per HTTP chunk"
    alone, pause = sizes.alone, sizes.alone_pause
    found = [
        _work(port, f"`stream` end to end, {blocks}", f"/blocks/{sizes.events}/0", 1.6),
        _work(port, f"`stream` end to end, {single}", f"/single/{sizes.events}/0", 2.1),
        _work(port, "`stream`, each event comes alone", f"/chunked/{alone}/{pause}", None),
    ]
    if is_installed("msgspec"):
        fast = "`stream` with `speed`"
        found += [
            _work(port, f"{fast}, {blocks}", f"/blocks/{sizes.events}/0", 1.0, speed=True),
            _work(port, f"{fast}, {single}", f"/single/{sizes.events}/0", 1.6, speed=True),
            _work(port, f"{fast}, events alone", f"/chunked/{alone}/{pause}", None, speed=True),
        ]
    return found + [_delays(sizes, port, framing) for framing in ("chunked", "close", "gzip")]


def _work(
    port: int, what: str, path: str, at_most: float | None, *, speed: bool = False
) -> Comparison:
    """CPU time per event."""
    count = int(path.split("/")[2])
    of = partial(
        Candidate, given=partial(str, path), count=count, last="response.completed", per=count
    )
    others = [of(name=FLOOR, run=partial(count_raw, port))]
    if "/chunked/" not in path:
        others.append(of(name=f"{FLOOR}, all at the end", run=partial(count_raw_at_end, port)))
    if not speed and is_installed("openai"):
        others.append(of(name="openai", run=partial(count_openai, port)))
    without = () if speed else _WITHOUT_SPEED
    return Comparison(
        what=what,
        ours=of(name="ours", run=partial(count_ours, port), without=without),
        others=others,
        at_most=at_most,
        judge=[other.name for other in others if other.name != "openai"],
    )


def _delays(sizes: Sizes, port: int, framing: str) -> Comparison:
    """Time from the server's write to the event in the client's loop."""
    given = partial(str, f"/{framing}/{sizes.timed}/{sizes.timed_pause}")
    of = partial(Candidate, given=given, count=sizes.timed, last="response.completed")
    return Comparison(
        what=f"from write to event, median, {framing}",
        ours=of(name="ours", run=partial(delay_ours, port), without=_WITHOUT_SPEED),
        others=[of(name="raw socket", run=partial(delay_raw, port, framing))],
        at_most=2,
        judge=["raw socket"],
        turns=sizes.turns,
    )
