"""The SSE decoder: the WHATWG rules, whatever the cut, within bounds, in linear time."""

import itertools
import json
import re
import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning_sdk._core import sse
from reasoning_sdk._core.sse import MAX_EVENT_SIZE, SSEDecoder, iter_events
from reasoning_sdk.errors import ProtocolError
from reasoning_sdk.events import ServerSentEvent

CASES = [
    json.loads(line)
    for line in (Path(__file__).parent.parent / "data" / "sse_cases.jsonl").read_text().splitlines()
]


def decoded(chunks: Iterable[bytes], **options: Any) -> tuple[SSEDecoder, list[ServerSentEvent]]:
    decoder = SSEDecoder(**options)
    events = [event for chunk in chunks for event in decoder.feed(chunk)]
    return decoder, events + decoder.feed(b"")


def data_of(*chunks: bytes, **options: Any) -> list[str]:
    return [event.data for event in decoded(chunks, **options)[1]]


def pieces_of(stream: bytes, size: int) -> list[bytes]:
    return [stream[at : at + size] for at in range(0, len(stream), size)]


# -- conformance -------------------------------------------------------------------------------

CUTS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "as given": lambda chunks: chunks,
    "joined": lambda chunks: [b"".join(chunks)],
    "byte by byte": lambda chunks: pieces_of(b"".join(chunks), 1),
    "with empty chunks": lambda chunks: [
        piece for byte in pieces_of(b"".join(chunks), 1) for piece in (byte, b"")
    ],
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_browser_reads_the_same(case, cut):
    chunks = CUTS[cut]([chunk.encode("latin-1") for chunk in case["chunks"]])
    decoder, events = decoded(chunks)
    got = [{name: getattr(event, name) for name in case["check"]} for event in events]
    assert got == [{name: event[name] for name in case["check"]} for event in case["expected"]]
    assert {"id": decoder.last_event_id, "retry": decoder.retry} == case["final"]


# -- the rules again, slow and obvious ---------------------------------------------------------


def reference(
    stream: bytes, max_event_size: float = MAX_EVENT_SIZE
) -> tuple[list[ServerSentEvent], str, int | None, bool]:
    """The events, the last event id, the retry, and whether an event was too large.

    WHATWG HTML, 9.2.5 and 9.2.6, to the letter; what is ours is the size, and that a reconnection
    time of more than 18 digits is none.
    """
    if b"\xef\xbb\xbf".startswith(stream):
        stream = b""
    *lines, unfinished = re.split(b"\r\n|\r|\n", stream.removeprefix(b"\xef\xbb\xbf"))
    events = []
    name, data, last_id_buffer, last_event_id = "", "", "", ""
    retry = block_retry = None
    size = 0
    for number, raw in enumerate([*lines, unfinished]):
        if raw and not raw.startswith(b":"):
            if size + len(raw) > max_event_size:
                return events, last_event_id, retry, True
            size += len(raw) + 1
        if number == len(lines):
            break
        line = raw.decode("utf-8", "replace")
        if not line:
            last_event_id = last_id_buffer
            if data:
                events.append(
                    ServerSentEvent(
                        event=name or "message",
                        data=data.removesuffix("\n"),
                        id=last_event_id,
                        retry=block_retry,
                    )
                )
            name, data, block_retry, size = "", "", None, 0
            continue
        if line.startswith(":"):
            continue
        field, colon, value = line.partition(":")
        if colon and value.startswith(" "):
            value = value[1:]
        if field == "event":
            name = value
        elif field == "data":
            data += value + "\n"
        elif field == "id":
            if "\0" not in value:
                last_id_buffer = value
        elif field == "retry" and re.fullmatch("[0-9]{1,18}", value):
            retry = block_retry = int(value)
    return events, last_event_id, retry, False


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_reference_reads_what_a_browser_reads(case):
    stream = "".join(case["chunks"]).encode("latin-1")
    events, last_event_id, retry, _ = reference(stream)
    got = [{name: getattr(event, name) for name in case["check"]} for event in events]
    assert got == [{name: event[name] for name in case["check"]} for event in case["expected"]]
    assert {"id": last_event_id, "retry": retry} == case["final"]


ends = st.sampled_from([b"\n", b"\r", b"\r\n"])
VALUES = [
    b"", b" ", b"x", b"7", b"0250", b"1" * 18, b"1" * 19, b"-1", b"a: b", b"\0", b"\t", b"\xff",
    b"a\rb", b"\rdata: a", b"\xe2\x82", b"\xf0\x9f\x8c\xb8", b"\xed\xa0\x80", b"\xc0\x80",
    b"\xef\xbb\xbf", "ü".encode(), "\u2028".encode(), "\x85".encode(), b"\x0b\x0c\x1c",
]  # fmt: skip
values = st.one_of(
    st.sampled_from(VALUES),
    st.binary(max_size=12),
    st.tuples(st.sampled_from(VALUES), st.integers(5, 40)).map(lambda parts: parts[0] * parts[1]),
)
names = st.sampled_from([
    b"data", b"event", b"id", b"retry", b"", b"Data", b"data ", b"dat", b"datax", b"foo",
    b"\xef\xbb\xbfdata",
])  # fmt: skip
colons = st.sampled_from([b": ", b":", b":  ", b"", b" :"])
fields = st.tuples(names, colons, values, ends).map(b"".join)
data = st.tuples(st.sampled_from([b"data: ", b"data:"]), values, ends).map(b"".join)
comments = st.tuples(st.just(b":"), values, ends).map(b"".join)
plain = st.tuples(
    st.sampled_from([b"", b"event: tick\n", b"event:tick\n", b"event: \n"]),
    st.just(b"data: "),
    st.sampled_from([b"", b"x", b'{"a":1}', b"\xff", b"event: x", b"data: x"]),
    st.sampled_from([b"\n\n", b"\n\n", b"\n\n\n", b"\r\n\r\n", b"\n"]),
).map(b"".join)
pieces = st.one_of(plain, plain, fields, data, comments, ends, st.binary(max_size=6))
streams = st.builds(
    lambda start, parts: start + b"".join(parts),
    st.sampled_from([b"", b"", b"\xef\xbb\xbf", b"\xef\xbb", b"\xef\xbb\xbf\xef\xbb\xbf"]),
    st.lists(pieces, max_size=12),
)


@st.composite
def cut_streams(draw: st.DrawFn) -> list[bytes]:
    stream = draw(streams)
    marks = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    return [stream[a:b] for a, b in itertools.pairwise([0, *marks, len(stream)])]


@given(cut_streams())
def test_any_cut_of_any_bytes_is_read_by_the_rules(chunks):
    events, last_event_id, retry, _ = reference(b"".join(chunks))
    decoder, got = decoded(chunks)
    assert got == events
    assert (decoder.last_event_id, decoder.retry) == (last_event_id, retry)


@given(streams, st.integers(1, 5))
def test_chunks_of_a_size_are_read_by_the_rules(stream, size):
    assert decoded(pieces_of(stream, size))[1] == decoded([stream])[1] == reference(stream)[0]


long_lines = st.builds(
    lambda start, parts, end: start + b"".join(parts) + end,
    st.sampled_from([b"data: ", b"data:", b"data:  ", b"data", b"foo: ", b":", b"data: a\ndata: "]),
    st.lists(values, min_size=4, max_size=12),
    st.sampled_from([b"\n\n", b"\r\n\r\n", b"\n", b"\ndata: b\n\n", b"\ndata: b\n\ndata: c\n\n"]),
)
groups = st.integers(6, 32)


@given(long_lines, groups, st.integers(1, 20))
def test_long_lines_decoded_in_groups_are_read_by_the_rules(stream, group, size):
    with patch.object(sse._OpenLine, "_GROUP", group):
        _, got = decoded(pieces_of(stream, size))
    assert got == reference(stream)[0]


@given(cut_streams(), groups)
def test_groups_change_nothing_whatever_the_cut(chunks, group):
    with patch.object(sse._OpenLine, "_GROUP", group):
        _, got = decoded(chunks)
    assert got == reference(b"".join(chunks))[0]


blocks = st.lists(
    st.sampled_from([b"event: x", b"data: y", b"data: event: ", b"data:z", b"id: 1", b"event: "]),
    max_size=3,
).map(lambda lines: b"".join(line + b"\n" for line in lines) + b"\n")


@given(st.lists(blocks, max_size=4), st.integers(0, 40))
def test_runs_of_blocks_are_read_by_the_rules(chunks, cut):
    stream = b"".join(chunks)
    expected = reference(stream)[0]
    assert decoded(chunks)[1] == expected
    assert decoded([stream[:cut], stream[cut:]])[1] == expected


@pytest.mark.parametrize(
    "chunks",
    [
        # a byte order mark begun, and then none
        [b"\xef", b"data: a\n\n", b"data: b\n\n"],
        [b"\xef\xbb", b"data: a\n\n", b"\xbfdata: b\n\n"],
        [b"", b"\xef", b"", b"\xbb", b"\xbf", b"", b"data: a\n\n"],
        # one that is not the first thing
        [b"data: a\n\n", b"\xef\xbb\xbfdata: b\n\n"],
        [b"\n", b"\xef\xbb\xbfdata: b\n\n"],
        # plain but for a carriage return
        [b"data: a\n\n", b"data: b\rc\n\n"],
        [b"data: a\n\n", b"event: x\rdata: b\ndata: c\n\n"],
        [b"data: a\r\r", b"data: b\n\n", b"\n", b"data: c\n\n"],
        # as many lines as if all were plain, and they are not
        [b"event: a\n\nevent: b\ndata: c\nx\n\n"],
        [b"event: a\ndata: 1\ndata: 2\n\nevent: b\n\n"],
        [b"data: a\n\ndata: b\ndata: c\n\n\ndata: d\n\n"],
        # a block begun in one chunk and ended in another
        [b"event: x\n", b"data: a\n\ndata: b\n\n"],
        [b"event: x\n", b"\ndata: b\n\n"],
        [b"event: x\ndata: a\n", b"\n\n\ndata: b\n\n"],
        [b"retry: 1\n", b"data: a\n", b"\n", b"data: b\n\n"],
        [b": x\n", b"data: a\n\n"],
        [b":", b"data: a\n\n", b"data: b\n\n"],
        [b"id: 1\n\nid: 2\n", b"data: a\n\n", b"data: b\n\n"],
    ],
    ids=repr,
)
def test_what_looks_plain_is_read_by_the_rules(chunks):
    assert decoded(chunks)[1] == reference(b"".join(chunks))[0]


# -- fields and ends that deserve a test of their own ------------------------------------------


def test_an_event_is_given_as_soon_as_its_last_byte_is_in():
    decoder = SSEDecoder()
    for stream in (b"data: a\n\n", b"event: x\r\ndata: b\r\n\r", b"\ndata\r\r", b"data: c\n\n"):
        *before, last = pieces_of(stream, 1)
        assert [decoder.feed(byte) for byte in before] == [[]] * len(before)
        assert len(decoder.feed(last)) == 1


def test_events_are_given_in_their_order_and_only_once():
    decoder = SSEDecoder()
    assert [event.data for event in decoder.feed(b"data: a\n\ndata: b\n\ndata: c\n")] == ["a", "b"]
    assert [event.data for event in decoder.feed(b"\n")] == ["c"]
    assert decoder.feed(b"") == []


def test_the_last_event_id_given_is_in_force_until_the_stream_sets_one():
    decoder, events = decoded(
        [b"data: a\n\n", b"id: 8\ndata: b\n\nid\ndata: c\n\n"], last_event_id="7"
    )
    assert [event.id for event in events] == ["7", "8", ""]
    assert decoder.last_event_id == ""
    assert SSEDecoder(last_event_id="7").last_event_id == "7"


def test_an_id_is_in_force_when_its_block_has_ended_and_not_before():
    decoder = SSEDecoder()
    decoder.feed(b"id: 1\n\nid: 2\ndata: x\n")
    assert decoder.last_event_id == "1"
    decoder.feed(b"\n")
    assert decoder.last_event_id == "2"


def test_retry_is_in_force_at_once():
    decoder = SSEDecoder()
    assert decoder.retry is None
    decoder.feed(b"retry: 250\n")
    assert decoder.retry == 250


def test_a_retry_that_no_one_could_wait_for_is_ignored():
    assert decoded([b"retry: " + b"9" * 18 + b"\n"])[0].retry == 10**18 - 1
    assert decoded([b"retry: " + b"9" * 19 + b"\n"])[0].retry is None
    assert decoded([b"retry: " + b"9" * 10_000 + b"\n"])[0].retry is None


@given(cut_streams())
def test_whether_an_event_has_begun_is_told_whatever_the_cut(chunks):
    stream = b"".join(chunks).removeprefix(b"\xef\xbb\xbf")
    *lines, unfinished = re.split(b"\r\n|\r|\n", stream)
    block = [*itertools.takewhile(bool, reversed(lines)), unfinished or b":"]
    expected = not all(line.startswith(b":") for line in block)
    assert decoded(chunks)[0].is_inside_event is expected


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_any_line_but_a_comment_begins_an_event_and_a_blank_one_ends_it(end):
    for line in (b"data", b"id: 5", b"retry: 10", b"event: message", b"foo", b"\xef\xbb\xbf:\nx"):
        decoder = SSEDecoder()
        decoder.feed(line)
        assert decoder.is_inside_event
        decoder.feed(end)
        assert decoder.is_inside_event
        decoder.feed(end)
        assert not decoder.is_inside_event
    for stream in (b"", b":", b": bye", b":" + end, end, b"\xef\xbb\xbf", b"data: a" + end * 2):
        assert not decoded([stream])[0].is_inside_event
    for stream in (b"\xef", b"\xef\xbb", b"d", b"data: a" + end * 2 + b"da"):
        assert decoded([stream])[0].is_inside_event


def test_the_decoder_shows_its_id_and_what_it_holds():
    decoder = SSEDecoder(last_event_id="7")
    decoder.feed(b"data: ab\nda")
    assert repr(decoder) == "<SSEDecoder last_event_id='7' held=11>"
    decoder.feed(b"ta\n\n")
    assert repr(decoder) == "<SSEDecoder last_event_id='7' held=0>"


# -- the limit ---------------------------------------------------------------------------------


def verdict(
    chunks: Iterable[bytes], limit: int
) -> tuple[list[ServerSentEvent], str, int | None, bool]:
    """What :func:`reference` gives, from the decoder."""
    decoder = SSEDecoder(max_event_size=limit)
    events: list[ServerSentEvent] = []
    too_large = False
    for chunk in [*chunks, b""]:
        try:
            events += decoder.feed(chunk)
        except ProtocolError:
            too_large = True
            break
    return events, decoder.last_event_id, decoder.retry, too_large


@given(cut_streams(), st.integers(0, 80))
def test_the_limit_gives_the_same_whatever_the_cut(chunks, limit):
    expected = reference(b"".join(chunks), limit)
    assert verdict(chunks, limit) == expected
    assert verdict([b"".join(chunks)], limit) == expected
    assert verdict(pieces_of(b"".join(chunks), 1), limit) == expected


@given(long_lines, groups, st.integers(1, 20), st.integers(0, 200))
def test_the_limit_holds_for_long_lines_too(stream, group, size, limit):
    with patch.object(sse._OpenLine, "_GROUP", group):
        assert verdict(pieces_of(stream, size), limit) == reference(stream, limit)


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("more", [b"\n", b"\ndata: b\n"])
def test_the_limit_is_exact_for_long_lines(size, more):
    stream = b"data: " + b"x" * 100 + more + b"\n"
    limit = len(stream) - 2
    with patch.object(sse._OpenLine, "_GROUP", 16):
        assert len(data_of(*pieces_of(stream, size), max_event_size=limit)) == 1
        with pytest.raises(ProtocolError):
            decoded(pieces_of(stream, size), max_event_size=limit - 1)


@pytest.mark.parametrize(
    "event",
    [
        b"data: abcd\n\n",
        b"data:a\ndata\n\n",
        b"event: a\nid\n\n",
        b"data: abcd\r\n\r\n",
        b"foo: abcde\n\n",
        b"\xef\xbb\xbfdata: abcd\n\n",
    ],
)
@pytest.mark.parametrize("cut", ["joined", "byte by byte"])
def test_an_event_may_be_as_large_as_the_limit(event, cut):
    size = len(event.removeprefix(b"\xef\xbb\xbf").replace(b"\r", b"")) - 2
    decoded(CUTS[cut]([event]), max_event_size=size)
    with pytest.raises(ProtocolError) as caught:
        decoded(CUTS[cut]([event]), max_event_size=size - 1)
    assert str(caught.value) == f"an event is larger than max_event_size, {size - 1} bytes"


def test_the_limit_is_of_one_event():
    assert len(data_of(b"data: abcd\n\n" * 100, max_event_size=10)) == 100
    assert len(data_of(*[b"data: abcd\n\n"] * 100, max_event_size=10)) == 100
    assert len(data_of(b"id: abcdef\n\ndata: abcd\n\n" * 9, max_event_size=10)) == 9


@pytest.mark.parametrize("cut", ["joined", "byte by byte"])
def test_comments_do_not_count(cut):
    comment = b": " + b"x" * 100
    for stream in (
        comment + b"\n" + comment + b"\ndata: abcd\n\n",
        b"data: abcd\n" + comment + b"\n\n",
        b"data: abcd\r\n:\r\n" + comment + b"\r\n\r\n",
    ):
        assert data_of(*CUTS[cut]([stream]), max_event_size=10) == ["abcd"]


def test_a_comment_without_an_end_is_not_held():
    decoder = SSEDecoder(max_event_size=10)
    for chunk in [b":", *[b"x" * 1000] * 1000]:
        assert decoder.feed(chunk) == []
    assert repr(decoder) == "<SSEDecoder last_event_id='' held=1>"
    assert [event.data for event in decoder.feed(b"\ndata: a\n\n")] == ["a"]


def test_a_line_without_an_end_is_refused_as_soon_as_it_is_too_large():
    decoder = SSEDecoder(max_event_size=100)
    decoder.feed(b"data: " + b"x" * 94)
    with pytest.raises(ProtocolError):
        decoder.feed(b"x")


def test_a_large_event_is_read_under_the_default_limit():
    text = "0123456789abcdef" * 65536
    stream = f"data: {text}\n\n".encode()
    assert data_of(stream) == [text]
    assert data_of(*(stream[at : at + 65000] for at in range(0, len(stream), 65000))) == [text]
    assert MAX_EVENT_SIZE == 64 * 1024 * 1024


def test_events_before_one_too_large_are_given_first():
    decoder = SSEDecoder(max_event_size=10)
    assert len(decoder.feed(b"data: a\n\ndata: b\n\ndata: 0123456789\n\ndata: c\n\n")) == 2
    with pytest.raises(ProtocolError):
        decoder.feed(b"")


@pytest.mark.parametrize("after", [b"", b"data: c\n\n", b"event: x\ndata: c\n\n", b"\n\n", b"x"])
def test_after_an_event_too_large_nothing_is_given_any_more(after):
    decoder = SSEDecoder(max_event_size=10)
    decoder.feed(b"data: a\n\n")
    assert len(decoder.feed(b"data: b\n\ndata: 0123456789\n\n")) == 1
    for _ in range(3):
        with pytest.raises(ProtocolError):
            decoder.feed(after)
    decoder = SSEDecoder(max_event_size=10)
    for chunk in (b"data: 0123456789\n\n", after, after):
        with pytest.raises(ProtocolError):
            decoder.feed(chunk)


# -- iter_events -------------------------------------------------------------------------------


def test_iter_events_gives_each_event_before_it_asks_for_more():
    asked = []

    def chunks() -> Iterator[bytes]:
        for chunk in (b"data: a\n\ndata: b\n\nda", b"ta: c\n", b"\n"):
            asked.append(chunk)
            yield chunk

    seen = [(event.data, len(asked)) for event in iter_events(chunks())]
    assert seen == [("a", 1), ("b", 1), ("c", 3)]


def test_iter_events_gives_nothing_that_the_end_cuts_off():
    assert [event.data for event in iter_events([b"data: a\n\ndata: b\n"])] == ["a"]
    assert list(iter_events([])) == []


@pytest.mark.parametrize("rest", [[], [b"data: c\n\n"], [b"", b"x"]])
def test_iter_events_gives_the_events_before_one_too_large_and_then_the_error(rest):
    events = iter_events([b"data: a\n\ndata: 0123456789", *rest], max_event_size=10)
    assert next(events).data == "a"
    with pytest.raises(ProtocolError):
        next(events)


def test_iter_events_passes_on_what_the_chunks_raise():
    def chunks() -> Iterator[bytes]:
        yield b"data: a\n\n"
        raise ConnectionResetError

    events = iter_events(chunks())
    assert next(events).data == "a"
    with pytest.raises(ConnectionResetError):
        next(events)


# -- linear work -------------------------------------------------------------------------------


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Callable[[Iterable[bytes]], int]:
    """Gives the work of decoding: the calls of the decoder's functions, and the bytes handled.

    Those are the bytes (and characters) that each function is given, returns, and newly stores in
    an attribute or at the end of a list. Time would say the same, but not every time.
    """
    total = 0

    def size(*values: Any) -> int:
        return sum(len(value) for value in values if isinstance(value, (bytes, str)))

    def kept_by(owner: Any) -> dict[str, Any]:
        return {
            name: value[-1] if isinstance(value, list) and value else value
            for name, value in getattr(owner, "__dict__", {}).items()
        }

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal total
            before = kept_by(args[0])
            result = function(*args, **options)
            now = kept_by(args[0])
            new = [value for name, value in now.items() if value is not before.get(name)]
            total += 1 + size(*args, result, *new)
            return result

        return call

    for owner in (sse, SSEDecoder, sse._OpenLine):
        for name, value in list(vars(owner).items()):
            if isinstance(value, types.FunctionType) and value.__module__ == sse.__name__:
                monkeypatch.setattr(owner, name, counted(value))
    monkeypatch.setattr(sse._OpenLine, "_GROUP", 1024)

    def measured(chunks: Iterable[bytes]) -> int:
        nonlocal total
        total = 0
        decoded(chunks)
        return total

    return measured


LOADS: dict[str, Callable[[int], bytes]] = {
    "one data line": lambda n: b"data: " + b"x" * (16 * n) + b"\n\n",
    "one other line": lambda n: b"event: " + b"x" * (16 * n) + b"\ndata\n\n",
    "a line without an end": lambda n: b"data: " + b"x" * (16 * n),
    "a comment": lambda n: b": " + b"x" * (16 * n) + b"\n",
    "a comment without an end": lambda n: b": " + b"x" * (16 * n),
    "many data lines": lambda n: b"data: 0123456789\n" * n + b"\n",
    "many short data lines": lambda n: b"data\r" * (3 * n) + b"\r",
    "many plain events": lambda n: b"data: 012345678\n\n" * n,
    "many named events": lambda n: b"event: x\ndata: 0\n\n" * n,
    "many odd events": lambda n: b"id: 1\rdata:0\r\n\r\n" * n,
    "many mixed events": lambda n: b"id: 1\ndata:0\n\nevent: x\ndata: 1\n\n:\n\n" * (n // 2),
    "many comments": lambda n: b": keep alive\n" * n,
    "blank lines": lambda n: b"\n" * (16 * n),
    "carriage returns": lambda n: b"\r" * (16 * n),
    "invalid bytes": lambda n: b"data: " + b"\xf0\x9f" * (8 * n) + b"\n\n",
}


@pytest.mark.parametrize("chunk_size", [1, 16, 10**9])
@pytest.mark.parametrize("load", LOADS)
def test_the_work_grows_as_the_input_does(load, chunk_size, work):
    small, large = (work(pieces_of(LOADS[load](n), chunk_size)) for n in (200, 800))
    assert small > len(LOADS[load](200))
    assert large <= 4.2 * small
