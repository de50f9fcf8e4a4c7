"""Decoding of server-sent events, without any network.

The peers are run by their innermost decoders, which spares them the HTTP client they come with.
"""

import codecs
import json
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import attrs

from benchmarks.harness import Candidate, Comparison, Result, is_installed
from reasoning_sdk import iter_events

__all__ = ["Sizes", "comparisons", "data_of"]

Chunks = list[bytes]
_DATA = (
    '{"type":"response.output_text.delta","sequence_number":%d,"item_id":"msg_0123456789abcdef",'
    '"output_index":0,"content_index":0,"delta":"word %d and more text"}'
)
_SHAPES = {
    "data": "data: %s\n\n",
    "event": "event: response.output_text.delta\ndata: %s\n\n",
    "id": "id: %d\ndata: %s\n\n",
    "crlf": "data: %s\r\n\r\n",
}


@attrs.frozen(kw_only=True)
class Sizes:
    """How much to decode: events, and bytes of large ones."""

    events: int = 200_000
    large: int = 20_000_000
    lines: int = 2_500_000
    repeat: int = 5


# -- input -------------------------------------------------------------------------------------


def data_of(number: int) -> str:
    """The data of one event."""
    return _DATA % (number, number)


def stream(shape: str, count: int) -> bytes:
    """Events of about 160 bytes."""
    template = _SHAPES[shape].replace("%s", _DATA)
    numbers = template.count("%d")
    return "".join([template % ((i,) * numbers) for i in range(count)]).encode()


def blocks(shape: str, count: int) -> Chunks:
    """The same in chunks of 64 KB."""
    return cut(stream(shape, count), 65536)


def one_each(shape: str, count: int) -> Chunks:
    """The same, each event in a chunk of its own."""
    return [event + b"\n\n" for event in stream(shape, count).split(b"\n\n")[:-1]]


def large_event(size: int) -> Chunks:
    """One event with one long line, in chunks of 4 KB."""
    return cut(b"data: " + b"x" * size + b"\n\n", 4096)


def many_lines(size: int) -> Chunks:
    """One event of data lines of 80 bytes, in chunks of 4 KB."""
    return cut((b"data: " + b"x" * 73 + b"\n") * (size // 80) + b"\n", 4096)


def cut(data: bytes, size: int) -> Chunks:
    """Pieces of a size."""
    return [data[i : i + size] for i in range(0, len(data), size)]


# -- decoders: from chunks to objects with a ``data`` ------------------------------------------


def ours(chunks: Chunks) -> Iterable[Any]:
    """This library."""
    return iter_events(chunks)


def launchdarkly(chunks: Chunks) -> Iterable[Any]:
    """launchdarkly-eventsource."""
    from ld_eventsource.reader import _BufferedLineReader, _SSEReader  # noqa: PLC0415

    return _SSEReader(_BufferedLineReader.lines_from(chunks)).events_and_comments()


def httpx_sse(chunks: Chunks) -> Iterable[Any]:
    """httpx-sse."""
    from httpx_sse._decoders import SSEDecoder, SSELineDecoder  # noqa: PLC0415

    text, lines, events = codecs.getincrementaldecoder("utf-8")(), SSELineDecoder(), SSEDecoder()
    for chunk in chunks:
        for line in lines.decode(text.decode(chunk)):
            event = events.decode(line)
            if event is not None:
                yield event


def sseclient_py(chunks: Chunks) -> Iterable[Any]:
    """sseclient-py."""
    from sseclient import SSEClient  # noqa: PLC0415

    return SSEClient(chunks).events()


def openai(chunks: Chunks) -> Iterable[Any]:
    """The decoder inside openai."""
    from openai._streaming import SSEDecoder  # noqa: PLC0415

    return SSEDecoder().iter_bytes(iter(chunks))


Decoder = Callable[[Chunks], Iterable[Any]]
PEERS: dict[str, Decoder] = {
    "launchdarkly-eventsource": launchdarkly,
    "httpx-sse": httpx_sse,
    "sseclient-py": sseclient_py,
    "openai": openai,
}


# -- work --------------------------------------------------------------------------------------


class Count:
    """Counts the events that a decoder gives."""

    def __init__(self, decoder: Decoder, repeat: int = 1) -> None:
        self.decoder = decoder
        self.repeat = repeat

    def __call__(self, chunks: Chunks) -> Result:
        for _ in range(self.repeat):
            count, event = 0, None
            for event in self.decoder(chunks):  # noqa: B007
                count += 1
        return Result(count, event.data)


def loads_each(chunks: Chunks) -> Result:
    """This library, and json.loads on every event."""
    count, data, loads = 0, None, json.loads
    for event in iter_events(chunks):
        data = loads(event.data)
        count += 1
    return Result(count, data)


def split(chunks: Chunks) -> Result:
    """A floor: nothing but the bytes of each event."""
    parts = b"".join(chunks).split(b"\n\n")
    return Result(len(parts) - 1, parts[-2][6:].decode())


def split_and_loads(chunks: Chunks) -> Result:
    """A floor with JSON."""
    count, data, loads = 0, None, json.loads
    for part in b"".join(chunks).split(b"\n\n"):
        if part:
            data = loads(part[6:])
            count += 1
    return Result(count, data)


def decode_split_and_loads(chunks: Chunks) -> Result:
    """A lower floor with JSON: json.loads is faster with text than with bytes."""
    count, data, loads = 0, None, json.loads
    for part in b"".join(chunks).decode().split("\n\n"):
        if part:
            data = loads(part[6:])
            count += 1
    return Result(count, data)


def join_and_decode(repeat: int, chunks: Chunks) -> Result:
    """A floor for one large event: its text."""
    for _ in range(repeat):
        text = b"".join(chunks).decode()
    return Result(1, text[6:-2])


# -- comparisons -------------------------------------------------------------------------------


def comparisons(sizes: Sizes) -> list[Comparison]:
    """All figures of this file."""
    peers = {name: peer for name, peer in PEERS.items() if is_installed(name)}
    events = sizes.events

    def against_peers(
        what: str,
        given: Callable[[], Chunks],
        at_most: float | None,
        floor: Candidate | None = None,
    ) -> Comparison:
        about = {"given": given, "count": events, "last": data_of(events - 1), "per": events}
        return Comparison(
            what=what,
            ours=Candidate(name="ours", run=Count(ours), **about),
            others=[
                *[Candidate(name=name, run=Count(peer), **about) for name, peer in peers.items()],
                *([floor] if floor else []),
            ],
            at_most=at_most,
            judge=list(peers),
        )

    def of_plain(name: str, run: Callable[[Chunks], Result], last: Any) -> Candidate:
        given = partial(blocks, "data", events)
        return Candidate(name=name, run=run, given=given, count=events, last=last, per=events)

    last = data_of(events - 1)
    floor = of_plain("join + split", split, last)
    with_json = Comparison(
        what="decode, chunks of 64 KB, and `json.loads`",
        ours=of_plain("ours", loads_each, json.loads(last)),
        others=[
            of_plain("split + `json.loads`", split_and_loads, json.loads(last)),
            of_plain("decode + split + `json.loads`", decode_split_and_loads, json.loads(last)),
        ],
        at_most=1.1,
        judge=["split + `json.loads`"],
    )
    return [
        against_peers("decode, chunks of 64 KB", partial(blocks, "data", events), 0.70, floor),
        against_peers(
            "decode, chunks of 64 KB, `event:` lines", partial(blocks, "event", events), 0.70
        ),
        against_peers("decode, chunks of 64 KB, `id:` lines", partial(blocks, "id", events), None),
        against_peers("decode, chunks of 64 KB, CRLF", partial(blocks, "crlf", events), None),
        with_json,
        against_peers("decode, one event per chunk", partial(one_each, "data", events), 1.0),
        against_peers(
            "decode, one event per chunk, `event:` lines", partial(one_each, "event", events), 1.0
        ),
        *_large(sizes, peers),
    ]


def _large(sizes: Sizes, peers: dict[str, Decoder]) -> list[Comparison]:
    """Whether time grows with the size alone, and what a large event costs elsewhere."""

    def of(
        make: Callable[[int], Chunks],
        name: str,
        size: int,
        run: Callable[[Chunks], Result],
        per: int,
    ) -> Candidate:
        last = "x" * size if make is large_event else "\n".join(["x" * 73] * (size // 80))
        return Candidate(name=name, run=run, given=partial(make, size), count=1, last=last, per=per)

    def growth(
        make: Callable[[int], Chunks],
        what: str,
        sizes_: tuple[int, int],
        run: Callable[[Chunks], Result],
        at_most: float | None,
    ) -> Comparison:
        name = f"itself, {sizes_[1] / 1e6:g} MB"
        return Comparison(
            what=what,
            ours=of(make, "large", sizes_[0], run, sizes.repeat),
            others=[of(make, name, sizes_[1], run, sizes.repeat)],
            at_most=at_most,
            judge=[name],
            unit=(1e3, "ms"),
        )

    def against_peers(make: Callable[[int], Chunks], what: str, size: int) -> Comparison:
        return Comparison(
            what=what,
            ours=of(make, "ours", size, decode, sizes.repeat),
            others=[
                of(make, name, size, Count(peer, sizes.repeat), sizes.repeat)
                for name, peer in peers.items()
            ],
            unit=(1e3, "ms"),
        )

    decode, join = Count(ours, sizes.repeat), partial(join_and_decode, sizes.repeat)
    large, lines = sizes.large, sizes.lines
    a_large = f"one event of {large / 1e6:g} MB, chunks of 4 KB"
    many = f"{lines / 1e6:g} MB of data lines of 80 bytes"
    return [
        growth(large_event, a_large, (large, large // 4), decode, 5),
        growth(
            large_event,
            f"join + decode of one event of {large / 1e6:g} MB",
            (large, large // 4),
            join,
            None,
        ),
        growth(many_lines, many, (lines, lines * 6 // 25), decode, 5),
        against_peers(large_event, f"one event of {large / 4e6:g} MB, chunks of 4 KB", large // 4),
        against_peers(
            many_lines, f"{lines * 6 / 25e6:g} MB of data lines of 80 bytes", lines * 6 // 25
        ),
    ]
