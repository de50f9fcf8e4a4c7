"""The types of the public names, checked by mypy (strict) and never run.

A value is bound to a name of the type that it has to have, and to ``Any`` nowhere.
"""

import datetime
import ssl
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import requests
import sseclient

from reasoning_sdk import (
    AgentEvent,
    AgentSchema,
    AgentTools,
    APIStatusError,
    AppendSteps,
    AttentionShiftEvent,
    AuthenticationError,
    BadRequestError,
    CallbackSink,
    Cancellation,
    ChainStep,
    Codec,
    CombinedTools,
    Complete,
    ConcurrencyError,
    ConfigurationError,
    ConflictError,
    Connected,
    ConnectedEvent,
    ConnectError,
    ConnectionLostError,
    ConnectionState,
    ConnectTimeoutError,
    Context,
    CycleCompleteEvent,
    Disconnected,
    EmptyActionError,
    ErrorEvent,
    EventSink,
    EventSinkError,
    EventSource,
    EventStream,
    Fail,
    ForbiddenCloseError,
    FunctionTools,
    GoalCompletedEvent,
    HeartbeatEvent,
    HitlRequestEvent,
    HTTPTools,
    IdleTimeoutError,
    ImpasseDetectedEvent,
    InvalidEventError,
    KbChangeEvent,
    LeaseLostError,
    LoopCanceledError,
    LoopConfig,
    LoopError,
    LoopEvent,
    LoopEventKind,
    LoopFailedError,
    LoopStats,
    LoopStream,
    LostEvent,
    MaxDepthError,
    MaxIterationsError,
    MemoryStore,
    Message,
    MultiStepStore,
    NextAction,
    NotFoundError,
    NoTools,
    PermissionDeniedError,
    ProtocolError,
    QueueSink,
    RateLimitError,
    ReasoningError,
    ReasoningLayerClient,
    RecordedStep,
    RecordingSink,
    RecordNotFoundError,
    RequestContext,
    RequestTimeoutError,
    Response,
    ResponseError,
    ResponseEvent,
    ResponseFailedError,
    ResponseIncompleteError,
    ResponseLoop,
    ResponsesClient,
    ResponseStore,
    ResponseStream,
    RetryPolicy,
    SerializationError,
    ServerError,
    ServerSentEvent,
    SSEDecoder,
    SSESink,
    StateError,
    StepDescriptor,
    StepKind,
    StepState,
    StorageError,
    StoreError,
    StreamInterruptedError,
    TeeSink,
    ToolArgumentsError,
    ToolError,
    ToolExecutionError,
    ToolExecutor,
    ToolKind,
    ToolNotFoundError,
    ToolSchema,
    ToolTimeoutError,
    TransportError,
    UnauthenticatedCloseError,
    UnknownEvent,
    UnprocessableEntityError,
    UpstreamTarget,
    ViewerClient,
    ViewerRun,
    ViewerSink,
    ViewerStats,
    WebSocketConnection,
    WebSocketStats,
    __version__,
    iter_events,
    run_response_loop,
    sse_client,
)

version: str = __version__

# -- the Responses API -------------------------------------------------------------------------

client: ResponsesClient = ResponsesClient()
client = ResponsesClient("gpt-5")
client = ResponsesClient(
    "gpt-5",
    base_url="https://api.example/v1",
    api_key="",
    timeout=600,
    connect_timeout=None,
    idle_timeout=None,
    retry=RetryPolicy(max_attempts=2),
    headers={"x-team": "a"},
    session=requests.Session(),
    fixture=Path("recorded.txt"),
)


def fresh_key() -> str:
    return ""


client = ResponsesClient(api_key=fresh_key, fixture="recorded.txt")
model: str | None = client.model
base_url: str = client.base_url

with ResponsesClient("gpt-5") as entered_client:
    same_client: ResponsesClient = entered_client

response: Response = client.create("Why?")
response = client.create([{"role": "user", "content": "Why?"}], tools=[{"type": "web_search"}])
response = client.create(None, previous_response_id="resp_1", temperature=0.5, metadata={"k": "v"})
response = client.retrieve("resp_1")
response = client.cancel("resp_1")
client.delete("resp_1")
client.close()

for input_item in client.input_items("resp_1"):
    input_json: dict[str, Any] = input_item

stream: ResponseStream = client.resume("resp_1")
stream = client.resume("resp_1", starting_after=41)
stream = client.stream(
    "Why?",
    model="gpt-5",
    instructions="Be brief.",
    tools=({"type": "function", "name": "f"},),
    previous_response_id="resp_1",
    extra_headers={"x-trace": "1"},
    request_timeout=5,
    background=True,
)

with client.stream("Why?") as entered_stream:
    same_stream: ResponseStream = entered_stream
    for stream_event in entered_stream:
        event: ResponseEvent = stream_event
        event_type: str = event.type
        event_data: dict[str, Any] = event.data
        number: int | None = event.sequence_number

next_event: ResponseEvent = next(stream)
events: Iterator[ResponseEvent] = iter(stream)
deltas: Iterator[str] = stream.text_deltas()
items: Iterator[dict[str, Any]] = stream.output_items()
response = stream.until_done()
stream.close()
stream_id: str | None = stream.response_id
request_id: str | None = stream.request_id
stream_text: str = stream.text
stream_items: list[dict[str, Any]] = stream.items
stream_usage: dict[str, Any] | None = stream.usage
stream_headers: Mapping[str, str] = stream.headers

response = Response({"id": "resp_1"})
response_id: str = response.id
status: str = response.status
response_model: str = response.model
output: list[dict[str, Any]] = response.output
output_text: str = response.output_text
usage: dict[str, Any] | None = response.usage
response_error: dict[str, Any] | None = response.error
details: dict[str, Any] | None = response.incomplete_details
whole: dict[str, Any] = response.data

# -- server-sent events ------------------------------------------------------------------------

with EventSource("https://api.example/events") as entered_source:
    same_source: EventSource = entered_source
    for source_event in entered_source:
        sse: ServerSentEvent = source_event


def fresh_headers() -> dict[str, str]:
    return {}


def on_reconnect(attempt: int) -> None: ...


source = EventSource(
    "https://api.example/events",
    method="POST",
    json={"at": [1, None]},
    headers=fresh_headers,
    session=requests.Session(),
    retry=RetryPolicy(),
    last_event_id="7",
    idle_timeout=30,
    timeout=10,
    on_reconnect=on_reconnect,
)
source = EventSource("https://api.example/events", headers={"x": "y"}, idle_timeout=None)
next_sse: ServerSentEvent = next(source)
source_events: Iterator[ServerSentEvent] = source.events()
last_event_id: str = source.last_event_id
source.close()

sse = ServerSentEvent(event="tick", data="{}", id="1", retry=250)
sse_event: str = sse.event
sse_data: str = sse.data
sse_id: str = sse.id
sse_retry: int | None = sse.retry
event = ResponseEvent(type="error", data={}, sequence_number=None)

decoder = SSEDecoder(max_event_size=1024, last_event_id="7")
fed: list[ServerSentEvent] = decoder.feed(b"data: x\n\n")
decoder_id: str = decoder.last_event_id
decoder_retry: int | None = decoder.retry
chunks: Iterable[bytes] = requests.get("https://api.example/events", timeout=1).iter_content()
decoded: Iterator[ServerSentEvent] = iter_events(chunks, max_event_size=1024)
decoded = iter_events([b"data: x\n\n"])
their_client: sseclient.SSEClient = sse_client(requests.Response())

# -- the viewer --------------------------------------------------------------------------------


def on_error(event: LostEvent, error: Exception) -> None:
    texts: list[str] = [event.reason, event.url, event.id]
    lost_body: bytes = event.body
    print(texts, lost_body)


viewer: ViewerClient = ViewerClient()
viewer = ViewerClient("https://viewer.example", "")
viewer = ViewerClient(
    address="https://viewer.example",
    signature=None,
    retry=RetryPolicy(max_elapsed_time=60),
    max_queue=None,
    max_queue_bytes=None,
    overflow="drop_oldest",
    workers=8,
    timeout=None,
    spool=Path("spool"),
    on_error=on_error,
    strict=True,
    exit_timeout=0,
    session_factory=requests.Session,
)
viewer = ViewerClient(spool="spool", on_error=print, timeout=5, max_queue=10, max_queue_bytes=1000)
default_address: str | None = viewer.default_address
default_signature: str | None = viewer.default_signature
with viewer as entered_viewer:
    same_viewer: ViewerClient = entered_viewer

sent: bool = viewer.send_agent_completion_begin("run-1", {"model": "gpt-5"})
sent = viewer.send_agent_completion_continue({"id": "run-1"}, address="https://other.example")
sent = viewer.send_agent_completion_error("run-1", ValueError("no"), signature="")
sent = viewer.send_function_execution_begin("f", RetryPolicy(), address=None, signature=None)
sent = viewer.send_function_execution_continue({"id": "f"})
sent = viewer.send_function_execution_error("f", {"code": 500, "message": "no"})
with viewer.agent_completion("run-1", {}, address=None, signature=None) as run:
    entered_run: ViewerRun = run
    run_id: str = run.id
    sent = run.continue_({"delta": "x"})
run = viewer.function_execution("f", {})
for teed_event in viewer.tee("run-1", {}, client.stream("Why?"), address=None, signature=None):
    teed: ResponseEvent = teed_event
teed_numbers: Iterator[int] = viewer.tee("run-1", {}, [1, 2])

stats: ViewerStats = viewer.stats
counts: list[int] = [
    stats.queued,
    stats.queued_bytes,
    stats.in_flight,
    stats.delivered,
    stats.retries,
    stats.submitted,
    stats.dropped["rejected"],
]
dropped: Mapping[str, int] = stats.dropped
stats = ViewerStats(delivered=1)
lost_event: LostEvent = LostEvent(reason="rejected", url="", id="a", body=b"")
flushed: bool = viewer.flush()
flushed = viewer.flush(None)
flushed = viewer.close(timeout=0)

# -- retries -----------------------------------------------------------------------------------

policy: RetryPolicy = RetryPolicy(
    initial_interval=1,
    multiplier=2,
    max_interval=30,
    randomization_factor=0,
    max_attempts=None,
    max_elapsed_time=None,
    max_retry_after=60,
)
delays: Iterator[float] = policy.delays()
seconds: float = policy.initial_interval
most: int | None = policy.max_attempts
longest: float | None = policy.max_elapsed_time

# -- WebSockets --------------------------------------------------------------------------------


def subscribe(open_connection: WebSocketConnection) -> None:
    open_connection.send({"subscribe": "everything"}, timeout=1)


def is_worth_it(why: ReasoningError) -> bool:
    return why.retryable


class Lines:
    """A codec."""

    def decode(self, message: str | bytes) -> list[str]:
        return message.splitlines() if isinstance(message, str) else []

    def encode(self, value: list[str]) -> str:
        return "\n".join(value)


codec: Codec = Lines()
connection: WebSocketConnection = WebSocketConnection.connect("wss://example.com/ws")
connection = WebSocketConnection.connect(
    fresh_key,
    headers=fresh_headers,
    on_reconnect=print,
    on_connect=subscribe,
    retry=RetryPolicy(max_attempts=3),
    open_timeout=5,
    ping_interval=None,
    ping_timeout=None,
    idle_timeout=60,
    send_timeout=5,
    close_timeout=1,
    max_size=None,
    max_queue=10,
    max_queue_bytes=None,
    overflow="drop_oldest",
    should_reconnect=is_worth_it,
    proxy="http://proxy.example:3128",
    ssl_context=ssl.create_default_context(),
    subprotocols=["chat"],
    codec=Lines(),
    compression=False,
)
connection = WebSocketConnection.connect("wss://example.com/ws", headers={"a": "b"}, codec="raw")
with connection as entered_connection:
    same_connection: WebSocketConnection = entered_connection
    for any_message in entered_connection:
        any_value: Any = any_message
maybe_message: Any = connection.next_message(timeout=0)
for connection_event in connection.events():
    if isinstance(connection_event, Message):
        message_data: Any = connection_event.data
        received_at: float = connection_event.received_at
    elif isinstance(connection_event, Connected):
        attempt_number: int = connection_event.attempt
    else:
        disconnected: Disconnected = connection_event
        why_lost: ReasoningError = disconnected.error
        code_of_close: int | None = disconnected.close_code
connection.close()
connection.close(timeout=0)
connection_state: ConnectionState = connection.state
is_open: bool = connection.state is ConnectionState.OPEN
why_ended: BaseException | None = connection.error
latency: float | None = connection.latency
subprotocol: str | None = connection.subprotocol
connection_stats: WebSocketStats = connection.stats
received_count: int = connection_stats.received + connection_stats.received_bytes
other_counts: int = connection_stats.sent + connection_stats.dropped + connection_stats.queued
reconnects: int = connection_stats.reconnects

# -- Reasoning Layer ---------------------------------------------------------------------------

layer = ReasoningLayerClient()
layer = ReasoningLayerClient(
    "https://layer.example",
    uuid.uuid4(),
    token=fresh_key,
    user_id="u",
    namespace_id=uuid.uuid4(),
    timeout=None,
    max_retries=0,
    retry_on_503=True,
    session=requests.Session(),
)
with layer as entered_layer:
    same_layer: ReasoningLayerClient = entered_layer
layer_url: str = layer.cognitive.agent_events_url(uuid.uuid4())
layer_url = layer.cognitive.cycle_url("agent")
layer_url = layer.oversight.session_url("session")
connection = layer.cognitive.agent_events("agent", idle_timeout=60)
connection = layer.cognitive.cycle("agent", on_connect=subscribe)
connection = layer.oversight.session("session")
answer: Any = layer.request("POST", "/api/v1/terms", json={"a": 1}, params={"limit": "5"})
event_stream: EventStream = layer.stream("/api/v1/ui/describe/stream", {"query": "why?"})
for streamed in event_stream:
    streamed_event: ServerSentEvent = streamed
event_stream.close()

some_agent_event: AgentEvent = UnknownEvent(type="new", data={})
kind_of_event: str = some_agent_event.type
raw_event: Any = some_agent_event.data
if isinstance(some_agent_event, KbChangeEvent):
    term: str = some_agent_event.term_id
elif isinstance(some_agent_event, HitlRequestEvent):
    confidence: float = some_agent_event.confidence
elif isinstance(some_agent_event, AttentionShiftEvent):
    came_from: str | None = some_agent_event.from_
agent_events: list[type[AgentEvent]] = [
    ConnectedEvent,
    CycleCompleteEvent,
    ErrorEvent,
    GoalCompletedEvent,
    HeartbeatEvent,
    ImpasseDetectedEvent,
    UnknownEvent,
]

# -- response loops ----------------------------------------------------------------------------

target: UpstreamTarget = UpstreamTarget("https://api.example/v1")
target = UpstreamTarget("https://api.example/v1", fresh_key, "responses")
target_texts: list[str] = [target.url, target.api]
config: LoopConfig = LoopConfig()
config = LoopConfig(
    max_depth=2,
    max_iterations=20,
    max_parallel_tools=4,
    tool_timeout=30,
    model_timeout=None,
    on_inflight="retry",
    retry=RetryPolicy(max_attempts=0),
    agent_events=True,
)
limit: float | None = config.tool_timeout

functions: FunctionTools = FunctionTools()


@functions.register
def add(a: int, b: int = 1) -> int:
    return a + b


@functions.register(name="sum", description="", idempotent=True, timeout=5, strict=True)
def add_all(numbers: list[int], context: Context) -> int:
    context.check()
    texts: list[str] = [context.name, context.call_id]
    request: RequestContext = context.request
    print(texts, request, context.canceled)
    return sum(numbers)


still_a_function: int = add(1, b=2)
same_function: int = add_all([1], Context("sum", "call_1", RequestContext()))
registered = functions.register(add, name="plus")
still_registered: int = registered(1)
functions = FunctionTools([add, add_all])

endpoints: HTTPTools = HTTPTools()
endpoints = HTTPTools(
    api_key=fresh_key, timeout=None, max_size=1000, headers={"a": "b"}, session=requests.Session()
)
with endpoints as entered_endpoints:
    same_endpoints: HTTPTools = entered_endpoints
endpoints.register("a", "https://tools.example/a")
endpoints.register(
    "b",
    "https://tools.example/b",
    description="",
    parameters={"type": "object"},
    api_key="",
    timeout=5,
    idempotent=True,
    strict=False,
)
endpoints.close()
agents: AgentTools = AgentTools()
agents.register("helper", description="Helps.")
agents.register(
    "other",
    description="Helps.",
    instructions="Help.",
    model="gpt-5",
    tools=["add"],
    parameters={"type": "object"},
    strict=True,
)
combined: CombinedTools = CombinedTools(functions, endpoints, agents, NoTools())
executors: list[ToolExecutor] = [functions, endpoints, agents, combined, NoTools()]
context_of_request: RequestContext = RequestContext(model="gpt-5", extensions={"user": 1})
schemas: Sequence[ToolSchema] = combined.tools(context_of_request)
tool_result: Any = functions.execute("add", "call_1", {"a": 1}, RequestContext())


class Echo:
    """An executor."""

    def tools(self, ctx: RequestContext) -> list[ToolSchema]:
        return [
            ToolSchema("echo", "", {"type": "object"}, strict=True, idempotent=True),
            AgentSchema("agent", instructions="", model=None, tools=["echo"]),
        ]

    def execute(
        self, name: str, call_id: str, arguments: Mapping[str, Any], ctx: RequestContext
    ) -> Any:
        stopped: bool = ctx.cancellation.canceled
        return None if stopped else arguments


kinds_of_tools: list[ToolKind] = [ToolKind.HTTP, ToolKind.AGENT]
executor: ToolExecutor = Echo()

loop: ResponseLoop = ResponseLoop(target)
loop = ResponseLoop(target, tools=[add, Echo(), functions])
loop = ResponseLoop(target, tools=combined, store=MemoryStore(max_responses=None), config=config)
loop = ResponseLoop(target, tools=Echo(), session=requests.Session())
cancellation: Cancellation = Cancellation()
recording: RecordingSink = RecordingSink()
asked: dict[str, Any] = {"model": "gpt-5", "input": "Why?"}
with loop as entered_loop:
    answered: dict[str, Any] = entered_loop.run(asked)
    answered = entered_loop.run(
        asked, request_id="r1", sink=recording, cancel=cancellation, extensions={"user": 1}
    )
with loop.stream(asked, request_id="r1", extensions={}) as entered_loop_stream:
    loop_stream: LoopStream = entered_loop_stream
    for streamed_loop_event in entered_loop_stream:
        loop_event: LoopEvent = streamed_loop_event
loop_deltas: Iterator[str] = loop_stream.text_deltas()
answered = loop_stream.until_done()
answered = loop_stream.response
loop_text: str = loop_stream.text + loop_stream.response_id
loop_body: Iterable[bytes] = loop.sse(asked, request_id="r1", keep_alive=None)
loop_stats: LoopStats = loop.stats
loop_counts: list[int] = [
    loop_stats.running,
    loop_stats.completed,
    loop_stats.failed,
    loop_stats.model_calls,
    loop_stats.failed_model_calls,
    loop_stats.tool_calls,
    loop_stats.failed_tool_calls,
]
loop_store: ResponseStore = loop.store
loop.close()

loop_event = LoopEvent(0, LoopEventKind.CREATED, {})
place: int = loop_event.sequence
loop_kind: LoopEventKind = loop_event.kind
kind_flags: list[bool] = [loop_kind.is_terminal, loop_kind.is_delta]
kind_name: str = loop_kind.value
loop_data: dict[str, Any] = loop_event.data
loop_bytes: bytes = loop_event.to_sse()

queue_sink: QueueSink = QueueSink(maxsize=10)
queued_event: LoopEvent | None = queue_sink.get(timeout=1)
for queued in queue_sink:
    loop_event = queued
queue_sink.close()
callback_sink: CallbackSink = CallbackSink(print, kinds=[LoopEventKind.FAILED, "response.created"])
sse_sink: SSESink = SSESink(
    maxsize=0, keep_alive=None, on_close=cancellation.cancel, done_marker=True
)
for chunk in sse_sink:
    chunk_of_body: bytes = chunk
sse_sink.close()
viewer_sink: ViewerSink = ViewerSink(viewer, id="run-1", address=None, signature="", deltas=False)
dropped_events: int = queue_sink.dropped + sse_sink.dropped + viewer_sink.dropped
tee_sink: TeeSink = TeeSink(recording, queue_sink, callback_sink, sse_sink, viewer_sink)
recorded_events: list[LoopEvent] = recording.events


class Printer:
    """A sink."""

    def emit(self, event: LoopEvent) -> None:
        print(event)


event_sink: EventSink = Printer()
event_sink = tee_sink

was_canceled: bool = cancellation.canceled
was_canceled = cancellation.wait(timeout=1)
with cancellation.calling(loop_stream.close):
    cancellation.cancel()


class OneCall:
    """A store."""

    def next_action_for(self, request_id: str, scope_parent: str | None) -> NextAction:
        chain = self.list_chain(request_id, scope_parent)
        if not chain:
            return AppendSteps([StepDescriptor(StepKind.MODEL_CALL, {"model": "gpt-5"})])
        failed_with: Any = chain[-1].error
        return Fail(failed_with) if failed_with else Complete(chain[-1].response_payload)

    def record_step(
        self,
        request_id: str,
        scope_parent: str | None,
        prev_step: str | None,
        descriptor: StepDescriptor,
    ) -> RecordedStep:
        return RecordedStep("s1", 1, sub_request_id=None)

    def mark_step_processing(self, step_id: str) -> None: ...

    def complete_step(self, step_id: str, payload: Any) -> None: ...

    def fail_step(self, step_id: str, error: Any) -> None: ...

    def list_chain(self, request_id: str, scope_parent: str | None) -> list[ChainStep]:
        return [ChainStep("s1", StepKind.MODEL_CALL, StepState.PENDING, 1, iteration=None)]

    def assemble_response(self, request_id: str) -> Any: ...


multi_step_store: MultiStepStore = OneCall()
memory_store: MemoryStore = MemoryStore()
multi_step_store = memory_store
response_store: ResponseStore = memory_store
memory_store.create_response("r1", asked, tools=schemas, api="responses")
replayed: Sequence[LoopEvent] = memory_store.events_after("r1", None)
memory_store.delete_response("r1")
one_step: ChainStep = memory_store.list_chain("r1", None)[0]
step_has_ended: bool = one_step.state.is_terminal
step_ids: list[str | None] = [one_step.id, one_step.prev_step_id, one_step.parent_step_id]
payload_of_loop: Any = run_response_loop(
    OneCall(),
    Echo(),
    RequestContext(),
    target,
    request_id="r1",
    http=requests.Session(),
    event_sink=Printer(),
    scope_parent=None,
    config=config,
    depth=0,
    cancel=cancellation,
)

# -- errors ------------------------------------------------------------------------------------

try:
    client.create("Why?")
except RateLimitError as rate_limited:
    code: int = rate_limited.status_code
    body: Any = rate_limited.body
    headers: Mapping[str, str] = rate_limited.headers
    error_request_id: str | None = rate_limited.request_id
    wait: float | None = rate_limited.retry_after
    error_code: str | None = rate_limited.code
    error_message: str = rate_limited.message
except ResponseFailedError as failed:
    error_code = failed.code
    error_message = failed.message
    wait = failed.retry_after
except ResponseIncompleteError as incomplete:
    reason: str | None = incomplete.reason
except ConnectionLostError as lost:
    attempts: int = lost.attempts
    close_code: int | None = lost.close_code
    last_error: BaseException | None = lost.last_error
except InvalidEventError as invalid:
    path: str = invalid.path
except LoopFailedError as loop_failed:
    payload: Any = loop_failed.payload
    error_code = loop_failed.code
    error_message = loop_failed.message
    status_of_upstream: int | None = loop_failed.status_code
except ReasoningError as any_error:
    retryable: bool = any_error.retryable
    arrived_id: str | None = any_error.response_id
    arrived: Sequence[Mapping[str, Any]] = any_error.items
    arrived_text: str = any_error.text

status_class: type[APIStatusError] = APIStatusError.for_status(404)
status_errors: list[type[APIStatusError]] = [
    BadRequestError,
    AuthenticationError,
    PermissionDeniedError,
    NotFoundError,
    ConflictError,
    UnprocessableEntityError,
    RateLimitError,
    ServerError,
]
transport_errors: list[type[TransportError]] = [
    ConnectError,
    ConnectTimeoutError,
    RequestTimeoutError,
    IdleTimeoutError,
    ConnectionLostError,
    StreamInterruptedError,
    UnauthenticatedCloseError,
    ForbiddenCloseError,
]
timeouts: list[type[TimeoutError]] = [RequestTimeoutError, IdleTimeoutError, ConnectTimeoutError]
response_errors: list[type[ResponseError]] = [
    StreamInterruptedError,
    ResponseFailedError,
    ResponseIncompleteError,
]
value_error: type[ValueError] = ConfigurationError
type_error: type[TypeError] = InvalidEventError
runtime_errors: list[type[RuntimeError]] = [StateError, ConcurrencyError]
tool_errors: list[type[ToolError]] = [
    ToolNotFoundError,
    ToolExecutionError,
    ToolArgumentsError,
    ToolTimeoutError,
]
store_errors: list[type[StoreError]] = [
    RecordNotFoundError,
    StorageError,
    SerializationError,
    LeaseLostError,
]
loop_errors: list[type[LoopError]] = [
    LoopFailedError,
    MaxIterationsError,
    MaxDepthError,
    EmptyActionError,
    LoopCanceledError,
]
others: list[type[ReasoningError]] = [ProtocolError, EventSinkError]

# -- what has to be refused --------------------------------------------------------------------
# An ignore that silences nothing is an error here, so these lines fail when the types get looser.

client.stream(42)  # type: ignore[arg-type]
client.stream("Why?", tools="web_search")  # type: ignore[arg-type]
client.retrieve(None)  # type: ignore[arg-type]
client.model = 5  # type: ignore[assignment]
ResponsesClient("gpt-5", "https://api.example/v1")  # type: ignore[call-arg]
RetryPolicy(0.5)  # type: ignore[call-arg]
RetryPolicy(initial_interval=datetime.timedelta(seconds=1))  # type: ignore[arg-type]
policy.max_attempts = 5  # type: ignore[misc]
response.data = {}  # type: ignore[misc]
stream.text = ""  # type: ignore[misc]
decoder.feed("text")  # type: ignore[arg-type]
iter_events(["text"])  # type: ignore[list-item]
EventSource(b"https://api.example")  # type: ignore[arg-type]
EventSource("https://api.example", headers=fresh_key)  # type: ignore[arg-type]
ServerSentEvent("message")  # type: ignore[call-arg]
ViewerClient(5)  # type: ignore[arg-type]
ViewerClient("https://viewer.example", "", RetryPolicy())  # type: ignore[call-arg]
ViewerClient(on_error=fresh_key)  # type: ignore[arg-type]
ViewerClient(session_factory=requests.Session())  # type: ignore[arg-type]
viewer.send_agent_completion_begin({"id": "run-1"})  # type: ignore[arg-type, call-arg]
viewer.send_agent_completion_continue({}, "https://other.example")  # type: ignore[call-arg]
viewer.stats = stats  # type: ignore[misc]
stats.queued = 1  # type: ignore[misc]
lost_event.body = b""  # type: ignore[misc]
LostEvent("rejected", "", "a", b"")  # type: ignore[call-arg]
WebSocketConnection.connect(b"wss://example.com")  # type: ignore[arg-type]
WebSocketConnection.connect("wss://example.com", {})  # type: ignore[call-arg]
WebSocketConnection.connect("wss://example.com", headers=fresh_key)  # type: ignore[arg-type]
WebSocketConnection.connect("wss://example.com", codec=5)  # type: ignore[arg-type]
connection.state = ConnectionState.OPEN  # type: ignore[misc]
connection_stats.sent = 1  # type: ignore[misc]
disconnected.close_code = 1  # type: ignore[misc]
ReasoningLayerClient("https://layer.example", 5)  # type: ignore[arg-type]
layer.request("GET")  # type: ignore[call-arg]
UpstreamTarget(5)  # type: ignore[arg-type]
LoopConfig(max_depth="8")  # type: ignore[arg-type]
config.max_depth = 9  # type: ignore[misc]
target.url = ""  # type: ignore[misc]
ResponseLoop("https://api.example/v1")  # type: ignore[arg-type]
ResponseLoop(target, [add])  # type: ignore[call-arg]
ResponseLoop(target, tools=[5])  # type: ignore[list-item]
ResponseLoop(target, store=OneCall())  # type: ignore[arg-type]
loop.run("Why?")  # type: ignore[arg-type]
loop.run(asked, "r1")  # type: ignore[call-arg]
loop.stats = loop_stats  # type: ignore[misc]
loop_stats.running = 1  # type: ignore[misc]
loop_stream.text = ""  # type: ignore[misc]
add("1")  # type: ignore[arg-type]
functions.register(5)  # type: ignore[call-overload]
functions.register(name=5)  # type: ignore[call-overload]
endpoints.register("a")  # type: ignore[call-arg]
agents.register("helper")  # type: ignore[call-arg]
CombinedTools(add)  # type: ignore[arg-type]
TeeSink(print)  # type: ignore[arg-type]
CallbackSink(fresh_key)  # type: ignore[arg-type]
SSESink(10)  # type: ignore[call-arg]
AppendSteps(StepDescriptor(StepKind.MODEL_CALL, {}))  # type: ignore[arg-type]
ChainStep("s1", StepKind.MODEL_CALL)  # type: ignore[call-arg]
cancellation.canceled = True  # type: ignore[misc]
run_response_loop(OneCall(), Echo(), RequestContext(), target)  # type: ignore[call-arg]
