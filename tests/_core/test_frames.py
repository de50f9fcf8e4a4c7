"""WebSocket frames: RFC 6455 to the letter, whatever the cut, within bounds, in linear time."""

import codecs
import itertools
import random
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning_sdk._core import frames
from reasoning_sdk._core.frames import (
    DEFLATE_OFFER,
    Control,
    Deflate,
    Failure,
    FrameParser,
    Opcode,
    close_frame,
    control_frame,
    data_frame,
)
from reasoning_sdk.errors import ProtocolError

FINAL, RSV1, RSV2, RSV3 = 0x80, 0x40, 0x20, 0x10
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
DEFLATE = Deflate()
TAIL = b"\x00\x00\xff\xff"


def frame(first: int, payload: bytes = b"", *, announced: int | None = None) -> bytes:
    """A server's frame; ``announced`` is a length other than the payload's."""
    size = len(payload) if announced is None else announced
    if size < 126:
        head = bytes([first, size])
    elif size < 65536:
        head = bytes([first, 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([first, 127]) + size.to_bytes(8, "big")
    return head + payload


def text(value: str) -> bytes:
    return frame(FINAL | TEXT, value.encode())


def binary(value: bytes) -> bytes:
    return frame(FINAL | BINARY, value)


def fragments(opcode: int, *payloads: bytes) -> list[bytes]:
    """A message in fragments."""
    first, last = [opcode] + [0] * (len(payloads) - 1), len(payloads) - 1
    return [
        frame(first[at] | (FINAL if at == last else 0), payload)
        for at, payload in enumerate(payloads)
    ]


class Seen(NamedTuple):
    messages: list[str | bytes]
    controls: Sequence[Control] = ()
    failure: Failure | None = None


def parsed(chunks: Iterable[bytes], *, max_size: int | None = None, **options: Any) -> Seen:
    parser = FrameParser(max_size=max_size, **options)
    messages = [message for chunk in chunks for message in parser.feed(chunk)]
    return Seen(messages, tuple(parser.take_controls()), parser.failure)


def pieces_of(stream: bytes, size: int) -> list[bytes]:
    return [stream[at : at + size] for at in range(0, len(stream), size)]


CUTS: dict[str, Callable[[bytes], list[bytes]]] = {
    "joined": lambda stream: [stream],
    "byte by byte": lambda stream: pieces_of(stream, 1),
}
each_cut = pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)


# -- a reference: slow, simple, and of the whole stream at once ----------------------------------


class Violation(Exception):
    pass


def reference(stream: bytes, max_size: int | None = None) -> Seen:
    """What the rules of RFC 6455 make of a stream without compression."""
    messages: list[str | bytes] = []
    controls: list[Control] = []
    failure = None
    try:
        read(stream, max_size, messages, controls)
    except Violation as exc:
        failure = Failure(*exc.args)
    return Seen(messages, tuple(controls), failure)


def read(
    stream: bytes, max_size: int | None, messages: list[str | bytes], controls: list[Control]
) -> None:
    begun: int | None = None
    so_far = b""
    while len(stream) >= 2:
        final, reserved, opcode = stream[0] >> 7, stream[0] >> 4 & 7, stream[0] & 15
        masked, length = stream[1] >> 7, stream[1] & 127
        if masked:
            raise Violation(1002, "a masked frame")
        if reserved:
            raise Violation(1002, "a frame with reserved bits")
        if opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
            raise Violation(1002, f"a frame with the reserved opcode {opcode}")
        if opcode >= 8 and not final:
            raise Violation(1002, "a fragmented control frame")
        if opcode >= 8 and length > 125:
            raise Violation(1002, "a control frame of more than 125 bytes")
        if opcode == 0 and begun is None:
            raise Violation(1002, "a continuation of no message")
        if opcode in (1, 2) and begun is not None:
            raise Violation(1002, "a new message inside a fragmented one")
        more = {126: 2, 127: 8}.get(length, 0)
        if len(stream) < 2 + more:
            return
        if more:
            length = int.from_bytes(stream[2 : 2 + more], "big")
            if length >= 2**63:
                raise Violation(1002, "a length with its highest bit set")
            if length < {2: 126, 8: 65536}[more]:
                raise Violation(1002, f"a length of {length} in {more} bytes")
        payload, complete = stream[2 + more :][:length], len(stream) >= 2 + more + length
        stream = stream[2 + more + length :]
        if opcode >= 8:
            if complete:
                controls.append(reference_control(opcode, payload))
                if opcode == 8:
                    return
            continue
        begun = begun or opcode
        if max_size is not None and len(so_far) + length > max_size:
            raise Violation(1009, f"a message of more than {max_size} bytes")
        so_far += payload
        try:
            decoder = codecs.getincrementaldecoder("utf-8")()
            value = decoder.decode(so_far, final and complete) if begun == 1 else so_far
        except UnicodeDecodeError:
            raise Violation(1007, "a text message that is not UTF-8") from None
        if final and complete:
            messages.append(value)
            begun, so_far = None, b""


def reference_control(opcode: int, payload: bytes) -> Control:
    if opcode != 8 or not payload:
        return Control(opcode, payload)
    if len(payload) == 1:
        raise Violation(1002, "a close frame with half a code")
    code = int.from_bytes(payload[:2], "big")
    if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        raise Violation(1002, f"a close frame with the code {code}")
    try:
        return Control(opcode, payload, code, payload[2:].decode())
    except UnicodeDecodeError:
        raise Violation(1007, "a close reason that is not UTF-8") from None


# -- any cut of the bytes gives the same ---------------------------------------------------------

payloads = st.one_of(
    st.text(max_size=40).map(str.encode),
    st.binary(max_size=6),
    st.sampled_from([b"", b"x" * 125, b"x" * 126, b"\xc3\xa4" * 64, b"x" * 300]),
    st.sampled_from([b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xce\xba\xe1\xbd\xb9\xcf", b"\xff"]),
)
plain = st.one_of(
    payloads.map(lambda payload: frame(FINAL | TEXT, payload)),
    st.text(max_size=200).map(text),
)
others = st.one_of(
    payloads.map(binary),
    st.lists(payloads, min_size=1, max_size=4).map(lambda some: b"".join(fragments(TEXT, *some))),
    st.lists(payloads, min_size=1, max_size=4).map(lambda some: b"".join(fragments(BINARY, *some))),
    st.tuples(st.sampled_from([PING, PONG]), payloads).map(
        lambda some: frame(FINAL | some[0], some[1][:125])
    ),
    st.builds(
        lambda start, ping, end: start + frame(FINAL | PING, ping) + end,
        payloads.map(lambda payload: frame(TEXT, payload)),
        st.binary(max_size=3),
        payloads.map(lambda payload: frame(FINAL, payload)),
    ),
)
odd = st.one_of(
    st.tuples(st.integers(0, 255), payloads).map(lambda some: frame(*some)),
    st.binary(max_size=12),
    st.tuples(st.sampled_from([0, 1000, 1005, 1014, 3000, 5000]), payloads).map(
        lambda some: frame(FINAL | CLOSE, (some[0].to_bytes(2, "big") + some[1])[:125])
    ),
    st.integers(0, 2**64 - 1).map(
        lambda size: bytes([FINAL | TEXT, 127]) + size.to_bytes(8, "big")
    ),
    st.integers(0, 2**16 - 1).map(
        lambda size: bytes([FINAL | TEXT, 126]) + size.to_bytes(2, "big")
    ),
)
streams = st.lists(st.one_of(plain, plain, others, odd), max_size=8).map(b"".join)


def cut_at(stream: bytes, places: Iterable[int]) -> list[bytes]:
    ends = sorted(place % (len(stream) + 1) for place in places)
    return [stream[a:b] for a, b in itertools.pairwise([0, *ends, len(stream)])]


@st.composite
def cut_streams(draw: st.DrawFn) -> list[bytes]:
    return cut_at(draw(streams), draw(st.lists(st.integers(0, 10_000), max_size=10)))


@given(cut_streams(), st.none() | st.integers(0, 400))
def test_any_cut_of_the_bytes_gives_the_same(chunks, max_size):
    stream = b"".join(chunks)
    expected = reference(stream, max_size)
    assert parsed(chunks, max_size=max_size) == expected
    assert parsed([stream], max_size=max_size) == expected
    assert parsed(pieces_of(stream, 1), max_size=max_size) == expected


@given(st.lists(plain, max_size=30).map(b"".join), st.none() | st.integers(0, 400))
def test_runs_of_plain_messages_are_read_by_the_rules(stream, max_size):
    assert parsed([stream], max_size=max_size) == reference(stream, max_size)


@pytest.mark.parametrize("size", [0, 1, 2, 125, 126, 127, 65535, 65536, 70_000])
@pytest.mark.parametrize("chunk_size", [1, 1000, 10**9])
def test_messages_of_every_length_are_read(size, chunk_size):
    stream = text("x" * size) + binary(b"y" * size) + text("end")
    seen = parsed(pieces_of(stream, chunk_size))
    assert seen == Seen(["x" * size, b"y" * size, "end"])


def test_a_message_is_given_as_soon_as_its_last_byte_is_in():
    parser = FrameParser(max_size=None)
    for stream in (text("a"), text("x" * 200), binary(b"b"), b"".join(fragments(1, b"a", b"b"))):
        *before, last = pieces_of(stream, 1)
        assert [parser.feed(byte) for byte in before] == [[]] * len(before)
        assert len(parser.feed(last)) == 1


def test_no_bytes_give_nothing():
    parser = FrameParser(max_size=None)
    assert parser.feed(b"") == []
    assert parser.feed(b"\x81") == parser.feed(b"") == []
    assert parser.feed(b"\x01a") == ["a"]


@each_cut
def test_the_examples_of_the_rfc_are_read(cut):
    stream = bytes.fromhex("810548656c6c6f 010348656c 80026c6f 890548656c6c6f")
    stream += bytes.fromhex("827e0100") + b"x" * 256 + bytes.fromhex("827f0000000000010000")
    stream += b"y" * 65536
    assert parsed(cut(stream)) == Seen(
        ["Hello", "Hello", b"x" * 256, b"y" * 65536], (Control(PING, b"Hello"),)
    )


# -- fragments and controls ----------------------------------------------------------------------


@each_cut
def test_a_character_may_be_torn_by_fragments(cut):
    payload = "aä€😀".encode()
    stream = b"".join(fragments(TEXT, b"", *pieces_of(payload, 1), b""))
    assert parsed(cut(stream)) == Seen(["aä€😀"])


def test_line_ends_of_a_text_are_left_alone():
    value = "a\r\nb\rc\n\x85\u2028"
    assert parsed(pieces_of(text(value), 1)).messages == [value]


@each_cut
def test_controls_may_come_between_fragments(cut):
    start, middle, end = fragments(BINARY, b"a", b"b", b"c")
    stream = start + frame(FINAL | PING, b"1") + middle + frame(FINAL | PONG, b"2") + end
    assert parsed(cut(stream)) == Seen([b"abc"], (Control(PING, b"1"), Control(PONG, b"2")))


@each_cut
def test_a_control_frame_may_have_125_bytes(cut):
    payload = b"x" * 125
    assert parsed(cut(frame(FINAL | PING, payload))).controls == (Control(PING, payload),)


def test_controls_are_kept_in_order_until_they_are_taken_out():
    parser = FrameParser(max_size=None)
    assert parser.take_controls() == []
    parser.feed(frame(FINAL | PING, b"1") + text("a") + frame(FINAL | PONG))
    parser.feed(frame(FINAL | PING, b"2"))
    expected = [Control(PING, b"1"), Control(PONG, b""), Control(PING, b"2")]
    assert parser.controls == expected
    assert parser.take_controls() == expected
    assert parser.controls == parser.take_controls() == []


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1014, 3000, 4999])
@each_cut
def test_a_close_frame_tells_its_code_and_reason(code, cut):
    payload = code.to_bytes(2, "big") + "adiós".encode()
    assert parsed(cut(frame(FINAL | CLOSE, payload))).controls == (
        Control(CLOSE, payload, code, "adiós"),
    )
    (control,) = parsed(cut(frame(FINAL | CLOSE, payload[:2]))).controls
    assert (control.close_code, control.reason) == (code, "")


def test_a_close_frame_may_be_empty():
    assert parsed([frame(FINAL | CLOSE)]).controls == (Control(CLOSE, b"", None, ""),)


@each_cut
def test_after_a_close_frame_nothing_is_read(cut):
    stream = text("a") + frame(FINAL | CLOSE) + text("b") + b"\xff\xff"
    assert parsed(cut(stream)) == Seen(["a"], (Control(CLOSE, b""),))


def test_a_close_frame_may_cut_a_message_off():
    assert parsed([frame(TEXT, b"a") + frame(FINAL | CLOSE)]).controls == (Control(CLOSE, b""),)


# -- violations ----------------------------------------------------------------------------------

START = frame(TEXT, b"a")
VIOLATIONS: dict[str, tuple[bytes, int, str]] = {
    "masked": (b"\x81\x81abcdx", 1002, "a masked frame"),
    "masked, 16 bits": (b"\x81\xfe\x00\x80abcd", 1002, "a masked frame"),
    "RSV1": (frame(FINAL | RSV1 | TEXT, b"a"), 1002, "a frame with reserved bits"),
    "RSV2": (frame(FINAL | RSV2 | TEXT, b"a"), 1002, "a frame with reserved bits"),
    "RSV3": (frame(FINAL | RSV3 | BINARY, b"a"), 1002, "a frame with reserved bits"),
    "RSV1 on a ping": (frame(FINAL | RSV1 | PING), 1002, "a frame with reserved bits"),
    **{
        f"opcode {opcode}": (
            frame(FINAL | opcode, b"a"),
            1002,
            f"a frame with the reserved opcode {opcode}",
        )
        for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
    },
    "a ping without FIN": (frame(PING, b"a"), 1002, "a fragmented control frame"),
    "a close without FIN": (frame(CLOSE), 1002, "a fragmented control frame"),
    "a long ping": (
        frame(FINAL | PING, b"x" * 126),
        1002,
        "a control frame of more than 125 bytes",
    ),
    "a very long ping": (
        frame(FINAL | PING, announced=2**40),
        1002,
        "a control frame of more than 125 bytes",
    ),
    "a continuation first": (frame(0, b"a"), 1002, "a continuation of no message"),
    "a final continuation first": (frame(FINAL, b"a"), 1002, "a continuation of no message"),
    "a text inside a message": (START + text("b"), 1002, "a new message inside a fragmented one"),
    "a binary inside a message": (
        START + frame(BINARY, b"b"),
        1002,
        "a new message inside a fragmented one",
    ),
    "125 in 2 bytes": (b"\x81\x7e\x00\x7d" + b"x" * 125, 1002, "a length of 125 in 2 bytes"),
    "0 in 2 bytes": (b"\x82\x7e\x00\x00", 1002, "a length of 0 in 2 bytes"),
    "65535 in 8 bytes": (
        b"\x81\x7f" + (65535).to_bytes(8, "big"),
        1002,
        "a length of 65535 in 8 bytes",
    ),
    "2**63": (b"\x81\x7f\x80" + b"\x00" * 7, 1002, "a length with its highest bit set"),
    "half a close code": (frame(FINAL | CLOSE, b"\x03"), 1002, "a close frame with half a code"),
    **{
        f"close code {code}": (
            frame(FINAL | CLOSE, code.to_bytes(2, "big") + b"a"),
            1002,
            f"a close frame with the code {code}",
        )
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535)
    },
    "close reason": (
        frame(FINAL | CLOSE, b"\x03\xe8\xff"),
        1007,
        "a close reason that is not UTF-8",
    ),
    "text": (frame(FINAL | TEXT, b"a\xff"), 1007, "a text message that is not UTF-8"),
    "long text": (
        frame(FINAL | TEXT, b"x" * 200 + b"\xc3"),
        1007,
        "a text message that is not UTF-8",
    ),
    "text of a surrogate": (
        frame(FINAL | TEXT, b"\xed\xa0\x80"),
        1007,
        "a text message that is not UTF-8",
    ),
    "text over fragments": (
        b"".join(fragments(TEXT, b"\xe2\x82", b"a")),
        1007,
        "a text message that is not UTF-8",
    ),
    "text that ends too early": (
        b"".join(fragments(TEXT, b"\xe2\x82", b"")),
        1007,
        "a text message that is not UTF-8",
    ),
}


@pytest.mark.parametrize(("stream", "code", "what"), VIOLATIONS.values(), ids=VIOLATIONS)
@each_cut
def test_a_violation_is_named_and_what_was_before_it_is_given(stream, code, what, cut):
    before = text("before") + frame(FINAL | PING, b"1")
    seen = parsed(cut(before + stream + text("after")), max_size=1_000_000)
    assert seen == Seen(["before"], (Control(PING, b"1"),), Failure(code, what))
    assert reference(before + stream, 1_000_000) == seen


def test_a_message_that_has_ended_cannot_be_continued():
    stream = b"".join(fragments(TEXT, b"a", b"b")) + frame(FINAL, b"c")
    assert parsed([stream]) == Seen(["ab"], (), Failure(1002, "a continuation of no message"))


def test_messages_of_the_same_feed_are_given_before_a_violation():
    parser = FrameParser(max_size=None)
    assert parser.feed(text("a") + text("b") + b"\x81\x01\xff" + text("c")) == ["a", "b"]
    assert parser.failure == (1007, "a text message that is not UTF-8")
    assert parser.taken == 2
    assert parser.feed(text("d")) == []
    assert parser.failure.code == 1007


@pytest.mark.parametrize(
    "stream",
    [b"\x81\x85", b"\x91\x05", b"\x83\x05", b"\x09\x05", b"\x89\x7e", b"\x80\x05"],
    ids=bytes.hex,
)
def test_two_bytes_are_enough_to_see_a_bad_head(stream):
    assert parsed([stream]).failure is not None


@pytest.mark.parametrize(
    "head", [b"\x01\x7d", b"\x81\x7d", b"\x81\x7e\xff\xff", b"\x01\x01a\x00\x7d"]
)
def test_a_text_that_cannot_become_utf8_is_refused_before_its_end(head):
    parser = FrameParser(max_size=None)
    assert parser.feed(head + b"aaa\xe2\x82") == []
    assert parser.failure is None
    parser.feed(b"(")
    assert parser.failure == (1007, "a text message that is not UTF-8")


# -- the limit -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 125, 126, 1000, 65535, 65536])
@pytest.mark.parametrize("first", [FINAL | TEXT, FINAL | BINARY])
@each_cut
def test_a_message_may_be_as_large_as_the_limit(size, first, cut):
    failure = Failure(1009, f"a message of more than {size} bytes")
    assert parsed(cut(frame(first, b"x" * size)), max_size=size).failure is None
    assert parsed(cut(frame(first, b"x" * (size + 1))), max_size=size).failure == failure
    assert parsed(cut(frame(first, announced=size + 1)), max_size=size).failure == failure


def test_the_limit_is_of_all_fragments_together_and_of_one_message():
    start, middle, end = fragments(BINARY, b"abc", b"def", b"gh")
    message = start + middle + frame(FINAL | PING, b"x" * 100) + end
    assert parsed([message * 3], max_size=8).messages == [b"abcdefgh"] * 3
    seen = parsed([message + start + middle + end[:2]], max_size=7)
    assert seen.messages == []
    assert seen.failure == (1009, "a message of more than 7 bytes")


def test_the_limit_is_of_bytes_and_not_of_characters():
    assert parsed([text("€")], max_size=3).failure is None
    assert parsed([text("€")], max_size=2).failure is not None


def memory(run: Callable[[], object]) -> int:
    """The most memory that was taken at once, in bytes."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        run()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("max_size", [1_000_000, None])
def test_a_header_that_promises_a_tebibyte_takes_no_memory(max_size):
    parser = FrameParser(max_size=max_size)
    stream = frame(FINAL | BINARY, b"x" * 1000, announced=2**40)
    assert memory(lambda: parser.feed(stream)) < 20_000
    assert (parser.failure is None) == (max_size is None)


def test_fragments_of_a_few_bytes_take_no_more_memory_than_their_message():
    parser = FrameParser(max_size=None)
    parser.feed(frame(BINARY, b""))
    chunk = frame(CONTINUATION, b"ab") * 1000
    assert memory(lambda: [parser.feed(chunk) for _ in range(10)]) < 3 * 20_000
    assert parser.feed(frame(FINAL)) == [b"ab" * 10_000]


def test_empty_fragments_take_no_memory():
    parser = FrameParser(max_size=10)
    parser.feed(frame(TEXT, b""))
    chunk = frame(CONTINUATION, b"") * 1000
    assert memory(lambda: [parser.feed(chunk) for _ in range(5)]) < 5000
    assert parser.feed(frame(FINAL, b"end")) == ["end"]


@pytest.mark.parametrize("first", [FINAL | TEXT, FINAL | BINARY])
def test_a_large_message_in_pieces_takes_few_times_its_size(first):
    size = 4_000_000
    pieces = pieces_of(frame(first, b"x" * size), 65536)
    assert memory(lambda: parsed(pieces)) < 3 * size


def test_after_a_failure_nothing_is_held():
    parser = FrameParser(max_size=None)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        parser.feed(frame(TEXT, b"x" * 1_000_000))
        assert tracemalloc.get_traced_memory()[0] - before > 900_000
        parser.feed(frame(FINAL | TEXT))
        assert parser.failure is not None
        assert tracemalloc.get_traced_memory()[0] - before < 20_000
    finally:
        tracemalloc.stop()


def test_the_bytes_of_the_messages_given_are_counted():
    parser = FrameParser(max_size=None, inflater=DEFLATE.inflater())
    assert parser.taken == 0
    parser.feed(text("abc") + text("x" * 200))
    assert parser.taken == 203
    parser.feed(b"".join(fragments(TEXT, "ä".encode(), b"b")) + frame(FINAL | PING, b"1"))
    assert parser.taken == 203 + 3
    parser.feed(frame(FINAL | RSV1 | TEXT, DEFLATE.compress(b"x" * 5000)))
    assert parser.taken == 206 + 5000


def test_the_parser_shows_its_state():
    parser = FrameParser(max_size=None)
    parser.feed(text("abc") + frame(FINAL | PING))
    assert repr(parser) == "<FrameParser OPEN controls=1 taken=3>"
    parser.feed(frame(FINAL | CLOSE))
    assert repr(parser) == "<FrameParser CLOSED controls=2 taken=3>"
    parser = FrameParser(max_size=None)
    parser.feed(b"\xff\xff")
    assert repr(parser) == "<FrameParser FAILED controls=0 taken=0>"


# -- linear work ---------------------------------------------------------------------------------


class Copied(bytes):
    """Bytes that count how many of them are copied out of them, or with them."""

    total = 0

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        if isinstance(found, bytes):
            Copied.total += len(found)
        return found

    def __radd__(self, other: bytes) -> "Copied":
        Copied.total += len(other) + len(self)
        return Copied(other + bytes(self))


def work(chunks: Iterable[bytes]) -> int:
    """The calls that parsing makes, and the bytes that it copies out of what it is fed."""
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    parser = FrameParser(max_size=None)
    fed = [Copied(chunk) for chunk in chunks]
    Copied.total = 0
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        for chunk in fed:
            parser.feed(chunk)
    finally:
        sys.setprofile(before)
    assert parser.failure is None
    return calls + Copied.total


LOADS: dict[str, Callable[[int], bytes]] = {
    "plain messages": lambda n: text("0123456789") * n,
    "one text": lambda n: text("x" * (16 * n)),
    "one binary": lambda n: binary(b"x" * (16 * n)),
    "binaries": lambda n: binary(b"0123456789") * n,
    "empty messages": lambda n: text("") * (6 * n),
    "fragments": lambda n: frame(BINARY) + frame(0, b"x") * (5 * n),
    "empty fragments": lambda n: frame(TEXT) + frame(0) * (6 * n),
    "texts in fragments": lambda n: b"".join(fragments(TEXT, b"\xe2\x82", b"\xac")) * n,
    "pings": lambda n: frame(FINAL | PING, b"x") * (5 * n),
}


@pytest.mark.parametrize("chunk_size", [1, 16, 1000, 10**9])
@pytest.mark.parametrize("load", LOADS)
def test_the_work_grows_as_the_input_does(load, chunk_size):
    small, large = (work(pieces_of(LOADS[load](n), chunk_size)) for n in (200, 800))
    assert large <= 4.2 * small + 100


# -- compression: what is agreed -----------------------------------------------------------------


def test_the_offer_can_be_answered_as_it_is_but_for_a_value():
    assert DEFLATE_OFFER == (
        "permessage-deflate; client_no_context_takeover; client_max_window_bits"
    )
    assert Deflate.agreed(DEFLATE_OFFER + "=15") is not None


@pytest.mark.parametrize(
    ("header", "server_no_context_takeover", "client_max_window_bits"),
    [
        ("permessage-deflate", False, 15),
        (" permessage-deflate\t; client_no_context_takeover ,", False, 15),
        ("permessage-deflate; server_no_context_takeover", True, 15),
        ("permessage-deflate;server_no_context_takeover;client_max_window_bits=8", True, 8),
        ('permessage-deflate; client_max_window_bits = "10"', False, 10),
        ("permessage-deflate; server_max_window_bits=9; client_max_window_bits=12", False, 12),
    ],
)
def test_the_servers_answer_is_read(header, server_no_context_takeover, client_max_window_bits):
    deflate = Deflate.agreed(header)
    assert deflate is not None
    assert deflate.server_no_context_takeover is server_no_context_takeover
    assert deflate.client_max_window_bits == client_max_window_bits


@pytest.mark.parametrize("header", [None, "", " , "])
def test_a_server_may_want_no_compression(header):
    assert Deflate.agreed(header) is None


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("x-webkit-deflate-frame", "the server answered an extension that was not offered: 'x-we"),
        (";", "the server answered an extension that was not offered: ''"),
        ("permessage-deflate, foo", "the server answered 2 extensions, offered was 1"),
        ("permessage-deflate, permessage-deflate", "the server answered 2 extensions, offered was"),
        ("permessage-deflate; foo=1", "the server answered a parameter that was not offered: 'fo"),
        ("permessage-deflate;", "the server answered a parameter that was not offered: ''"),
        (
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "the server answered server_no_context_takeover twice",
        ),
        (
            "permessage-deflate; client_max_window_bits=9; client_max_window_bits=9",
            "the server answered client_max_window_bits twice",
        ),
        (
            "permessage-deflate; client_no_context_takeover=1",
            "client_no_context_takeover must have no value, the server answered '1'",
        ),
        *(
            (
                f"permessage-deflate; {side}_max_window_bits{value}",
                f"{side}_max_window_bits must be 8 to 15, the server answered {value[1:]!r}",
            )
            for side in ("server", "client")
            for value in ("", "=", "=7", "=16", "=08", "=+9", '=""', '="', "=x", "=٩")
        ),
    ],
)
def test_an_answer_that_does_not_fit_the_offer_is_refused(header, message):
    with pytest.raises(ProtocolError) as caught:
        Deflate.agreed(header)
    assert str(caught.value).startswith(message)


def test_what_was_agreed_is_shown():
    assert repr(Deflate(client_max_window_bits=9)) == (
        "<Deflate server_no_context_takeover=False client_max_window_bits=9>"
    )


# -- compression: receiving ----------------------------------------------------------------------


class Server:
    """A server's compressor: zlib itself, with context takeover unless told otherwise."""

    def __init__(self, *, keeps_context: bool = True) -> None:
        self._keeps_context = keeps_context
        self._begin()

    def _begin(self) -> None:
        self._compressor = zlib.compressobj(wbits=-15)

    def compress(self, payload: bytes) -> bytes:
        compressed = self._compressor.compress(payload)
        compressed += self._compressor.flush(zlib.Z_SYNC_FLUSH)
        if not self._keeps_context:
            self._begin()
        assert compressed.endswith(TAIL)
        return compressed[:-4]


def final_block(payload: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(payload) + compressor.flush(zlib.Z_FINISH)


def compressed(payload: bytes) -> bytes:
    """A whole text message."""
    return frame(FINAL | RSV1 | TEXT, payload)


def inflated(chunks: Iterable[bytes], max_size: int | None = None, **options: bool) -> Seen:
    return parsed(chunks, max_size=max_size, inflater=Deflate(**options).inflater())


CANNOT = Failure(1007, "a compressed message that cannot be inflated")


@each_cut
@pytest.mark.parametrize(
    "stream",
    [
        "c1 07 f2 48 cd c9 c9 07 00",
        "41 03 f2 48 cd 80 04 c9 c9 07 00",
        "c1 0b 00 05 00 fa ff 48 65 6c 6c 6f 00",
        "c1 08 f3 48 cd c9 c9 07 00 00",
        "c1 0d f2 48 05 00 00 00 ff ff ca c9 c9 07 00",
    ],
    ids=["one block", "fragments", "not compressed", "a final block", "two blocks"],
)
def test_the_examples_of_the_compression_rfc_are_inflated(stream, cut):
    assert inflated(cut(bytes.fromhex(stream))) == Seen(["Hello"])


@each_cut
def test_messages_may_share_their_context(cut):
    stream = bytes.fromhex("c1 07 f2 48 cd c9 c9 07 00 c1 05 f2 00 11 00 00")
    assert inflated(cut(stream)) == Seen(["Hello", "Hello"])
    assert inflated(cut(stream), server_no_context_takeover=True) == Seen(["Hello"], (), CANNOT)


@st.composite
def compressed_streams(draw: st.DrawFn) -> tuple[bytes, list[str | bytes], bool]:
    """Messages in any number of fragments, compressed or not, with pings among them."""
    keeps_context = draw(st.booleans())
    server = Server(keeps_context=keeps_context)
    parts: list[bytes] = []
    message = st.text(max_size=30) | st.binary(max_size=30) | st.just("abc" * 100)
    messages = draw(st.lists(message, max_size=6))
    for value in messages:
        opcode, payload = (TEXT, value.encode()) if isinstance(value, str) else (BINARY, value)
        if draw(st.booleans()):
            opcode, payload = opcode | RSV1, server.compress(payload)
        places = draw(st.lists(st.integers(0, 100), max_size=3))
        for part in fragments(opcode, *cut_at(payload, places)):
            parts += [part, frame(FINAL | PING)]
    return b"".join(parts), messages, keeps_context


@given(compressed_streams(), st.lists(st.integers(0, 10_000), max_size=10))
def test_what_was_compressed_is_inflated_whatever_the_cut(made, places):
    stream, messages, keeps_context = made
    for chunks in ([stream], cut_at(stream, places), pieces_of(stream, 1)):
        seen = inflated(chunks, 1000, server_no_context_takeover=not keeps_context)
        assert seen.messages == messages
        assert seen.failure is None


@given(compressed_streams(), st.integers(0, 10_000), st.integers(0, 255), st.integers(0, 400))
def test_bytes_that_were_changed_are_refused_in_the_same_place_whatever_the_cut(
    made, place, byte, limit
):
    stream = bytearray(made[0] + b"\x81\x00")
    stream[place % len(stream)] = byte
    whole, torn = (inflated(cut(bytes(stream)), limit) for cut in CUTS.values())
    assert whole[:2] == torn[:2]
    assert (whole.failure is None) == (torn.failure is None)


@each_cut
def test_an_empty_message_may_be_compressed(cut):
    server = Server()
    stream = b"".join(compressed(server.compress(value)) for value in (b"", b"abc", b"", b"abc"))
    assert inflated(cut(stream)) == Seen(["", "abc", "", "abc"])


@each_cut
def test_a_compressed_message_without_a_byte_is_empty_and_harms_none_after_it(cut):
    server = Server()
    parts = [compressed(b""), compressed(server.compress(b"abcabc")), compressed(b"")]
    parts += [*fragments(RSV1 | TEXT, b"", b""), compressed(server.compress(b"abcabc"))]
    assert inflated(cut(b"".join(parts))) == Seen(["", "abcabc", "", "", "abcabc"])


@each_cut
@pytest.mark.parametrize("end", [b"\x00", b""], ids=["as the RFC says", "without its end"])
def test_final_blocks_begin_a_new_stream(end, cut):
    one = compressed(final_block(b"abc") + end)
    two = compressed(final_block(b"abc") + final_block(b"def") + end)
    stream = one + two + frame(FINAL | PING) + one + compressed(Server().compress(b"abc"))
    assert inflated(cut(stream)).messages == ["abc", "abcdef", "abc", "abc"]


def test_many_final_blocks_are_inflated_with_their_limit():
    payload = final_block(b"abc") * 1000 + Server().compress(b"x" * 2000)
    expected = "abc" * 1000 + "x" * 2000
    assert inflated([compressed(payload)], 5000).messages == [expected]
    assert inflated([compressed(payload)]).messages == [expected]
    for limit in (4999, 3000, 2999, 3, 2):
        failure = Failure(1009, f"a message of more than {limit} bytes")
        assert inflated([compressed(payload)], limit).failure == failure


def test_final_blocks_are_inflated_in_linear_time():
    given_to_zlib = 0

    class Counted:
        def __init__(self, *args: Any) -> None:
            self._decoder = make(*args)

        def decompress(self, data: bytes, limit: int) -> bytes:
            nonlocal given_to_zlib
            given_to_zlib += len(data)
            return self._decoder.decompress(data, limit)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._decoder, name)

    make = zlib.decompressobj
    totals = []
    with patch.object(frames.zlib, "decompressobj", Counted):
        for n in (4000, 16_000):
            given_to_zlib = 0
            assert inflated([compressed(final_block(b"") * n)]).messages == [""]
            totals.append(given_to_zlib)
    assert totals[1] <= 4.4 * totals[0]


@each_cut
@pytest.mark.parametrize(
    "payload",
    [b"\xff" * 10, b"\x01\x05\x00\x00\x00Hello", final_block(b"abc") + b"\xff" * 10],
    ids=["a reserved block", "a wrong length", "after a final block"],
)
def test_what_cannot_be_inflated_is_refused(payload, cut):
    stream = compressed(DEFLATE.compress(b"before")) + compressed(payload) + text("after")
    assert inflated(cut(stream)) == Seen(["before"], (), CANNOT)


def test_what_the_end_shows_to_be_wrong_is_refused():
    assert inflated([compressed(b"\x00\x00")]).failure == CANNOT


@each_cut
def test_only_the_first_frame_of_a_message_says_that_it_is_compressed(cut):
    payload = DEFLATE.compress(b"abc")
    failure = Failure(1002, "a frame with reserved bits")
    for first in (RSV1 | FINAL, RSV1 | RSV2 | FINAL | TEXT, RSV1 | FINAL | PING, RSV1 | FINAL | 3):
        stream = frame(RSV1 | TEXT, payload[:2]) + frame(first, payload[2:])
        assert inflated(cut(stream)).failure == failure


@each_cut
def test_the_text_of_a_compressed_message_must_be_utf8(cut):
    failure = Failure(1007, "a text message that is not UTF-8")
    for wrong in (b"a\xff", b"a\xc3"):
        assert inflated(cut(compressed(DEFLATE.compress(wrong)))).failure == failure
    payload = DEFLATE.compress(b"a\xff")
    assert inflated([frame(FINAL | RSV1 | BINARY, payload)]).messages == [b"a\xff"]


@each_cut
@pytest.mark.parametrize("size", [0, 1, 100, 70_000])
def test_the_limit_is_of_the_inflated_message(size, cut):
    noise = random.Random(1).randbytes(size)
    for payload in (b"x" * size, noise):
        stream = frame(FINAL | RSV1 | BINARY, DEFLATE.compress(payload))
        assert inflated(cut(stream), size).messages == [payload]
        if size:
            failure = Failure(1009, f"a message of more than {size - 1} bytes")
            assert inflated(cut(stream), size - 1).failure == failure


@pytest.mark.parametrize(
    "payload",
    [
        DEFLATE.compress(b"x" * 50_000_000),
        final_block(b"x" * 90_000) * 200,
        final_block(b"a") + DEFLATE.compress(b"x" * 50_000_000),
    ],
    ids=["one block", "many final blocks", "after a final block"],
)
def test_a_bomb_is_refused_before_it_takes_memory(payload):
    stream = compressed(payload)
    assert len(stream) < 60_000
    seen: list[Seen] = []
    assert memory(lambda: seen.append(inflated([stream], 100_000))) < 500_000
    assert seen[0].failure == Failure(1009, "a message of more than 100000 bytes")


# -- sending -------------------------------------------------------------------------------------

MASK = bytes.fromhex("37fa213d")


class Sent(NamedTuple):
    first: int
    payload: bytes


def unmasked(sent: bytes) -> Sent:
    """A client's frame, read by the rules, and of no more bytes than it says."""
    assert sent[1] & 0x80
    length, start = sent[1] & 127, 2
    if length >= 126:
        start = 4 if length == 126 else 10
        length = int.from_bytes(sent[2:start], "big")
        assert length > (125 if start == 4 else 65535)
    mask, payload = sent[start : start + 4], sent[start + 4 :]
    assert len(payload) == length
    return Sent(sent[0], bytes(a ^ b for a, b in zip(payload, itertools.cycle(mask), strict=False)))


def test_the_example_of_the_rfc_is_written():
    assert data_frame("Hello", MASK).hex() == "818537fa213d7f9f4d5158"
    assert control_frame(Opcode.PONG, b"Hello", MASK).hex() == "8a8537fa213d7f9f4d5158"


@given(st.text() | st.binary(), st.binary(min_size=4, max_size=4))
def test_a_message_is_written_under_its_mask(value, mask):
    if isinstance(value, str):
        assert unmasked(data_frame(value, mask)) == (FINAL | TEXT, value.encode())
    else:
        assert unmasked(data_frame(value, mask)) == (FINAL | BINARY, value)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 65537, 131072, 200_003])
def test_messages_of_every_length_are_written(size):
    payload = random.Random(size).randbytes(size)
    assert unmasked(data_frame(payload, MASK)) == (FINAL | BINARY, payload)


def test_a_text_that_is_not_unicode_is_not_written():
    with pytest.raises(UnicodeEncodeError):
        data_frame("\ud800", MASK)


def test_a_large_message_is_masked_in_blocks():
    payload = b"x" * 4_000_000
    assert memory(lambda: data_frame(payload, MASK)) < 2.5 * len(payload)
    blocks = list(frames._masked(payload, MASK))
    assert max(map(len, blocks)) == 65536
    assert sum(map(len, blocks)) == len(payload)


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_a_control_frame_is_written(opcode):
    assert unmasked(control_frame(opcode, b"", MASK)) == (FINAL | opcode, b"")
    assert unmasked(control_frame(opcode, b"x" * 125, MASK)) == (FINAL | opcode, b"x" * 125)


@pytest.mark.parametrize(
    ("code", "reason", "payload"),
    [
        (None, "", b""),
        (1000, "", b"\x03\xe8"),
        (1001, "adiós", b"\x03\xe9adi\xc3\xb3s"),
        (4999, "x" * 200, b"\x13\x87" + b"x" * 123),
        (1000, "x" * 121 + "€", b"\x03\xe8" + b"x" * 121),
        (1000, "x" * 120 + "€", b"\x03\xe8" + b"x" * 120 + b"\xe2\x82\xac"),
        (1000, "a\ud800", b"\x03\xe8a?"),
    ],
)
def test_a_close_frame_is_written_with_as_much_of_its_reason_as_fits(code, reason, payload):
    assert unmasked(close_frame(code, reason, MASK)) == (FINAL | CLOSE, payload)


@given(st.text() | st.binary(), st.integers(8, 15))
def test_a_compressed_message_can_be_inflated_by_itself(value, bits):
    sent = unmasked(data_frame(value, MASK, deflate=Deflate(client_max_window_bits=bits)))
    opcode, plain = (TEXT, value.encode()) if isinstance(value, str) else (BINARY, value)
    assert sent.first == FINAL | RSV1 | opcode
    assert zlib.decompressobj(-bits).decompress(sent.payload + TAIL) == plain


@pytest.mark.parametrize("bits", [8, 9, 11, 15])
def test_compressed_data_refers_no_further_back_than_agreed(bits):
    noise = random.Random(bits)
    furthest = 2**bits
    for distance in (furthest - 6, furthest - 1, furthest, furthest + 1, furthest + 100):
        payload = noise.randbytes(distance)
        payload += payload[:100]
        packed = Deflate(client_max_window_bits=bits).compress(payload)
        assert inflated_byte_by_byte(packed, bits) == payload


def inflated_byte_by_byte(packed: bytes, bits: int) -> bytes:
    """Inflate with room for one byte at a time: all that is behind it is in the window then.

    So zlib refuses what refers further back than the window is large.
    """
    decoder, inflated, rest = zlib.decompressobj(-bits), [], packed + TAIL
    while rest:
        inflated.append(decoder.decompress(rest, 1))
        rest = decoder.unconsumed_tail
    return b"".join(inflated) + decoder.flush()


def test_compressed_data_is_smaller_and_ends_without_its_tail():
    packed = DEFLATE.compress(b"abc" * 100)
    assert len(packed) < 20
    assert not packed.endswith(TAIL)
    assert DEFLATE.compress(b"") == b"\x00"
