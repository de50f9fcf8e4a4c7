"""The command ``watch``: the messages of a WebSocket, as lines or as a table that is alive."""

import json
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, Protocol

from rich.console import Console, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from reasoning_sdk.cli_output import complain, tell, visible
from reasoning_sdk.encoding import parse_json
from reasoning_sdk.errors import ConfigurationError, ConnectionLostError
from reasoning_sdk.events import Connected, Disconnected, Message
from reasoning_sdk.reasoning_layer import ReasoningLayerClient
from reasoning_sdk.retry import RetryPolicy
from reasoning_sdk.websocket import ConnectionState, WebSocketConnection

__all__ = ["Source", "agent_or_session", "headers_of", "print_lines", "show_table", "websocket"]

_NORMAL = 1000
_CLOSE_TIMEOUT = 1.0
_ONE_AFTER_THE_OTHER = 1.0  # seconds
_PING_INTERVAL = 5.0  # seconds; somebody watches the latency
_MOST_WAITING = 100_000  # in a table; the older ones would not be seen anyway
_MOST_ROWS = 200
_MOST_CHARACTERS = 300
_LARGE = 10_000  # characters
_LINE_BREAK = re.compile(r"[\r\n][ \t\r\n]*")
_NOT_PLAIN = re.compile("[\x7f-\x9f]")
_NOT_ASCII = re.compile("[^\x00-\x7e]")
_COLOURS = {
    ConnectionState.OPEN: "green",
    ConnectionState.RECONNECTING: "yellow",
    ConnectionState.CLOSED: "dim",
}


# -- what to watch ---------------------------------------------------------------------------------


class Source(NamedTuple):
    """What to watch.

    Attributes:
        name: What to call it: without secrets.
        connect: Connects to it.
    """

    name: str
    connect: Callable[..., AbstractContextManager[WebSocketConnection]]


def websocket(url: str, id: str | None, token: str | None, headers: dict[str, str]) -> Source:
    """Any WebSocket."""
    if id is not None:
        raise ConfigurationError("only an agent and a session have an id")
    if token is not None:
        headers = {**headers, "Authorization": f"Bearer {token}"}

    def connect(**options: Any) -> WebSocketConnection:
        return WebSocketConnection.connect(url, headers=headers, **options)

    return Source(url.partition("?")[0], connect)


def agent_or_session(
    kind: str, id: str | None, client: ReasoningLayerClient, headers: dict[str, str]
) -> Source:
    """What a Reasoning Layer tells of an agent or a session. The client is closed at the end."""
    if id is None:
        raise ConfigurationError(f"no {kind}: give its id")

    @contextmanager
    def connect(**options: Any) -> Iterator[WebSocketConnection]:
        opened = client.cognitive.agent_events if kind == "agent" else client.oversight.session
        with client, opened(id, headers=headers, **options) as connection:
            yield connection

    return Source(f"{kind} {id}", connect)


def headers_of(lines: Iterable[str]) -> dict[str, str]:
    """The headers in lines as ``Name: value``.

    Raises:
        ConfigurationError: One is none. It is not shown, as it may be secret.
    """
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not (name.strip() and colon):
            raise ConfigurationError('--header must be "Name: value"')
        headers[name.strip()] = value.strip()
    return headers


# -- watching --------------------------------------------------------------------------------------


class _View(Protocol):
    """Shows what comes, and what becomes of the connection."""

    def show(self, message: Message) -> bool:
        """Show a message; whether it could be read."""

    def tell(self, kind: str, text: str, colour: str) -> None:
        """Show what has become of the connection."""


class _Watcher:
    """Follows a connection through all its losses."""

    def __init__(self) -> None:
        self._view: _View | None = None
        self._told = threading.Event()  # that it was lost

    def on_reconnect(self, attempt: int) -> None:
        """Tell of an attempt, behind the loss that it is for, if that can be told in time."""
        self._told.wait(_ONE_AFTER_THE_OTHER)
        view = self._view
        if view is not None:
            view.tell("reconnecting", f", attempt {attempt}", "yellow")

    def follow(self, events: Iterable[Any], view: _View, count: int | None) -> None:
        """Show what comes, until it has been so many messages."""
        self._view = view
        try:
            self._follow(events, view, count)
        finally:
            self._view = None
            self._told.set()

    def _follow(self, events: Iterable[Any], view: _View, count: int | None) -> None:
        shown = 0
        for event in events:
            if isinstance(event, Message):
                shown += view.show(event)
                if shown == count:
                    return
            elif isinstance(event, Disconnected):
                view.tell("disconnected", f": {event.error}", "red")
                self._told.set()
            elif isinstance(event, Connected) and event.attempt:
                self._told.clear()
                view.tell("connected again", "; messages may have been missed", "green")


def print_lines(source: Source, *, raw: bool, **options: Any) -> None:
    """Print each message as a line: as JSON, or as it is."""
    view = _RawLines() if raw else _JSONLines()
    _watch(source, lambda _: nullcontext(view), **options)


def show_table(source: Source, **options: Any) -> None:
    """Show the newest messages as a table that is alive, until the end."""
    _watch(
        source,
        lambda connection: _LiveTable(connection, source.name),
        ping_interval=_PING_INTERVAL,
        max_queue=_MOST_WAITING,
        overflow="drop_oldest",
        **options,
    )


def _watch(
    source: Source,
    view_of: Callable[[WebSocketConnection], AbstractContextManager[_View]],
    *,
    send: Sequence[str],
    count: int | None,
    max_attempts: int,
    **options: Any,
) -> None:
    def on_connect(connection: WebSocketConnection) -> None:
        for text in send:
            connection.send(text)

    watcher = _Watcher()
    with source.connect(
        on_connect=on_connect,
        on_reconnect=watcher.on_reconnect,
        retry=RetryPolicy(initial_interval=1.0, max_attempts=max_attempts),
        close_timeout=_CLOSE_TIMEOUT,
        codec="raw",
        **options,
    ) as connection:
        try:
            with view_of(connection) as view:
                watcher.follow(connection.events(), view, count)
        except ConnectionLostError as exc:
            if max_attempts or exc.close_code != _NORMAL:
                raise
        except KeyboardInterrupt:
            stats = connection.stats
            raise KeyboardInterrupt(
                f"received {stats.received}, reconnects {stats.reconnects}, dropped {stats.dropped}"
            ) from None


def _text(message: str | bytes) -> str:
    """The text of a message; ``ValueError`` if it has none."""
    return message if isinstance(message, str) else message.decode()


def _begin(message: str | bytes) -> str:
    """How a message begins, in one line, for people."""
    start = message[:_MOST_CHARACTERS]
    text = start if isinstance(start, str) else start.decode(errors="replace")
    return visible(" ".join(text.split())) + ("…" if len(message) > len(start) else "")


# -- as lines --------------------------------------------------------------------------------------


class _Lines:
    """Tells of the connection on standard error."""

    def tell(self, kind: str, text: str, colour: str) -> None:
        tell(Text.assemble((kind, colour), visible(text)))


class _JSONLines(_Lines):
    """The JSON that came, as the server wrote it, but always in one line.

    In JSON, a line break stands between values, and a character that is not ASCII inside strings:
    there is no need to write it anew.
    """

    def __init__(self) -> None:
        encoding = sys.stdout.encoding.lower()
        self._escaped = _NOT_PLAIN if encoding.startswith("utf") else _NOT_ASCII

    def show(self, message: Message) -> bool:
        try:
            text = _text(message.data)
            parse_json(text)
        except ValueError:
            complain(f"a message is not JSON: {_begin(message.data)}", "warning", "yellow")
            return False
        print(self._escaped.sub(_escape, _LINE_BREAK.sub(" ", text.strip())), flush=True)
        return True


def _escape(match: "re.Match[str]") -> str:
    return json.dumps(match[0])[1:-1]


class _RawLines(_Lines):
    """Messages as they are, each with a line feed behind it; on a terminal, what that shows."""

    def __init__(self) -> None:
        self._is_for_people = sys.stdout.isatty()

    def show(self, message: Message) -> bool:
        data = message.data
        if self._is_for_people:
            text = data if isinstance(data, str) else data.decode(errors="replace")
            print(visible(text), flush=True)
        else:
            content = data.encode() if isinstance(data, str) else data
            sys.stdout.buffer.write(content + b"\n")
            sys.stdout.buffer.flush()
        return True


# -- as a table ------------------------------------------------------------------------------------


class _LiveTable:
    """The newest messages, as many as there is room for; they stay on the screen at the end."""

    def __init__(self, connection: WebSocketConnection, name: str) -> None:
        self._connection = connection
        self._name = visible(name)
        self._console = Console()
        self._rows: deque[tuple[float, Text, Text]] = deque(maxlen=_MOST_ROWS)
        # Drawn so often by a thread of its own, however fast the messages come.
        self._live = Live(
            console=self._console,
            refresh_per_second=8,
            transient=True,
            get_renderable=self._panel,
        )

    def __enter__(self) -> "_LiveTable":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        self._console.print(self._panel())

    def show(self, message: Message) -> bool:
        try:
            kind, summary = _summary(_text(message.data))
        except ValueError:
            row = (Text("not JSON", "yellow"), Text(_begin(message.data)))
            self._rows.append((message.received_at, *row))
            return False
        self._rows.append((message.received_at, Text(kind, "cyan"), Text(summary)))
        return True

    def tell(self, kind: str, text: str, colour: str) -> None:
        line = Text(visible(text.lstrip(":;, ")), colour)
        self._rows.append((time.time(), Text(kind, colour), line))

    def _panel(self) -> RenderableType:
        table = Table.grid(padding=(0, 2), expand=True)
        table.add_column(no_wrap=True, style="dim")
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=24)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        room = max(self._console.height - 3, 1)  # for the border, and the line of a prompt
        for received_at, kind, summary in tuple(self._rows)[-room:]:
            table.add_row(time.strftime("%H:%M:%S", time.localtime(received_at)), kind, summary)
        state = self._connection.state
        colour = _COLOURS.get(state, "blue")
        status = Text.assemble((state.value, colour), f" · {self._status()}")
        return Panel(table, title=status, subtitle=Text(self._name), border_style=colour)

    def _status(self) -> str:
        stats, latency = self._connection.stats, self._connection.latency
        parts = [] if latency is None else [f"{latency * 1000:.3g} ms"]
        parts.append(f"received {stats.received}")
        parts.append(f"reconnects {stats.reconnects}")
        parts.append(f"queued {stats.queued}")
        if stats.dropped:
            parts.append(f"dropped {stats.dropped}")
        return " · ".join(parts)


def _summary(text: str) -> tuple[str, str]:
    """What a message is, and what is in it, in a line; ``ValueError`` if it is not JSON."""
    value = parse_json(text)
    if not isinstance(value, dict):
        return "", _begin(text)
    kind = value.pop("type", "")
    if not isinstance(kind, str):
        value, kind = {"type": kind, **value}, ""
    if len(text) > _LARGE:
        return _begin(kind), _begin(text)
    return _begin(kind), _begin(" ".join(f"{name}={_short(value[name])}" for name in value))


def _short(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
