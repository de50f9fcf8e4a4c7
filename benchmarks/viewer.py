"""Events published to a viewer: what they cost the sender and the machine, and what an outage does.

The servers are in a process of their own, a *site* for each run: it keeps what it is sent, and says
at the end whether that is every event, each right and those of an id in order. A run that is not
told so is an error, never a figure.

What it takes to send is measured while the server hangs: else the thread that delivers competes for
the interpreter, and it is that fight which would be measured. Peers are driven by the call of
theirs that is nearest to "publish this event", with queues large enough for all of them.
"""

import gc
import gzip
import http.client
import json
import logging
import os
import queue
import socket
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import requests
import urllib3

from benchmarks.harness import Candidate, Comparison, Result, is_installed, serving
from reasoning_sdk import ViewerClient

__all__ = ["SMALL", "Sizes", "comparisons", "server"]

Event = dict[str, Any]

_BATCH = 100  # events that the peers put into one request
_WAIT = 60.0  # seconds for what should take one or two
_PATH = "/agent/completions"
_KB = 1024
_PAGES = Path("/proc/self/statm")


@attrs.frozen(kw_only=True)
class Sizes:
    """How many events, and how long an outage takes.

    Args:
        sent: How many calls are timed.
        delivered: How many events are delivered, to see what one takes.
        queued: How many wait, to see how large one is.
        queued_by_peers: The same of peers, which are slower and larger.
        far: How many are sent to a server that takes ``latency``, by one worker; by eight, ten
            times as many.
        latency: Seconds that it takes to answer.
        outage: Seconds for which there is no answer, or a bad one.
        clients: How many clients meet the outage.
    """

    sent: int = 1000
    delivered: int = 1000
    queued: int = 100_000
    queued_by_peers: int = 10_000
    far: int = 200
    latency: float = 0.02
    outage: float = 4.0
    clients: int = 10


SMALL = Sizes(
    sent=100,
    delivered=30,
    queued=300,
    queued_by_peers=200,
    far=10,
    latency=0.005,
    outage=0.1,
    clients=2,
)


# -- the event ---------------------------------------------------------------------------------

_SIZE = 956  # bytes, as JSON without white space
_FREE = 289  # of them for the number, the id and the text
_TEXT = "The quick brown fox jumps over the lazy dog, and then it says so once more. " * 4


def event_of(number: int, id: str) -> Event:
    """A chunk of an agent completion; no deeper and broader than sentry-sdk leaves whole."""
    return {
        "id": id,
        "object": "agent.completion.chunk",
        "created": 1_760_000_000,
        "number": number,
        "agent": {"name": "researcher", "model": "gpt-5-mini", "provider": "openai"},
        "messages": [
            {
                "index": 0,
                "role": "assistant",
                "delta": {"content": _TEXT[: _FREE - len(f"{number}{id}")], "refusal": None},
                "finish_reason": None,
            },
            {
                "index": 1,
                "role": "tool",
                "call": {"id": "call_7Qx2Lw9rT4", "name": "search", "arguments": '{"q":"fox"}'},
                "finish_reason": "tool_calls",
            },
        ],
        "usage": {
            "prompt_tokens": 1234,
            "completion_tokens": 567,
            "total_tokens": 1801,
            "prompt_tokens_details": {"cached_tokens": 1024, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 256, "audio_tokens": 0},
            "cost": 0.0123,
        },
        "timing": {"queued": 0.012, "first_token": 0.318, "elapsed": 1.4142},
    }


assert len(json.dumps(event_of(1234, "completion"), separators=(",", ":"))) == _SIZE


def events_of(count: int, ids: int, first: int = 0) -> Iterator[Event]:
    """Events of so many completions in turn."""
    for number in range(first, first + count):
        yield event_of(number, f"completion-{number % ids:06d}")


# -- the server --------------------------------------------------------------------------------


def server() -> AbstractContextManager[int]:
    """A process that makes sites; gives the port to ask it for one."""
    return serving(_command)


def _command(accepted: socket.socket) -> None:
    """Make one site, and do with it what a run asks for, until the run hangs up."""
    with accepted, accepted.makefile("rwb") as lines:
        site = _Site(**json.loads(lines.readline()))
        answer: Any = site.port
        while True:
            lines.write(json.dumps(answer).encode() + b"\n")
            lines.flush()
            asked = lines.readline().strip().decode()
            if not asked:
                break
            answer = {"came": site.wait, "release": site.release, "report": site.report}[asked]()
        site.close()


class _Site:
    """A server that answers, or hangs until it is released, or is out of order for a while.

    Args:
        mode: ``answer``, ``hang``, ``refuse`` (nobody listens) or ``503``.
        seconds: How long the latter two last.
        latency: Seconds that each answer takes.
    """

    _ANSWER = (
        b"HTTP/1.1 200 OK\r\nDate: Sat, 01 Nov 2025 12:00:00 GMT\r\nServer: site\r\n"
        b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    )
    _BAD = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"

    def __init__(self, mode: str, seconds: float, latency: float) -> None:
        self._mode = mode
        self._latency = latency
        self._ends_at = time.monotonic() + seconds
        self._posts: list[tuple[str, str, bytes]] = []
        self._connections: list[socket.socket] = []
        self._bad = 0
        self._came = threading.Event()
        self._released = threading.Event()
        self._closed = False
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))  # which refuses, until it listens
        self.port: int = self._listener.getsockname()[1]
        if mode != "refuse":
            self._listener.listen(64)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            if self._mode == "refuse":
                time.sleep(self._ends_at - time.monotonic())
                self._listener.listen(64)
            while True:
                accepted, _ = self._listener.accept()
                self._connections.append(accepted)
                threading.Thread(target=self._answer_all, args=(accepted,), daemon=True).start()
        except OSError:
            if not self._closed:
                raise

    def _answer_all(self, accepted: socket.socket) -> None:
        try:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with accepted.makefile("rb") as lines:
                while (post := _read_post(lines)) is not None:
                    accepted.sendall(self._answer_to(post))
        except OSError:  # the run is over
            if not self._closed:
                raise

    def _answer_to(self, post: tuple[str, str, bytes]) -> bytes:
        if self._mode == "503" and time.monotonic() < self._ends_at:
            self._bad += 1
            return self._BAD
        self._posts.append(post)
        self._came.set()
        if self._mode == "hang":
            self._released.wait()
        if self._latency:
            time.sleep(self._latency)
        return self._ANSWER

    def wait(self) -> bool:
        """Wait for the first request."""
        return self._came.wait(_WAIT)

    def release(self) -> None:
        """Hang no more."""
        self._released.set()

    def report(self) -> dict[str, Any]:
        """How many events were right and what to say of all; bad answers; connections."""
        right, verdict = _judge(self._posts)
        connections = len(self._connections)
        return {"right": right, "verdict": verdict, "bad": self._bad, "connections": connections}

    def close(self) -> None:
        """Listen no more, and hang up."""
        self._closed = True
        self.release()
        self._listener.close()
        for connection in self._connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # they were faster
                pass
            connection.close()


def _read_post(lines: Any) -> tuple[str, str, bytes] | None:
    """The path, the encoding and the body of a request; ``None`` at the end."""
    path, length, encoding = "", 0, ""
    while (line := lines.readline()) not in (b"\r\n", b""):
        if not path:
            path = line.split()[1].decode()
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
        elif name.lower() == b"content-encoding":
            encoding = value.strip().decode()
    return (path, encoding, lines.read(length)) if path else None


def _judge(posts: Sequence[tuple[str, str, bytes]]) -> tuple[int, str]:
    """How many events have come, and whether each is right, and once, and after its own."""
    seen: set[int] = set()
    last_of: dict[str, int] = {}
    for path, encoding, body in posts:
        for event in _events_in(path, encoding, body):
            number, id = event["number"], event["id"]
            if event != event_of(number, id):
                return len(seen), f"wrong: {event}"
            if number in seen:
                return len(seen), f"twice: {number}"
            if number < last_of.get(id, -1):
                return len(seen), f"{number} after {last_of[id]}"
            seen.add(number)
            last_of[id] = number
    return len(seen), "in order"


def _events_in(path: str, encoding: str, body: bytes) -> list[Event]:
    """The events in a request, in the format of whoever has sent it."""
    if encoding == "gzip":
        body = gzip.decompress(body)
    elif encoding == "br":
        import brotli  # noqa: PLC0415  # then sentry-sdk has it, too

        body = brotli.decompress(body)
    elif encoding:
        raise ValueError(f"{path}: cannot decode {encoding}")
    if path == _PATH:
        return [json.loads(body)]
    if path in ("/v1/batch", "/batch/"):  # segment, posthog
        return [_ours_of(entry["properties"]) for entry in json.loads(body)["batch"]]
    if path.endswith("/envelope/"):  # sentry-sdk
        entries = body.split(b"\n")[1:]
        pairs = zip(entries[::2], entries[1::2], strict=False)
        found = [json.loads(entry) for head, entry in pairs if json.loads(head)["type"] == "event"]
        return [_ours_of(entry.get("extra", entry)) for entry in found]
    if path.endswith("/otel/v1/traces"):  # langfuse
        return _events_in_spans(body)
    raise ValueError(f"nobody should have asked for {path}")


def _ours_of(members: Mapping[str, Any]) -> Event:
    """An event without what was added to it."""
    return {name: members.get(name) for name in event_of(0, "")}


def _events_in_spans(body: bytes) -> list[Event]:
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2  # noqa: PLC0415

    request = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
    spans = [
        span
        for resource_spans in request.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    ]
    return [
        json.loads(attribute.value.string_value)
        for span in spans
        for attribute in span.attributes
        if attribute.key == "langfuse.observation.input"
    ]


class Site:
    """A site, as seen from a run.

    Args:
        control: The port to ask for it.
        mode: What it does; see :class:`_Site`.
        seconds: The same.
        latency: The same.
    """

    def __init__(
        self, control: int, mode: str, *, seconds: float = 0.0, latency: float = 0.0
    ) -> None:
        self._socket = socket.create_connection(("127.0.0.1", control))
        self._lines = self._socket.makefile("rwb")
        wanted = {"mode": mode, "seconds": seconds, "latency": latency}
        self.port: int = self._ask(json.dumps(wanted))

    def __enter__(self) -> "Site":
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()

    def _ask(self, what: str) -> Any:
        self._lines.write(what.encode() + b"\n")
        self._lines.flush()
        return json.loads(self._lines.readline())

    def wait(self) -> None:
        """Wait until it has a request.

        Raises:
            RuntimeError: None comes.
        """
        if not self._ask("came"):
            raise RuntimeError("no request has come")

    def release(self) -> None:
        """Have it hang no more."""
        self._ask("release")

    def report(self) -> dict[str, Any]:
        """What has come: see :meth:`_Site.report`."""
        return self._ask("report")

    def result(self, seconds: float | Mapping[str, float]) -> Result:
        """The result of a run in which all events have come."""
        report = self.report()
        return Result(report["right"], report["verdict"], seconds)


# -- whoever sends in the background -----------------------------------------------------------


@attrs.frozen(kw_only=True)
class Sender:
    """A client that has a queue.

    Args:
        send: Publishes an event.
        finish: Delivers what is left, and stops.
        left: How many events are not delivered yet.
    """

    send: Callable[[Event], object]
    finish: Callable[[], object]
    left: Callable[[], int]


def ours(port: int, **options: Any) -> Sender:
    """This library."""
    client = ViewerClient(f"http://127.0.0.1:{port}", "", timeout=_WAIT, **options)

    def left() -> int:
        stats = client.stats
        return stats.queued + stats.in_flight

    send = client.send_agent_completion_continue
    return Sender(send=send, finish=partial(client.close, _WAIT), left=left)


def segment(port: int) -> Sender:
    """segment-analytics-python."""
    from segment.analytics.client import Client  # noqa: PLC0415  # most processes do without

    client = Client("key", host=f"http://127.0.0.1:{port}", max_queue_size=1_000_000, timeout=_WAIT)
    track = client.track

    def send(event: Event) -> None:
        track(event["id"], "chunk", event)

    return Sender(send=send, finish=client.shutdown, left=lambda: client.queue.unfinished_tasks)


def posthog(port: int) -> Sender:
    """PostHog."""
    from posthog import Posthog  # noqa: PLC0415

    url = f"http://127.0.0.1:{port}"
    client = Posthog("key", host=url, max_queue_size=1_000_000, flush_at=_BATCH, timeout=_WAIT)
    capture = client.capture

    def send(event: Event) -> None:
        capture("chunk", distinct_id=event["id"], properties=event)

    return Sender(send=send, finish=client.shutdown, left=lambda: client.queue.unfinished_tasks)


def langfuse(port: int) -> Sender:
    """langfuse, whose events are spans of OpenTelemetry."""
    os.environ["OTEL_BSP_MAX_QUEUE_SIZE"] = "1000000"
    from langfuse import Langfuse  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415

    provider = TracerProvider()
    client = Langfuse(
        public_key=str(uuid.uuid4()),  # else it is the client that the last run has stopped
        secret_key="secret",  # noqa: S106
        base_url=f"http://127.0.0.1:{port}",
        timeout=int(_WAIT),
        flush_at=_BATCH,
        tracer_provider=provider,
    )
    create_event = client.create_event

    def send(event: Event) -> None:
        create_event(name="chunk", input=event)

    def finish() -> None:
        client.shutdown()
        provider.shutdown()

    def left() -> int:
        [processor] = provider._active_span_processor._span_processors
        return len(processor._batch_processor._queue) + _BATCH  # which it has taken out to send

    return Sender(send=send, finish=finish, left=left)


def sentry_event(port: int) -> Sender:
    """sentry-sdk, by the call that everybody uses."""
    import sentry_sdk  # noqa: PLC0415

    client = _sentry_client(port)
    sentry_sdk.get_global_scope().set_client(client)
    capture = sentry_sdk.capture_event

    def send(event: Event) -> None:
        capture({"message": "chunk", "extra": event})

    return _sentry_sender(client, send)


def sentry_envelope(port: int) -> Sender:
    """sentry-sdk, by its transport. As it writes nothing down at once, we do."""
    from sentry_sdk.envelope import Envelope, Item  # noqa: PLC0415

    client = _sentry_client(port)
    capture, dumps = client.transport.capture_envelope, json.dumps

    def send(event: Event) -> None:
        capture(Envelope(items=[Item(dumps(event).encode(), type="event")]))

    return _sentry_sender(client, send)


def sentry_reference(port: int) -> Sender:
    """The same, but what is changed before it is sent, is sent changed."""
    from sentry_sdk.envelope import Envelope, Item, PayloadRef  # noqa: PLC0415

    client = _sentry_client(port)
    capture = client.transport.capture_envelope

    def send(event: Event) -> None:
        capture(Envelope(items=[Item(PayloadRef(json=event), type="event")]))

    return _sentry_sender(client, send)


def _sentry_client(port: int) -> Any:
    import sentry_sdk  # noqa: PLC0415

    return sentry_sdk.Client(
        dsn=f"http://key@127.0.0.1:{port}/1",
        transport_queue_size=1_000_000,
        default_integrations=False,
        auto_enabling_integrations=False,
        auto_session_tracking=False,
        send_client_reports=False,
    )


def _sentry_sender(client: Any, send: Callable[[Event], object]) -> Sender:
    waiting = client.transport._worker._queue
    return Sender(
        send=send, finish=partial(client.close, _WAIT), left=lambda: waiting.unfinished_tasks
    )


Opened = Callable[[int], Sender]

_BY_REFERENCE = "sentry-sdk, `capture_envelope` by reference"
_PEERS: dict[str, tuple[str, Opened]] = {
    "segment-analytics-python": ("segment-analytics-python", segment),
    "posthog": ("posthog", posthog),
    "langfuse": ("langfuse", langfuse),
    "sentry-sdk, `capture_event`": ("sentry-sdk", sentry_event),
    "`json.dumps` + sentry-sdk, `capture_envelope`": ("sentry-sdk", sentry_envelope),
    _BY_REFERENCE: ("sentry-sdk", sentry_reference),
}


# -- the time of a call ------------------------------------------------------------------------


def time_sends(control: int, mode: str, opened: Opened, events: Sequence[Event]) -> Result:
    """The time of one call, while the server hangs or while it answers."""
    with Site(control, mode) as site:
        sender = opened(site.port)
        for event in events[:_BATCH]:  # threads start, connections are made
            sender.send(event)
        site.wait()
        figures = _percentiles(timed(sender.send, events[_BATCH:]))
        site.release()
        sender.finish()
        return site.result(figures)


def time_floor(events: Sequence[Event]) -> Result:
    """The least: ``json.dumps``, and a queue that takes the text."""
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    put, dumps = waiting.put, json.dumps

    def send(event: Event) -> None:
        put(dumps(event))

    for event in events[:_BATCH]:
        send(event)
    figures = _percentiles(timed(send, events[_BATCH:]))
    texts = [waiting.get() for _ in range(waiting.qsize())]
    right = [json.loads(text) for text in texts] == list(events)
    return Result(len(texts), "in order" if right else "wrong", figures)


def time_dumps(events: Sequence[Event]) -> Result:
    """``json.dumps`` alone."""
    dumps = json.dumps
    figures = _percentiles(timed(dumps, events))
    texts = [dumps(event) for event in events]
    right = [json.loads(text) for text in texts] == list(events)
    return Result(len(texts), "in order" if right else "wrong", figures)


def time_spool(control: int, count: int) -> Result:
    """What the spool adds to a call: two clients in turns, one of which has a spool."""
    half, turn = count + _BATCH, 50
    with (
        tempfile.TemporaryDirectory() as directory,
        Site(control, "hang") as plain,
        Site(control, "hang") as kept,
    ):
        plainly, keeping = ours(plain.port), ours(kept.port, spool=directory)
        events = _listed(half, 10)
        took: tuple[list[float], list[float]] = [], []
        for event in events[:_BATCH]:
            plainly.send(event)
            keeping.send(event)
        plain.wait()
        kept.wait()
        for start in range(_BATCH, half, turn):
            part = events[start : start + turn]
            took[0].extend(timed(plainly.send, part))
            took[1].extend(timed(keeping.send, part))
        for site, sender in ((plain, plainly), (kept, keeping)):
            site.release()
            sender.finish()
        if left := [name for name in os.listdir(directory) if name.endswith(".jsonl")]:
            raise RuntimeError(f"events are left in the spool: {left}")
        if plain.report() != kept.report():
            raise RuntimeError(f"without the spool: {plain.report()}, with it: {kept.report()}")
        return kept.result({"p50": statistics.median(took[1]) - statistics.median(took[0])})


def timed(send: Callable[[Event], object], events: Sequence[Event]) -> list[float]:
    """The seconds that each call takes, without what it takes to look at the clock."""
    now = time.perf_counter_ns
    took = []
    for event in events:
        start = now()
        send(event)
        took.append(now() - start)
    nothing = []
    for _ in events:
        start = now()
        nothing.append(now() - start)
    idle = statistics.median(nothing)
    return [max(ns - idle, 0) / 1e9 for ns in took]


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {"p50": ordered[len(ordered) // 2], "p99": ordered[len(ordered) * 99 // 100]}


# -- what an event costs from end to end -------------------------------------------------------


def deliver(control: int, events: Sequence[Event]) -> Result:
    """The CPU time for events delivered by this library, one POST each."""
    with (
        Site(control, "answer") as site,
        ViewerClient(f"http://127.0.0.1:{site.port}", "") as client,
    ):
        send = client.send_agent_completion_continue
        send(events[0])
        client.flush()
        start = time.process_time()
        for event in events[1:]:
            send(event)
        client.flush(_WAIT)
        seconds = time.process_time() - start
        return site.result(seconds)


def post_all(control: int, make: Callable[[int], Any], events: Sequence[Event]) -> Result:
    """The same by a plain loop."""
    with Site(control, "answer") as site, make(site.port) as post:
        post(events[0])
        start = time.process_time()
        for event in events[1:]:
            if post(event) != 200:
                raise RuntimeError("an answer is bad")
        seconds = time.process_time() - start
        return site.result(seconds)


_JSON = {"Content-Type": "application/json"}


@contextmanager
def with_requests(port: int) -> Iterator[Callable[[Event], int]]:
    """A session of requests."""
    url = f"http://127.0.0.1:{port}{_PATH}"
    with requests.Session() as session:
        yield lambda event: session.post(url, json=event).status_code


@contextmanager
def with_urllib3(port: int) -> Iterator[Callable[[Event], int]]:
    """A pool of urllib3."""
    with urllib3.HTTPConnectionPool("127.0.0.1", port) as pool:
        yield (
            lambda event: pool.urlopen("POST", _PATH, body=json.dumps(event), headers=_JSON).status
        )


@contextmanager
def with_http_client(port: int) -> Iterator[Callable[[Event], int]]:
    """http.client."""
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def post(event: Event) -> int:
        connection.request("POST", _PATH, body=json.dumps(event), headers=_JSON)
        with connection.getresponse() as response:
            response.read()
            return response.status

    yield post
    connection.close()


@contextmanager
def with_socket(port: int) -> Iterator[Callable[[Event], int]]:
    """A floor: a socket, and nothing but its calls."""
    head = b"POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
    head = head % (_PATH.encode(), port) + b"Content-Length: %d\r\n\r\n%s"

    def post(event: Event) -> int:
        body = json.dumps(event).encode()
        sock.sendall(head % (len(body), body))
        answer = sock.recv(65536)
        while not answer.endswith(b"\r\n\r\n{}"):
            answer += sock.recv(65536)
        return int(answer[9:12])

    with socket.create_connection(("127.0.0.1", port)) as sock:
        yield post


# -- memory, latency, outages ------------------------------------------------------------------


def memory(control: int, opened: Opened, count: int, ids: int) -> Result:
    """What the process grows by for each event that waits, in KB. It is not delivered."""
    with Site(control, "hang") as site:
        sender = opened(site.port)
        for event in events_of(_BATCH, 1):
            sender.send(event)
        site.wait()
        gc.collect()
        before = resident()
        for event in events_of(count, ids):
            sender.send(event)
        grown = resident() - before
        return Result(sender.left() - _BATCH, "in memory", grown / count / _KB)


def resident() -> int:
    """Bytes of the process that are in memory."""
    return int(_PAGES.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def deliver_far(control: int, workers: int, count: int, latency: float) -> Result:
    """The time for events to a server that takes a while to answer."""
    with Site(control, "answer", latency=latency) as site:
        sender = ours(site.port, workers=workers)
        events = list(events_of(count, max(count // 10, 1)))
        start = time.monotonic()
        for event in events:
            sender.send(event)
        sender.finish()
        return site.result(time.monotonic() - start)


def outage(control: int, mode: str, seconds: float, clients: int) -> Result:
    """The most requests that a client has made in vain. Wants a process of its own.

    Each client has a site. What it says of itself is held against what others have seen: the
    server in one case, Python's audit of calls in the other, where the server sees nothing.
    """
    logging.getLogger("reasoning_sdk").addHandler(logging.NullHandler())
    connects: list[int] = []
    sys.addaudithook(
        lambda name, args: connects.append(args[1][1]) if name == "socket.connect" else None
    )
    sites = [Site(control, mode, seconds=seconds) for _ in range(clients)]
    viewers = [ViewerClient(f"http://127.0.0.1:{site.port}", "") for site in sites]
    for event in events_of(_OUTAGE_EVENTS, 10):
        for viewer in viewers:
            viewer.send_agent_completion_continue(event)
    total, verdicts, most = 0, set(), 0
    for site, viewer in zip(sites, viewers, strict=True):
        viewer.flush(_WAIT)
        report, in_vain = site.report(), viewer.stats.retries  # as each was tried once with success
        seen = report["bad"] or connects.count(site.port) - report["connections"]
        if in_vain != seen:
            raise RuntimeError(f"{in_vain} requests are said to be in vain, and {seen} were")
        total += report["right"]
        verdicts.add(report["verdict"])
        most = max(most, in_vain)
    return Result(total, " and ".join(sorted(verdicts)), most)


_OUTAGE_EVENTS = 50


# -- comparisons -------------------------------------------------------------------------------


def comparisons(sizes: Sizes, control: int) -> list[Comparison]:
    """All figures of this file."""
    found = [*_calls(sizes, control), _spool(sizes, control), *_delivery(sizes, control)]
    if _PAGES.exists():
        found += _memory(sizes, control)
    return [*found, _far(sizes, control), *_outages(sizes, control)]


_FEW = 3  # rounds, of what has no bound, is long, or hardly differs


def _listed(count: int, ids: int) -> list[Event]:
    return list(events_of(count, ids))


def _calls(sizes: Sizes, control: int) -> list[Comparison]:
    """The time of a call."""
    count = sizes.sent + _BATCH
    of = partial(Candidate, given=partial(_listed, count, 10), count=count, last="in order")
    floor = of(name="`json.dumps` + `SimpleQueue.put`", run=time_floor)
    peers = {name: opened for name, (package, opened) in _PEERS.items() if is_installed(package)}

    def by(mode: str, name: str, opened: Opened) -> Candidate:
        return of(name=name, run=partial(time_sends, control, mode, opened))

    hanging = by("hang", "ours, viewer", ours)
    answered = by("answer", "itself, when the server answers", ours)
    others = [floor, *[by("hang", name, opened) for name, opened in peers.items()]]
    fighting = [floor, *[by("answer", name, opened) for name, opened in peers.items()]]
    judges = [name for name in peers if name != _BY_REFERENCE]
    hangs, answers = "`send_*`, the server hangs", "`send_*`, while delivering"

    def comparison(
        what: str, figure: str, mine: Candidate, others: Sequence[Candidate], **options: Any
    ) -> Comparison:
        what = f"{what}, {figure}"
        return Comparison(what=what, figure=figure, ours=mine, others=others, **options)

    return [
        comparison(hangs, "p50", hanging, others, at_most=1.3, judge=[floor.name]),
        comparison(hangs, "p99", hanging, others, at_most=1.0, judge=judges),
        comparison(hangs, "p50", hanging, [answered], at_most=1.2, judge=[answered.name]),
        comparison(answers, "p50", answered, fighting, rounds=_FEW),
        comparison(answers, "p99", answered, fighting, rounds=_FEW),
    ]


def _spool(sizes: Sizes, control: int) -> Comparison:
    """What a spool adds to a call."""
    count = sizes.sent
    dumps = Candidate(
        name="`json.dumps`",
        run=time_dumps,
        given=partial(_listed, count, 10),
        count=count,
        last="in order",
    )
    return Comparison(
        what="a spool adds to `send_*`, p50",
        ours=Candidate(
            name="ours, viewer",
            run=partial(time_spool, control),
            given=partial(int, count),
            count=count + _BATCH,
            last="in order",
        ),
        others=[dumps],
        figure="p50",
        at_most=0.8,
        judge=[dumps.name],
    )


def _delivery(sizes: Sizes, control: int) -> list[Comparison]:
    """CPU time per event."""
    count = sizes.delivered
    of = partial(
        Candidate,
        given=partial(_listed, count + 1, 1),
        count=count + 1,
        last="in order",
        per=count,
    )
    mine = of(name="ours, viewer", run=partial(deliver, control))
    session, pool, client, sock = (
        of(name=name, run=partial(post_all, control, make))
        for name, make in (
            ("`requests.Session`", with_requests),
            ("urllib3 pool", with_urllib3),
            ("http.client", with_http_client),
            ("raw socket", with_socket),
        )
    )
    what = "one event delivered, CPU"
    bounds = ((session, 0.36, [session]), (pool, 1.15, [pool, client, sock]))
    return [
        Comparison(what=what, ours=mine, others=others, at_most=limit, judge=[judge.name])
        for judge, limit, others in bounds
    ]


def _memory(sizes: Sizes, control: int) -> list[Comparison]:
    """Memory per event."""
    unbounded = partial(ours, max_queue=None, max_queue_bytes=None)

    def of(name: str, opened: Opened, count: int, ids: int) -> Candidate:
        return Candidate(
            name=name,
            run=partial(memory, opened=opened, count=count, ids=ids),
            given=partial(int, control),
            count=count,
            last="in memory",
            fresh=True,
        )

    count, fewer = sizes.queued, sizes.queued_by_peers
    peers = [
        of(name, opened, fewer, 100)
        for name, (package, opened) in _PEERS.items()
        if is_installed(package)
    ]
    what = f"memory of a waiting event of {_SIZE} bytes"
    mine = of("ours", unbounded, count, 100)
    about = partial(Comparison, unit=(1, "KB"), rounds=2)
    return [
        about(what=f"{what}, 100 ids", ours=mine, at_most=1.2),
        about(what=f"{what}, one id", ours=of("ours", unbounded, count, 1)),
        about(what=f"{what}, an id each", ours=of("ours", unbounded, count, count)),
        about(what=f"{what}, 100 ids", ours=mine, others=peers),
    ]


def _far(sizes: Sizes, control: int) -> Comparison:
    """What workers gain."""

    def of(name: str, workers: int, count: int) -> Candidate:
        run = partial(deliver_far, control, workers, count)
        given = partial(float, sizes.latency)
        return Candidate(name=name, run=run, given=given, count=count, last="in order", per=count)

    one = of("itself, 1 worker", 1, sizes.far)
    return Comparison(
        what=f"an event, 8 workers, latency {sizes.latency * 1e3:g} ms",
        ours=of("8 workers", 8, 10 * sizes.far),
        others=[one],
        at_least=7,
        judge=[one.name],
        unit=(1e3, "ms"),
        rounds=2,
    )


def _outages(sizes: Sizes, control: int) -> list[Comparison]:
    """Requests in vain."""
    return [
        Comparison(
            what=f"outage of {sizes.outage:g} s ({mode}), {_OUTAGE_EVENTS} events of 10 ids",
            ours=Candidate(
                name="ours",
                run=partial(outage, control, mode, sizes.outage),
                given=partial(int, sizes.clients),
                count=_OUTAGE_EVENTS * sizes.clients,
                last="in order",
                fresh=True,
            ),
            at_most=12,
            unit=(1, "requests"),
            rounds=1,
        )
        for mode in ("refuse", "503")
    ]
