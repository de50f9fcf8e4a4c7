"""Bytes of a ``text/event-stream`` to events, by the WHATWG rules, in linear time.

Line ends are made line feeds first, which is exact whatever the chunking: a CR ends its line at
once, and an LF that follows it, in this chunk or the next, is dropped. Then all complete lines are
read: plain events (an event line and a data line, or the latter alone), one or a run of them, by a
few calls of ``str`` methods, everything else line by line. Both ways give the same events; a test
holds them to it.
"""

from codecs import getincrementaldecoder
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from math import inf

from reasoning_sdk.errors import ProtocolError
from reasoning_sdk.events import ServerSentEvent

__all__ = ["MAX_EVENT_SIZE", "SSEDecoder", "iter_events"]

MAX_EVENT_SIZE = 64 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"
_LF, _CR, _COLON = 10, 13, 58
_new = ServerSentEvent.__new__
_MAX_RETRY_DIGITS = 18  # more is no time to wait, and int() refuses thousands


def iter_events(
    chunks: Iterable[bytes], *, max_event_size: int = MAX_EVENT_SIZE
) -> Iterator[ServerSentEvent]:
    r"""Decode a stream of bytes, cut anywhere, into events. One thread at a time.

    Args:
        chunks: The bytes as they arrive.
        max_event_size: The most bytes that one event's lines may have, comments aside.

    Yields:
        Each event as soon as its last byte is in. One cut off by the end of the stream is none.

    Raises:
        ProtocolError: An event is larger than ``max_event_size``.

    Example:
        >>> [event.data for event in iter_events([b"data: a\n\nda", b"ta: b\n\n"])]
        ['a', 'b']

    Source: WHATWG HTML, section 9.2.6 "Interpreting an event stream".
    """
    decoder = SSEDecoder(max_event_size=max_event_size)
    for chunk in chunks:
        yield from decoder.feed(chunk)
    decoder.feed(b"")


class SSEDecoder:
    """The decoder behind :func:`iter_events`, fed by hand. One thread at a time.

    Args:
        max_event_size: The most bytes that one event's lines may have, comments aside.
        last_event_id: The last event id that an earlier connection left in force.

    Attributes:
        last_event_id: The last event id in force, ``""`` when there is none.
        retry: The reconnection time that the stream has set, in milliseconds, else ``None``.
    """

    def __init__(self, *, max_event_size: int = MAX_EVENT_SIZE, last_event_id: str = "") -> None:
        self.last_event_id = last_event_id
        self.retry: int | None = None
        self._max_event_size = max_event_size
        self._between_events = False  # nothing is held, and no special byte may come
        self._start: bytes | None = b""  # what came of a byte order mark; None: none may come
        self._after_cr = False  # a line feed that comes belongs to a carriage return
        self._error: ProtocolError | None = None  # found behind events that had to be given first
        self._line = _OpenLine()
        self._id = last_event_id  # to be in force when its event is dispatched
        self._block_retry: int | None = None
        self._begin_event()

    def __repr__(self) -> str:
        held = self._size + self._line.size
        return f"<SSEDecoder last_event_id={self.last_event_id!r} held={held}>"

    @property
    def is_inside_event(self) -> bool:
        """Whether lines of an event have begun that no blank line has ended; comments are none."""
        in_line = self._line.size and not self._line.is_comment
        return bool(self._begun or in_line or self._start)

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Take the next bytes, and give the events that they complete.

        Args:
            chunk: Any number of bytes. With none, nothing happens but the error that is due.

        Raises:
            ProtocolError: An event is larger than ``max_event_size``. The events before it have
                been given; no more will be.
        """
        events: list[ServerSentEvent] = []
        if self._between_events and self._read_plain_event(chunk, events):
            return events
        if self._error is not None:
            raise self._error
        try:
            self._read(chunk, events)
        except ProtocolError as exc:
            self._error = exc
            self._between_events = False
            if not events:
                raise
        return events

    def _read(self, chunk: bytes, events: list[ServerSentEvent]) -> None:
        """Read up to the last line end, and hold what is behind it."""
        chunk = self._with_line_feeds_only(self._without_byte_order_mark(chunk))
        end = chunk.rfind(b"\n") + 1
        if end:
            lines = chunk[:end]
            if self._line.size:
                lines = self._end_line(lines)
            self._read_complete(lines, events)
        if end < len(chunk):
            self._line.add(chunk[end:])
            if not self._line.is_comment:
                self._check_size(self._line.size)
        self._between_events = not (
            self._begun or self._line.size or self._after_cr or self._start is not None
        )

    def _without_byte_order_mark(self, chunk: bytes) -> bytes:
        if self._start is None:
            return chunk
        chunk = self._start + chunk
        if len(chunk) < len(_BOM) and _BOM.startswith(chunk):
            self._start = chunk
            return b""
        self._start = None
        return chunk.removeprefix(_BOM)

    def _with_line_feeds_only(self, chunk: bytes) -> bytes:
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if _CR in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return chunk

    def _end_line(self, lines: bytes) -> bytes:
        """Put the open line before the first of the lines, or if it is long read it by itself."""
        line, self._line = self._line, _OpenLine()
        if not line.is_long:
            return line.join(lines)
        end = lines.find(b"\n")
        self._check_size(line.size + end)
        self._begun = True
        self._size += line.size + end + 1
        self._data.append(line.data(lines[:end]))
        return lines[end + 1 :]

    def _check_size(self, more: int) -> None:
        if self._size + more > self._max_event_size:
            raise ProtocolError(
                f"an event is larger than max_event_size, {self._max_event_size} bytes"
            )

    def _read_complete(self, lines: bytes, events: list[ServerSentEvent]) -> None:
        """Read complete lines: the rest of the event begun, whole events, the beginning of one."""
        start = _end_of_first_event(lines) if self._begun else 0
        end = max(_end_of_last_event(lines), start)
        if start:
            self._read_lines(lines[:start], events)
        if start < end:
            self._read_whole(lines[start:end], events)
        if end < len(lines):
            self._read_lines(lines[end:], events)

    def _read_whole(self, block: bytes, events: list[ServerSentEvent]) -> None:
        """Read whole events, up to a blank line."""
        if self._read_plain_event(block, events) or self._read_plain_run(block, events):
            return
        self._read_lines(block, events)

    def _read_plain_event(self, block: bytes, events: list[ServerSentEvent]) -> bool:
        """Read one event of a plain shape; if it is anything else, read nothing."""
        name, start, end = "", 6, block.find(b"\n")
        if block[:6] != b"data: ":
            if block[:7] != b"event: ":
                return False
            name, start = block[7:end].decode("utf-8", "replace"), end + 7
            if block[end + 1 : start] != b"data: ":
                return False
            end = block.find(b"\n", start)
        size = len(block)
        if end != size - 2 or block[-1] != _LF or size > self._max_event_size or _CR in block:
            return False
        event = _new(ServerSentEvent)
        event.event = name or "message"
        event.data = block[start:-2].decode("utf-8", "replace")
        event.id = self.last_event_id
        event.retry = None
        events.append(event)
        return True

    def _read_plain_run(self, block: bytes, events: list[ServerSentEvent]) -> bool:
        """Read events that all have the same plain shape; if they have not, read nothing."""
        if len(block) > self._max_event_size:
            return False  # line by line, each event is measured
        text = block.decode("utf-8", "replace")
        named: Iterable[tuple[str, str, str]]
        if text.startswith("data: "):
            parts = text[6:-2].split("\n\ndata: ")
            named = zip(repeat(""), repeat(":"), parts, strict=False)
            lines_each = 2
        else:
            parts = text[7:-2].split("\n\nevent: ")
            named = [part.partition("\ndata: ") for part in parts]
            lines_each = 3 if text.startswith("event: ") else 0
        if text.count("\n") != lines_each * len(parts):
            return False
        read, last_event_id = [], self.last_event_id
        for name, found, data in named:
            if not found:
                return False
            read.append(_event(name, data, last_event_id))
        events += read
        return True

    def _read_lines(self, lines: bytes, events: list[ServerSentEvent]) -> None:
        """Read complete lines one by one."""
        for line in lines[:-1].split(b"\n"):
            if not line:
                self._dispatch(events)
                continue
            if line[0] == _COLON:
                continue
            if self._size + len(line) > self._max_event_size:
                self._check_size(len(line))
            self._begun = True
            self._size += len(line) + 1
            if line[:6] == b"data: ":
                self._data.append(line[6:].decode("utf-8", "replace"))
            else:
                self._read_field(line)

    def _read_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if value[:1] == b" ":
            value = value[1:]
        if name == b"event":
            self._name = value.decode("utf-8", "replace")
        elif name == b"id":
            if 0 not in value:
                self._id = value.decode("utf-8", "replace")
        elif name == b"data":
            self._data.append(value.decode("utf-8", "replace"))
        elif name == b"retry" and value.isdigit() and len(value) <= _MAX_RETRY_DIGITS:
            self.retry = self._block_retry = int(value)

    def _begin_event(self) -> None:
        self._begun = False
        self._size = 0
        self._name = ""
        self._data: list[str] = []
        self._block_retry = None

    def _dispatch(self, events: list[ServerSentEvent]) -> None:
        self.last_event_id = self._id
        if self._data:
            data = self._data[0] if len(self._data) == 1 else "\n".join(self._data)
            events.append(_event(self._name, data, self._id, self._block_retry))
        self._begin_event()


class _OpenLine:
    """The beginning of a line whose end has not come yet, in pieces.

    What comes of a long data line is decoded in groups: to join a large one and slice its value and
    decode that would take three times its memory, and most of the time goes into page faults.
    """

    _GROUP = 256 * 1024

    def __init__(self) -> None:
        self.size = 0
        self.is_comment = False
        self._pieces: list[bytes] = []
        self._next_group: float = self._GROUP
        self._texts: list[str] = []

    @property
    def is_long(self) -> bool:
        return bool(self._texts)

    def add(self, piece: bytes) -> None:
        if self.is_comment:  # nothing but its colon is held, however long it gets
            return
        if not self.size and piece.startswith(b":"):
            self.is_comment, piece = True, b":"
        self.size += len(piece)
        self._pieces.append(piece)
        if self.size >= self._next_group:
            self._next_group = self.size + self._GROUP
            self._decode_group()

    def _decode_group(self) -> None:
        group = self.join(b"")
        if not self._texts:
            if not group.startswith(b"data:"):
                self._next_group = inf  # not worth the while
                return
            group = group.removeprefix(b"data:").removeprefix(b" ")
            self._decode = getincrementaldecoder("utf-8")("replace").decode
        self._pieces.clear()
        self._texts.append(self._decode(group))

    def join(self, end: bytes) -> bytes:
        """All of a line that is not long."""
        return b"".join((*self._pieces, end))

    def data(self, end: bytes) -> str:
        """The value of a long line."""
        self._texts.append(self._decode(self.join(end), final=True))
        return "".join(self._texts)


def _event(
    name: str,
    data: str,
    last_event_id: str,
    retry: int | None = None,
    _new: Callable[[type[ServerSentEvent]], ServerSentEvent] = ServerSentEvent.__new__,
) -> ServerSentEvent:
    """An event, made in half the time that calling the class takes."""
    event = _new(ServerSentEvent)
    event.event = name or "message"
    event.data = data
    event.id = last_event_id
    event.retry = retry
    return event


def _end_of_first_event(lines: bytes) -> int:
    if lines.startswith(b"\n"):
        return 1
    found = lines.find(b"\n\n")
    return found + 2 if found >= 0 else len(lines)


def _end_of_last_event(lines: bytes) -> int:
    found = lines.rfind(b"\n\n")
    return found + 2 if found >= 0 else 0
