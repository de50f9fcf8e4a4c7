"""WebSocket frames, both ways: a server's bytes to messages, and messages to a client's bytes.

Received bytes are read in two ways, which give the same. A run of plain text messages (whole, in
one frame each, short enough for 16 bits) is cut up in a tight loop. Everything else is read frame
by frame, and payloads as they arrive: inflated, decoded and measured piece by piece, so that a
fault is seen as soon as it is there and nothing is held twice.

Source: RFC 6455 (the protocol), RFC 7692 (compression).
"""

import zlib
from codecs import utf_8_decode
from collections.abc import Iterator
from io import BytesIO, StringIO
from struct import Struct
from typing import NamedTuple

from reasoning_sdk.errors import ProtocolError

__all__ = [
    "DEFLATE_OFFER",
    "Control",
    "Deflate",
    "Failure",
    "FrameParser",
    "Inflater",
    "Opcode",
    "close_frame",
    "control_frame",
    "data_frame",
]

DEFLATE_OFFER = "permessage-deflate; client_no_context_takeover; client_max_window_bits"
"""What a client offers as ``Sec-WebSocket-Extensions``; :meth:`Deflate.agreed` reads the answer."""

_PROTOCOL_ERROR, _INVALID_DATA, _TOO_BIG = 1002, 1007, 1009
_CLOSE_CODES = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})  # and 3000 to 4999
_MAX_SHORT = 125  # the largest length that the second byte can hold, and that a control may have
_FINAL, _COMPRESSED, _RESERVED, _MASKED = 0x80, 0x40, 0x70, 0x80
_MASK_BLOCK = 64 * 1024  # a multiple of the mask's size that stays in the cache
_DEFLATE_TAIL = b"\x00\x00\xff\xff"
_AFTER_FINAL_BLOCK = 512  # zlib copies what it leaves over, so little is given to it at a time
_read_head = Struct(">HH").unpack_from
_head_16 = Struct(">BBH").pack
_head_64 = Struct(">BBQ").pack


class Opcode:
    """What a frame is.

    Source: RFC 6455, section 5.2.
    """

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


_DATA = frozenset({Opcode.TEXT, Opcode.BINARY})
_OPCODES = _DATA | {Opcode.CONTINUATION, Opcode.CLOSE, Opcode.PING, Opcode.PONG}


class Control(NamedTuple):
    """A control frame that was received.

    Attributes:
        opcode: ``Opcode.CLOSE``, ``Opcode.PING`` or ``Opcode.PONG``.
        payload: All of its payload.
        close_code: The code of a Close frame, ``None`` when it has none.
        reason: The reason of a Close frame.
    """

    opcode: int
    payload: bytes
    close_code: int | None = None
    reason: str = ""


class Failure(NamedTuple):
    """How the server broke the protocol.

    Attributes:
        code: The code to close the connection with.
        text: What it sent, as in "a frame with reserved bits".
    """

    code: int
    text: str


class FrameParser:
    """Bytes from a server to messages. One thread at a time.

    Bytes cut in any way give the same. Only if one compressed message has several faults, it may
    depend on the cut which of them is the ``failure``.

    Args:
        max_size: The most bytes that a message may have, inflated; ``None``: any number. It is held
            to before memory is taken: a frame that announces more is refused by its header.
        inflater: What inflates compressed messages, when compression was agreed.

    Attributes:
        controls: The control frames that have arrived, in order, until they are taken out.
        failure: How the server broke the protocol, else ``None``.
        taken: How many bytes the messages given so far were, inflated.
    """

    def __init__(self, *, max_size: int | None, inflater: "Inflater | None" = None) -> None:
        self.controls: list[Control] = []
        self.failure: Failure | None = None
        self.taken = 0
        self._max_size = max_size
        self._inflater = inflater
        self._over = False  # after a Close frame or a failure
        self._held = b""  # the beginning of a header or of a control frame
        self._message: _Message | None = None
        self._missing = 0  # bytes to come of the payload of the frame begun
        self._is_final = False  # that frame is the last of its message
        limit = 0xFFFF if max_size is None else min(max_size, 0xFFFF)
        self._max_plain = limit
        self._last_short_head = 0x8100 + min(limit, _MAX_SHORT)

    def __repr__(self) -> str:
        state = "OPEN" if not self._over else "CLOSED" if self.failure is None else "FAILED"
        return f"<FrameParser {state} controls={len(self.controls)} taken={self.taken}>"

    def feed(self, data: bytes) -> list[str | bytes]:
        """Take the next bytes, and give the messages that they complete.

        Controls are added to ``controls``. When the bytes break the protocol, ``failure`` is set,
        and what was complete before is given. Bytes after that, or after a Close frame, are
        ignored.

        Args:
            data: Any number of bytes.
        """
        messages: list[str | bytes] = []
        if self._over:
            return messages
        if self._held:
            data, self._held = self._held + data, b""
        at = 0
        try:
            while at < len(data) and not self._over:
                if self._missing:
                    at = self._read_payload(data, at, messages)
                    continue
                if self._message is None:
                    at = self._read_plain(data, at, messages)
                at = self._read_frame(data, at, messages)
        except _ViolationError as exc:
            self.failure = Failure(*exc.args)
            self._over = True
            self._message = None
        return messages

    def take_controls(self) -> list[Control]:
        """Take out the control frames that have arrived."""
        controls, self.controls = self.controls, []
        return controls

    def _read_plain(self, data: bytes, at: int, messages: list[str | bytes]) -> int:
        """Read plain text messages, up to the first frame that is anything else."""
        begin, size, heads = at, len(data), 0
        max_plain, last_short_head = self._max_plain, self._last_short_head
        read_head, add = _read_head, messages.append
        try:
            while size - at >= 4:
                head, length = read_head(data, at)
                if head == 0x817E:
                    if not _MAX_SHORT < length <= max_plain:
                        break
                    start = at + 4
                elif 0x8100 <= head <= last_short_head:
                    length = head - 0x8100
                    start = at + 2
                else:
                    break
                stop = start + length
                if stop > size:
                    break
                add(data[start:stop].decode())
                heads += start - at
                at = stop
        except UnicodeDecodeError:
            raise _not_utf8("a text message") from None
        finally:
            self.taken += at - begin - heads
        return at

    def _read_frame(self, data: bytes, at: int, messages: list[str | bytes]) -> int:
        """Read a frame of any kind as far as it is there; give where that ends."""
        size = len(data)
        if size - at < 2:
            return self._hold(data, at)
        first, length = data[at], data[at + 1]
        self._check_head(first, length)
        start = at + 2
        if first & 0x0F >= Opcode.CLOSE:
            if size - start < length:
                return self._hold(data, at)
            self._take_control(first & 0x0F, data[start : start + length])
            return start + length
        if length > _MAX_SHORT:
            start += 2 if length == 126 else 8
            if start > size:
                return self._hold(data, at)
            length = _long_length(data[at + 2 : start])
        if self._message is None:
            inflater = self._inflater if first & _COMPRESSED else None
            self._message = _Message(first & 0x0F == Opcode.TEXT, self._max_size, inflater)
        self._message.expect(length)
        self._missing = length
        self._is_final = first >= _FINAL
        return self._read_payload(data, start, messages)

    def _hold(self, data: bytes, at: int) -> int:
        """Keep what is too little to be read, until more arrives."""
        self._held = data[at:]
        return len(data)

    def _check_head(self, first: int, second: int) -> None:
        """Check all that the first two bytes of a frame tell."""
        opcode, reserved = first & 0x0F, first & _RESERVED
        if second & _MASKED:
            raise _ViolationError(_PROTOCOL_ERROR, "a masked frame")
        if reserved and (reserved != _COMPRESSED or self._inflater is None or opcode not in _DATA):
            raise _ViolationError(_PROTOCOL_ERROR, "a frame with reserved bits")
        if opcode not in _OPCODES:
            raise _ViolationError(_PROTOCOL_ERROR, f"a frame with the reserved opcode {opcode}")
        if opcode >= Opcode.CLOSE:
            if first < _FINAL:
                raise _ViolationError(_PROTOCOL_ERROR, "a fragmented control frame")
            if second > _MAX_SHORT:
                raise _ViolationError(
                    _PROTOCOL_ERROR, f"a control frame of more than {_MAX_SHORT} bytes"
                )
        elif opcode == Opcode.CONTINUATION:
            if self._message is None:
                raise _ViolationError(_PROTOCOL_ERROR, "a continuation of no message")
        elif self._message is not None:
            raise _ViolationError(_PROTOCOL_ERROR, "a new message inside a fragmented one")

    def _read_payload(self, data: bytes, at: int, messages: list[str | bytes]) -> int:
        """Read what is there of the payload of the frame begun."""
        message = self._message
        assert message is not None
        piece = data[at : at + self._missing]
        self._missing -= len(piece)
        message.add(piece)
        if self._is_final and not self._missing:
            messages.append(message.end())
            self.taken += message.size
            self._message = None
        return at + len(piece)

    def _take_control(self, opcode: int, payload: bytes) -> None:
        if opcode == Opcode.CLOSE:
            self.controls.append(_close(payload))
            self._over = True
        else:
            self.controls.append(Control(opcode, payload))


class Inflater:
    """Inflates the messages of one connection for its parser. One thread at a time.

    Args:
        keeps_context: A message may refer to the contents of those before it.

    Source: RFC 7692, section 7.2.2.
    """

    def __init__(self, *, keeps_context: bool) -> None:
        self._keeps_context = keeps_context
        self._decoder = zlib.decompressobj(-zlib.MAX_WBITS)
        self._is_empty = True  # nothing came of this message, or nothing after its final block

    def inflate(self, piece: bytes, limit: int) -> bytes:
        """Inflate the next bytes of a message, to at most ``limit`` bytes; 0: to any number.

        Once the limit is reached, the rest of the message is lost.
        """
        if not piece:
            return b""
        inflated = self._decompress(piece, limit)
        if self._decoder.eof:
            return self._inflate_after_final_block(inflated, limit)
        return inflated

    def end(self, limit: int) -> bytes:
        """Inflate what ends each message, and is not sent."""
        # To a message without a byte, and to a final block without the one that has to follow it,
        # the tail is no end: it would be read as the beginning of a block.
        inflated = b"" if self._is_empty else self.inflate(_DEFLATE_TAIL, limit)
        if not self._keeps_context:
            self._begin_stream()
        self._is_empty = True
        return inflated

    def _inflate_after_final_block(self, inflated: bytes, limit: int) -> bytes:
        """Inflate what follows a final block: a new stream, without context, and maybe many.

        Source: RFC 7692, section 7.2.3.4.
        """
        parts, total = [inflated], len(inflated)
        rest, at = self._decoder.unused_data, 0
        self._begin_stream()
        while at < len(rest) and (total < limit or not limit):
            some = rest[at : at + _AFTER_FINAL_BLOCK]
            parts.append(self._decompress(some, limit and limit - total))
            total += len(parts[-1])
            at += len(some)
            if self._decoder.eof:
                at -= len(self._decoder.unused_data)
                self._begin_stream()
        return b"".join(parts)

    def _decompress(self, some: bytes, limit: int) -> bytes:
        self._is_empty = False
        try:
            return self._decoder.decompress(some, limit)
        except zlib.error:
            raise _ViolationError(
                _INVALID_DATA, "a compressed message that cannot be inflated"
            ) from None

    def _begin_stream(self) -> None:
        self._decoder = zlib.decompressobj(-zlib.MAX_WBITS)
        self._is_empty = True


class Deflate:
    """The compression that client and server have agreed on. Safe to use from any thread.

    Args:
        server_no_context_takeover: The server's messages do not refer to each other.
        client_max_window_bits: How far back, as a power of two, the client's data may refer.
    """

    def __init__(
        self, *, server_no_context_takeover: bool = False, client_max_window_bits: int = 15
    ) -> None:
        self.server_no_context_takeover = server_no_context_takeover
        self.client_max_window_bits = client_max_window_bits

    def __repr__(self) -> str:
        return (
            f"<Deflate server_no_context_takeover={self.server_no_context_takeover}"
            f" client_max_window_bits={self.client_max_window_bits}>"
        )

    @classmethod
    def agreed(cls, header: str | None) -> "Deflate | None":
        """Read the server's answer to :data:`DEFLATE_OFFER`.

        Args:
            header: The value of ``Sec-WebSocket-Extensions``; ``None`` when there is none.

        Returns:
            What was agreed; ``None`` if there is to be no compression.

        Raises:
            ProtocolError: The answer has what was not offered, a value that is none, or anything
                twice.

        Source: RFC 6455, section 9.1; RFC 7692, section 7.1.
        """
        extensions = [part.strip(" \t") for part in (header or "").split(",")]
        extensions = [extension for extension in extensions if extension]
        if not extensions:
            return None
        name, *parameters = (part.strip(" \t") for part in extensions[0].split(";"))
        if name != "permessage-deflate":
            raise ProtocolError(f"the server answered an extension that was not offered: {name!r}")
        if len(extensions) > 1:
            raise ProtocolError(f"the server answered {len(extensions)} extensions, offered was 1")
        values: dict[str, int] = {}
        for parameter in parameters:
            name, value = _deflate_parameter(parameter)
            if name in values:
                raise ProtocolError(f"the server answered {name} twice")
            values[name] = value
        return cls(
            server_no_context_takeover="server_no_context_takeover" in values,
            client_max_window_bits=values.get("client_max_window_bits", zlib.MAX_WBITS),
        )

    def inflater(self) -> Inflater:
        """What inflates the messages of a new connection."""
        return Inflater(keeps_context=not self.server_no_context_takeover)

    def compress(self, payload: bytes) -> bytes:
        """Compress one message, by itself.

        Source: RFC 7692, section 7.2.1.
        """
        # zlib makes no raw stream for 8 bits. With 9 it refers 250 bytes back at most, since it
        # keeps 262 of its window for itself: what a reader with a window of 256 can read.
        bits = max(self.client_max_window_bits, 9)
        compressor = zlib.compressobj(wbits=-bits)
        compressed = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
        return compressed.removesuffix(_DEFLATE_TAIL)


def data_frame(payload: str | bytes, mask: bytes, *, deflate: Deflate | None = None) -> bytes:
    """The frame of a whole message: a text for a ``str``, binary for ``bytes``.

    Args:
        payload: The message.
        mask: 4 random bytes, new ones for each frame.
        deflate: What to compress it with, ``None`` for not at all.

    Raises:
        UnicodeEncodeError: The text has a lone surrogate.

    Example:
        >>> data_frame("Hello", bytes.fromhex("37fa213d")).hex(" ")
        '81 85 37 fa 21 3d 7f 9f 4d 51 58'

    Source: RFC 6455, section 5.6; RFC 7692, section 6.1.
    """
    first = _FINAL | Opcode.BINARY
    if isinstance(payload, str):
        first, payload = _FINAL | Opcode.TEXT, payload.encode()
    if deflate is not None:
        first, payload = first | _COMPRESSED, deflate.compress(payload)
    return _frame(first, payload, mask)


def control_frame(opcode: int, payload: bytes, mask: bytes) -> bytes:
    """A Close, Ping or Pong frame.

    Args:
        opcode: Which of them.
        payload: Up to 125 bytes.
        mask: 4 random bytes, new ones for each frame.

    Source: RFC 6455, section 5.5.
    """
    assert len(payload) <= _MAX_SHORT
    return _frame(_FINAL | opcode, payload, mask)


def close_frame(code: int | None, reason: str, mask: bytes) -> bytes:
    """A Close frame.

    Args:
        code: The code to close with, ``None`` for none; then there is no reason either.
        reason: The reason, of which as many whole characters are sent as 123 bytes can hold.
        mask: 4 random bytes, new ones for each frame.

    Source: RFC 6455, section 5.5.1.
    """
    payload = b""
    if code is not None:
        text = reason.encode("utf-8", "replace")[: _MAX_SHORT - 2].decode("utf-8", "ignore")
        payload = code.to_bytes(2, "big") + text.encode()
    return control_frame(Opcode.CLOSE, payload, mask)


class _ViolationError(Exception):
    """The server broke the protocol; the arguments are those of the :class:`Failure`."""


class _Message:
    """A message that has not ended, as far as it has come.

    It is kept in a buffer that grows: a list of pieces would take fifty times their size if each
    is a fragment of a byte or two.
    """

    __slots__ = ("_bytes", "_inflater", "_max_size", "_text", "_torn", "size")

    def __init__(self, is_text: bool, max_size: int | None, inflater: Inflater | None) -> None:
        self.size = 0  # inflated
        self._max_size = max_size
        self._inflater = inflater
        self._text = StringIO(newline="") if is_text else None
        self._bytes = BytesIO()
        self._torn = b""  # the beginning of a character

    def expect(self, length: int) -> None:
        """Check the length of a frame before it comes; what it inflates to is checked by `add`."""
        if self._inflater is None:
            self._check_size(self.size + length)

    def add(self, piece: bytes) -> None:
        """Add the next piece of the payload."""
        if self._inflater is not None:
            piece = self._inflater.inflate(piece, self._limit())
        self._write(piece)

    def end(self) -> str | bytes:
        """The whole message."""
        if self._inflater is not None:
            self._write(self._inflater.end(self._limit()))
        if self._text is None:
            return self._bytes.getvalue()
        if self._torn:
            raise _not_utf8("a text message")
        return self._text.getvalue()

    def _limit(self) -> int:
        """One byte more than there may be, which is enough to tell."""
        return 0 if self._max_size is None else self._max_size - self.size + 1

    def _check_size(self, size: int) -> None:
        if self._max_size is not None and size > self._max_size:
            raise _ViolationError(_TOO_BIG, f"a message of more than {self._max_size} bytes")

    def _write(self, piece: bytes) -> None:
        self.size += len(piece)
        if self._text is None:
            self._bytes.write(piece)
        else:
            piece = self._torn + piece
            try:
                text, read = utf_8_decode(piece, "strict", False)
            except UnicodeDecodeError:
                raise _not_utf8("a text message") from None
            self._text.write(text)
            self._torn = piece[read:]
        self._check_size(self.size)


def _not_utf8(what: str) -> _ViolationError:
    return _ViolationError(_INVALID_DATA, f"{what} that is not UTF-8")


def _long_length(encoded: bytes) -> int:
    """A length that did not fit into the second byte."""
    length = int.from_bytes(encoded, "big")
    if length >> 63:
        raise _ViolationError(_PROTOCOL_ERROR, "a length with its highest bit set")
    if length <= (_MAX_SHORT if len(encoded) == 2 else 0xFFFF):
        raise _ViolationError(_PROTOCOL_ERROR, f"a length of {length} in {len(encoded)} bytes")
    return length


def _close(payload: bytes) -> Control:
    """A Close frame by its payload."""
    if not payload:
        return Control(Opcode.CLOSE, payload)
    if len(payload) == 1:
        raise _ViolationError(_PROTOCOL_ERROR, "a close frame with half a code")
    code = int.from_bytes(payload[:2], "big")
    if code not in _CLOSE_CODES and not 3000 <= code <= 4999:
        raise _ViolationError(_PROTOCOL_ERROR, f"a close frame with the code {code}")
    try:
        reason = payload[2:].decode()
    except UnicodeDecodeError:
        raise _not_utf8("a close reason") from None
    return Control(Opcode.CLOSE, payload, code, reason)


def _deflate_parameter(parameter: str) -> tuple[str, int]:
    """A parameter of the server's answer, with its number if it has one."""
    name, equals, value = (part.strip(" \t") for part in parameter.partition("="))
    if name in ("server_no_context_takeover", "client_no_context_takeover"):
        if equals:
            raise ProtocolError(f"{name} must have no value, the server answered {value!r}")
        return name, 0
    if name in ("server_max_window_bits", "client_max_window_bits"):
        if len(value) > 2 and value[0] == value[-1] == '"':
            value = value[1:-1]
        if value not in ("8", "9", "10", "11", "12", "13", "14", "15"):
            raise ProtocolError(f"{name} must be 8 to 15, the server answered {value!r}")
        return name, int(value)
    raise ProtocolError(f"the server answered a parameter that was not offered: {name!r}")


def _frame(first: int, payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    if size <= _MAX_SHORT:
        head = bytes((first, _MASKED | size))
    elif size <= 0xFFFF:
        head = _head_16(first, _MASKED | 126, size)
    else:
        head = _head_64(first, _MASKED | 127, size)
    return b"".join((head, mask, *_masked(payload, mask)))


def _masked(payload: bytes, mask: bytes) -> Iterator[bytes]:
    """The payload under the mask, in blocks, each as one large number.

    Source: RFC 6455, section 5.3.
    """
    assert len(mask) == 4
    for start in range(0, len(payload), _MASK_BLOCK):
        block = payload[start : start + _MASK_BLOCK]
        size = len(block)
        key = int.from_bytes((mask * (size // 4 + 1))[:size], "little")
        yield (int.from_bytes(block, "little") ^ key).to_bytes(size, "little")
