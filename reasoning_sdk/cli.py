"""The command line."""

import importlib.metadata
import io
import json
import logging
import os
import platform
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from reasoning_sdk._version import __version__
from reasoning_sdk.cli_output import complain, forget, visible
from reasoning_sdk.encoding import parse_json
from reasoning_sdk.errors import (
    ConfigurationError,
    InvalidEventError,
    ReasoningError,
    ResponseError,
)
from reasoning_sdk.events import LoopEvent, ResponseEvent
from reasoning_sdk.responses import ResponsesClient, ResponseStream
from reasoning_sdk.retry import RetryPolicy
from reasoning_sdk.viewer import ViewerClient

__all__ = ["app"]

DELTA = "response.output_text.delta"
DEMO_PROMPT = "Explain server-sent events in a few sentences."
DEMO_MODEL = "gpt-5-mini"
DEMO_PACE = 0.03
_MOST_WAITING = 1000
_MOST_BYTES_WAITING = 16 * 1024 * 1024
_LEAST_PATIENCE, _LONGEST_TRY = 1.0, 10.0  # seconds
_PAUSE = 0.1

FAILED, USAGE, NOT_COMPLETED, INTERRUPTED, BROKEN_PIPE = 1, 2, 3, 130, 141
EXIT_CODES = (
    "Exit codes: 0 the response is complete; 1 the service could not be asked, or the output not "
    "written; 2 wrong usage or configuration; 3 the response failed, is incomplete or was cut off; "
    "130 interrupted; 141 nobody reads the output."
)

RUN_EXIT_CODES = (
    "Exit codes: 0 the response is complete; 1 the model could not be asked, or the output not "
    "written; 2 wrong usage or configuration; 3 the response failed, is incomplete, or has reached "
    "a limit; 130 interrupted; 141 nobody reads the output."
)

PUBLISH_EXIT_CODES = (
    "Exit codes: 0 every event was delivered; 1 some were not, or lines could not be read; 2 wrong "
    "usage or configuration; 130 interrupted; 141 nobody reads the output."
)

WATCH_EXIT_CODES = (
    "Exit codes: 0 there were as many messages as --count says, or the server has closed and "
    "--max-attempts is 0; 1 it cannot be connected to, or is lost for good, or the output cannot "
    "be written; 2 wrong usage or configuration; 130 interrupted; 141 nobody reads the output."
)

app = typer.Typer(
    help="Stream responses of reasoning services; answer with a model and tools; publish events to "
    "a viewer; watch WebSockets.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # they would show the values of variables
)

Model = Annotated[str | None, typer.Option(envvar="OPENAI_MODEL", help="The model.")]
BaseURL = Annotated[
    str | None,
    typer.Option(envvar="OPENAI_BASE_URL", help="Where the API is, up to /v1.", metavar="URL"),
]
AsJSON = Annotated[bool, typer.Option("--json", help="Print each event as a line of JSON.")]


@app.command(epilog=EXIT_CODES)
def demo(base_url: BaseURL = None, model: Model = None, as_json: AsJSON = False) -> None:
    """Stream a response to look at: a recorded one, without --base-url or OPENAI_BASE_URL."""
    with _exit_codes(), _demo_client(base_url, model) as client:
        _show(client.stream(DEMO_PROMPT), as_json, pace=0 if base_url else DEMO_PACE)


@app.command(epilog=EXIT_CODES)
def stream(
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="What to ask; - reads it from standard input.")
    ],
    model: Model = None,
    base_url: BaseURL = None,
    instructions: Annotated[str | None, typer.Option(help="The system's message.")] = None,
    as_json: AsJSON = False,
) -> None:
    """Ask a server and print the answer as it arrives. The key is taken from OPENAI_API_KEY."""
    with _exit_codes():
        question = _standard_input() if text == "-" else text
        with _client(base_url, model) as client:
            _show(client.stream(question, instructions=instructions), as_json)


@app.command(epilog=RUN_EXIT_CODES)
def run(
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="What to ask; - reads it from standard input.")
    ],
    tools: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE:ATTR",
            help="What the model may call: a function, a ToolExecutor, or a list of these. MODULE "
            "is looked for in the current directory, too, and may be a file that ends in .py. May "
            "be given more than once.",
        ),
    ] = None,
    model: Model = None,
    base_url: BaseURL = None,
    api: Annotated[
        str, typer.Option(metavar="API", help="What is spoken there: chat_completions, responses.")
    ] = "chat_completions",
    instructions: Annotated[str | None, typer.Option(help="The system's message.")] = None,
    max_iterations: Annotated[
        int, typer.Option(min=1, metavar="N", help="How many actions there may be.")
    ] = 10,
    max_depth: Annotated[
        int, typer.Option(min=1, metavar="N", help="How many levels of agents, the top included.")
    ] = 8,
    max_parallel_tools: Annotated[
        int, typer.Option(min=1, metavar="N", help="How many tools may run side by side.")
    ] = 8,
    tool_timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="How long a tool call may take.")
    ] = None,
    agent_events: Annotated[bool, typer.Option(help="Tell what agents do, too.")] = True,
    as_json: AsJSON = False,
    no_stream: Annotated[
        bool, typer.Option("--no-stream", help="Ask the model for whole answers.")
    ] = False,
) -> None:
    """Answer with a model and tools. The key is taken from OPENAI_API_KEY.

    On a terminal it is a tree of steps that is alive, elsewhere lines on standard error.
    """
    # Nothing else needs these.
    from reasoning_sdk import cli_run  # noqa: PLC0415
    from reasoning_sdk.loop import LoopConfig, ResponseLoop, UpstreamTarget  # noqa: PLC0415

    with cli_run.leaving_tools_behind(), _exit_codes():
        if not model:
            raise ConfigurationError("no model: give --model, or set OPENAI_MODEL")
        with _client(base_url, model) as client:  # it knows the default, and what is wrong with it
            target = UpstreamTarget(client.base_url, os.environ.get("OPENAI_API_KEY"), api)
        config = LoopConfig(
            max_iterations=max_iterations,
            max_depth=max_depth,
            max_parallel_tools=max_parallel_tools,
            tool_timeout=tool_timeout,
            agent_events=agent_events,
        )
        found = cli_run.tools_of(tools or [])
        question = _standard_input() if text == "-" else text
        request = {"model": model, "input": question, "instructions": instructions}
        with ResponseLoop(target, tools=found, config=config) as loop:
            events = loop.stream({**request, "stream": not no_stream})
            console = Console()
            if as_json:
                cli_run.show(events, nullcontext(_JSONLines()))
            elif _is_alive(console):
                cli_run.show(events, cli_run.LiveTree(model, console))
            else:
                cli_run.show(events, nullcontext(cli_run.PlainText(model)))


@app.command(epilog=EXIT_CODES)
def replay(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A recording: one SSE field line a line.")
    ],
    as_json: AsJSON = False,
) -> None:
    """Show a recorded stream as if it came from a server."""
    with _exit_codes(), ResponsesClient(fixture=file) as client:
        _show(client.stream(None), as_json)


@app.command(epilog=PUBLISH_EXIT_CODES)
def publish(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.jsonl",
            help='Events, one a line: {"path": "/agent/completions", "body": {"id": …}}, with '
            '"/functions/executions" for the others, and "address" if it is another one. A '
            "spool's dead-letter.jsonl is such a file. - reads standard input.",
        ),
    ],
    address: Annotated[
        str | None,
        typer.Option(envvar="VIEWER_ADDRESS", help="Where the viewer is.", metavar="URL"),
    ] = None,
    signature: Annotated[
        str | None,
        typer.Option(
            envvar="VIEWER_SIGNATURE",
            help="The secret that goes along; better in the variable, as others see arguments.",
            metavar="SECRET",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=256, help="How many connections, each for other ids.")
    ] = 4,
    timeout: Annotated[
        float,
        typer.Option(
            min=0,
            help="Seconds for which an event is tried again, and without a delivery after which "
            "the rest is given up.",
        ),
    ] = 60.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the tally as a line of JSON.")
    ] = False,
) -> None:
    """Send recorded events to a viewer, those of one id in order, and print a tally."""
    with _exit_codes(), _events(file) as (lines, total):
        causes: dict[str, str] = {}
        patience = max(timeout, _LEAST_PATIENCE)
        if address == os.environ.get("VIEWER_ADDRESS"):
            address = None  # the client looks there itself, and names the variable in its errors
        if signature == os.environ.get("VIEWER_SIGNATURE"):
            signature = None
        client = ViewerClient(
            address,
            signature,
            retry=RetryPolicy(max_interval=5.0, max_elapsed_time=timeout),
            max_queue=None,
            max_queue_bytes=None,
            workers=workers,
            timeout=min(patience, _LONGEST_TRY),
            strict=True,
            on_error=lambda event, error: causes.setdefault(event.reason, str(error)),
        )
        if client.default_address is None:
            raise ConfigurationError("no address: give --address, or set VIEWER_ADDRESS")
        publication = _Publication(client, str(file), total, patience)
        try:
            if not publication.run(lines):
                causes["closed"] = f"given up, nothing arrived for {patience:g} seconds"
        except KeyboardInterrupt:
            causes["closed"] = "interrupted"
            raise
        finally:
            client.close(0)
            publication.show_tally(causes, as_json)
        if publication.failed:
            raise typer.Exit(FAILED)


@app.command(epilog=WATCH_EXIT_CODES)
def watch(
    target: Annotated[
        str,
        typer.Argument(
            metavar="URL|agent|session",
            help="A ws or wss URL; or what to watch of a Reasoning Layer, with its ID.",
        ),
    ],
    id: Annotated[str | None, typer.Argument(metavar="ID", help="The agent, or session.")] = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            envvar="REASONING_LAYER_URL", help="Where the Reasoning Layer is.", metavar="URL"
        ),
    ] = None,
    tenant_id: Annotated[
        str | None, typer.Option(envvar="REASONING_LAYER_TENANT_ID", help="The tenant.")
    ] = None,
    token_env: Annotated[
        str | None,
        typer.Option(
            metavar="VARIABLE",
            help="The variable whose value to send as the bearer token: REASONING_LAYER_TOKEN for "
            "an agent or session, none for a URL, unless you say so.",
        ),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            metavar='"NAME: VALUE"',
            help="A header of the handshake. May be given more than once. Others see arguments: "
            "for a secret, --token-env is better.",
        ),
    ] = None,
    send: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="A message to send when connected, and when connected again. May be given more "
            "than once.",
        ),
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="End after so many messages.", metavar="N")
    ] = None,
    idle_timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Connect again when there is no message for so long."),
    ] = None,
    max_attempts: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="How often to try to connect again, in a row; 0 is never."
        ),
    ] = 10,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print lines of JSON on a terminal, too.")
    ] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Print messages as they are.")] = False,
) -> None:
    """Show the messages of a WebSocket as they come, through connections that break.

    On a terminal it is a table that is alive, elsewhere lines of JSON.
    """
    with _exit_codes():
        # Nothing else needs these.
        from reasoning_sdk import cli_watch  # noqa: PLC0415
        from reasoning_sdk.reasoning_layer import ReasoningLayerClient  # noqa: PLC0415

        if as_json and raw:
            raise ConfigurationError("--json and --raw cannot go together")
        headers = cli_watch.headers_of(header or [])
        token = _token(token_env)
        if target in ("agent", "session"):
            if base_url == os.environ.get("REASONING_LAYER_URL"):
                base_url = None  # the client looks there itself, and names it in its errors
            if tenant_id == os.environ.get("REASONING_LAYER_TENANT_ID"):
                tenant_id = None
            client = ReasoningLayerClient(base_url, tenant_id, token=token)
            what = cli_watch.agent_or_session(target, id, client, headers)
        else:
            what = cli_watch.websocket(target, id, token, headers)
        options: dict[str, Any] = {
            "send": send or [],
            "count": count,
            "max_attempts": max_attempts,
            "idle_timeout": idle_timeout,
        }
        if as_json or raw or not _is_alive(Console()):
            cli_watch.print_lines(what, raw=raw, **options)
        else:
            cli_watch.show_table(what, **options)


@app.command()
def version() -> None:
    """Print the versions of this package and of what it runs on."""
    with _exit_codes():
        print(f"reasoning_sdk {__version__}")
        print(f"Python {platform.python_version()} ({platform.python_implementation()})")
        for name in ("requests", "urllib3", "websocket-client", "sseclient-py", "attrs", "backoff"):
            print(f"{name} {importlib.metadata.version(name)}")
        try:
            print(f"msgspec {importlib.metadata.version('msgspec')}")
        except importlib.metadata.PackageNotFoundError:
            print("msgspec not installed (the extra `speed`)")


@contextmanager
def _exit_codes() -> Iterator[None]:
    """Turn errors into a line on standard error and an exit code."""
    for file in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(file, io.TextIOWrapper):  # what cannot be written is no reason to stop
            file.reconfigure(errors="replace" if file is sys.stdin else "backslashreplace")
    if sys.stdout is None:  # it was closed when Python began
        complain("standard output is closed")
        raise typer.Exit(FAILED)
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        forget(sys.stdout)
        raise typer.Exit(BROKEN_PIPE) from None
    except KeyboardInterrupt as exc:
        if sys.stderr is not None:  # print would take standard output in its place
            print(": ".join(["\ninterrupted", *map(str, exc.args)]), file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    except ConfigurationError as exc:
        complain(str(exc))
        raise typer.Exit(USAGE) from exc
    except ReasoningError as exc:
        complain(str(exc))
        arrived = isinstance(exc, ResponseError) or exc.response_id is not None
        raise typer.Exit(NOT_COMPLETED if arrived else FAILED) from exc
    except OSError as exc:
        forget(sys.stdout)
        complain(f"cannot write the output: {(exc.strerror or str(exc)).lower()}")
        raise typer.Exit(FAILED) from None


def _standard_input() -> str:
    if sys.stdin is None:  # it was closed when Python began
        raise ConfigurationError("standard input is closed")
    try:
        return sys.stdin.read()
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise ConfigurationError(f"cannot read standard input: {reason}") from exc


def _client(base_url: str | None, model: str | None) -> ResponsesClient:
    # A server of one's own mostly wants no key; OpenAI's own has to get one.
    key = os.environ.get("OPENAI_API_KEY") or ("" if base_url else None)
    if base_url == os.environ.get("OPENAI_BASE_URL"):
        base_url = None  # the client looks there itself, and names the variable in its errors
    return ResponsesClient(model, base_url=base_url, api_key=key)


def _token(variable: str | None) -> str | None:
    if variable is None:
        return None
    token = os.environ.get(variable)
    if not token:
        raise ConfigurationError(f"no token: {variable} is not set")
    return token


@contextmanager
def _demo_client(base_url: str | None, model: str | None) -> Iterator[ResponsesClient]:
    if base_url:
        with _client(base_url, model or DEMO_MODEL) as client:
            yield client
    else:
        recording = files("reasoning_sdk") / "data" / "demo.sse"
        with as_file(recording) as path, ResponsesClient(fixture=path) as client:
            yield client


@contextmanager
def _events(file: Path) -> Iterator[tuple[Iterable[bytes], int | None]]:
    """The lines of a file, and how many there are where that can be known before."""
    if str(file) == "-":
        if sys.stdin is None:  # it was closed when Python began
            raise ConfigurationError("standard input is closed")
        yield _readable(sys.stdin.buffer, "standard input"), None
        return
    with ExitStack() as stack:
        try:
            lines = stack.enter_context(file.open("rb"))
            total = None
            if lines.seekable():
                total = sum(not line.isspace() for line in lines)
                lines.seek(0)
        except OSError as exc:
            raise _cannot_read(str(file), exc) from exc
        yield _readable(lines, str(file)), total


def _readable(lines: Iterable[bytes], name: str) -> Iterator[bytes]:
    try:
        yield from lines
    except OSError as exc:
        raise _cannot_read(name, exc) from exc


def _cannot_read(name: str, exc: OSError) -> ConfigurationError:
    return ConfigurationError(f"cannot read {name}: {(exc.strerror or str(exc)).lower()}")


class _Publication:
    """A file of events on its way; given up after so many seconds in which none arrives."""

    def __init__(self, client: ViewerClient, name: str, total: int | None, patience: float) -> None:
        self._patience = patience
        self._client = client
        self._name = name
        self._senders = {
            "/agent/completions": client.send_agent_completion_continue,
            "/functions/executions": client.send_function_execution_continue,
        }
        self._unreadable = 0
        self._passed_over = 0
        self._progress = Progress(
            TextColumn("sent"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=not Console(stderr=True).is_terminal,
        )
        self._task = self._progress.add_task("", total=total)

    @property
    def failed(self) -> bool:
        stats = self._client.stats
        return bool(self._unreadable or stats.delivered != stats.submitted)

    def run(self, lines: Iterable[bytes]) -> bool:
        """Send them all; whether that was not given up."""
        with self._progress, _warnings_shown():
            unseen = 0
            for number, line in enumerate(lines, 1):
                if not line.isspace():
                    self._send(number, line)
                unseen += _MOST_BYTES_WAITING // 100 + len(line)
                if unseen > _MOST_BYTES_WAITING:  # after a hundred lines, or large ones
                    unseen = 0
                    if not self._wait_until_fewer_wait_than(_MOST_WAITING):
                        return False
            return self._wait_until_fewer_wait_than(1)

    def _send(self, number: int, line: bytes) -> None:
        try:
            record = parse_json(line)
            if not isinstance(record, dict):
                raise ValueError("not an object")
            if "done" in record and "body" not in record:  # a spool's own mark
                self._passed_over += 1
                return
            path, body = record.get("path"), record.get("body")
            if path not in list(self._senders) or not isinstance(body, dict):
                raise ValueError(f"wants a body, an object, and a path: {', '.join(self._senders)}")
        except ValueError as exc:
            self._unreadable += 1
            complain(f"{self._name}, line {number}: {exc}")
            return
        recipient = {name: record.get(name) for name in ("address", "signature")}
        try:
            self._senders[path](body, **recipient)
        except InvalidEventError as exc:  # which the client counts
            complain(f"{self._name}, line {number}: {exc}")

    def _wait_until_fewer_wait_than(self, count: int) -> bool:
        """Wait; whether it has come to that, or the viewer fails for too long."""
        arrived, arrived_at = -1, 0.0
        while True:
            stats, now = self._client.stats, time.monotonic()
            waiting = stats.queued + stats.in_flight
            done = stats.submitted - waiting + self._unreadable + self._passed_over
            self._progress.update(self._task, completed=done)
            if waiting < count and stats.queued_bytes < _MOST_BYTES_WAITING:
                return True
            taken = stats.delivered + stats.dropped["rejected"]
            if taken != arrived:
                arrived, arrived_at = taken, now
            elif not stats.in_flight and now - arrived_at > self._patience:
                return False
            self._client.flush(_PAUSE)

    def show_tally(self, causes: Mapping[str, str], as_json: bool) -> None:
        stats = self._client.stats
        dropped = {
            **stats.dropped,
            **({"unreadable": self._unreadable} if self._unreadable else {}),
        }
        if as_json:
            tally = {"delivered": stats.delivered, "retries": stats.retries, "dropped": dropped}
            print(json.dumps(tally), flush=True)
            return
        print(f"delivered {stats.delivered}, tried again {stats.retries}", flush=True)
        for reason, count in dropped.items():
            cause = f": {' '.join(causes[reason].split())}" if reason in causes else ""
            print(f"{reason} {count}{visible(cause)}", flush=True)


class _Warnings(logging.Handler):
    """Shows what the client warns of."""

    def emit(self, record: logging.LogRecord) -> None:
        complain(record.getMessage(), "warning", "yellow")


@contextmanager
def _warnings_shown() -> Iterator[None]:
    log, handler = logging.getLogger("reasoning_sdk.viewer"), _Warnings(logging.WARNING)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


def _is_alive(console: Console) -> bool:
    """Whether what is on it can change."""
    return sys.stdout.isatty() and not console.is_dumb_terminal


class _View(Protocol):
    """Shows a stream's events as they come."""

    def show(self, event: ResponseEvent) -> None: ...


def _show(stream: ResponseStream, as_json: bool, pace: float = 0) -> None:
    """Show a stream: as a live view on a terminal, else as plain text."""
    console = Console()
    view: AbstractContextManager[_View]
    if _is_alive(console) and not as_json:
        view = _LiveView(stream, console)
    else:
        view, pace = nullcontext(_JSONLines() if as_json else _PlainText(stream)), 0
    pause = threading.Event()
    with stream, view as shown:
        for event in stream:
            shown.show(event)
            if event.type == DELTA:
                pause.wait(pace)


class _JSONLines:
    def __init__(self) -> None:
        encoding = sys.stdout.encoding.lower()
        self._ascii = not encoding.startswith("utf")  # JSON has a way to write the others

    def show(self, event: ResponseEvent | LoopEvent) -> None:
        try:
            line = json.dumps(event.data, ensure_ascii=self._ascii)
        except RecursionError:
            problem = "an event is nested too deeply to be written as JSON"
            raise InvalidEventError(problem) from None
        print(line, flush=True)


class _NewText:
    """Tells the text that an event brings, also of servers that send no deltas."""

    def __init__(self, stream: ResponseStream) -> None:
        self._stream = stream
        self._known = 0

    def of(self, event: ResponseEvent) -> str:
        text = ""
        if event.type == DELTA:
            text = str(event.data.get("delta") or "")
        elif event.type.endswith((".done", ".completed", ".incomplete", ".failed")):
            text = self._stream.text[self._known :]
        self._known += len(text)
        return text


class _PlainText:
    """The text as it arrives, each message and each call on lines of its own."""

    def __init__(self, stream: ResponseStream) -> None:
        self._new_text = _NewText(stream)
        self._in_line = False

    def show(self, event: ResponseEvent) -> None:
        if text := self._new_text.of(event):
            print(text, end="", flush=True)
            self._in_line = not text.endswith("\n")
        if event.type == "response.output_item.done":
            item = event.data.get("item")
            if self._in_line:
                print(flush=True)
                self._in_line = False
            if isinstance(item, dict) and (described := _describe(item)):
                print(described, flush=True)


class _LiveView:
    """A panel that grows with the response; its end stays on the screen."""

    def __init__(self, stream: ResponseStream, console: Console) -> None:
        self._stream = stream
        self._console = console
        self._began_at = time.monotonic()
        self._new_text = _NewText(stream)
        self._pieces: list[str] = []
        # Drawn so often by a thread of its own, however fast the events come.
        self._live = Live(
            console=console, refresh_per_second=12, transient=True, get_renderable=self._growing
        )

    def __enter__(self) -> "_LiveView":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        self._console.print(self._panel(self._text(self._stream.text)))

    def show(self, event: ResponseEvent) -> None:
        self._pieces.append(self._new_text.of(event))

    def _growing(self) -> RenderableType:
        """As many of the last lines as there is room for."""
        width, height = max(self._console.width - 4, 1), max(self._console.height - 6, 1)
        lines = self._text("".join(self._pieces)).wrap(self._console, width)
        return self._panel(Text("\n").join(lines[-height:]))

    def _text(self, text: str) -> Text:
        return Text(visible(text))

    def _panel(self, text: Text) -> RenderableType:
        stream = self._stream
        others = [described for item in stream.items if (described := _describe(item))]
        seconds = time.monotonic() - self._began_at
        return Panel(
            Group(*(Text(visible(other), style="dim") for other in others), text),
            title=Text(visible(stream.response_id or "waiting")),
            subtitle=Text(visible(f"{_tokens(stream.usage)}{seconds:.1f} s")),
            border_style="blue" if stream.usage is None else "green",
        )


def _describe(item: dict[str, Any]) -> str:
    """What an output item has beside text, in a line."""
    kind = item.get("type")
    if kind == "message":
        parts = item.get("content")
        parts = parts if isinstance(parts, list) else []
        refusals = [part.get("refusal") for part in parts if isinstance(part, dict)]
        return " ".join(f"refusal: {refusal}" for refusal in refusals if refusal)
    if "arguments" in item:
        return f"{kind}: {item.get('name')}({item['arguments']})"
    return f"{kind}: {item.get('id', '')}"


def _tokens(usage: dict[str, Any] | None) -> str:
    counts = usage or {}
    if counts.get("output_tokens") is None:
        return ""
    return f"{counts.get('input_tokens')} → {counts['output_tokens']} tokens · "
