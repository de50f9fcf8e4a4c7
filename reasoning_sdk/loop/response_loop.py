"""The faces of the response loop: a function over any store, and a client for everyday use."""

import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, TypeGuard

import attrs
import requests

from reasoning_sdk._core.transition import check_request
from reasoning_sdk._io.http import HTTPTransport
from reasoning_sdk._io.model import ModelCaller
from reasoning_sdk._io.workers import Workers
from reasoning_sdk._version import __version__
from reasoning_sdk.arguments import check_count, check_kind, check_methods, has_methods, shown
from reasoning_sdk.cancellation import Cancellation
from reasoning_sdk.encoding import json_parser
from reasoning_sdk.errors import ConfigurationError, ReasoningError, StateError
from reasoning_sdk.events import LoopEvent
from reasoning_sdk.loop.config import LoopConfig, UpstreamTarget
from reasoning_sdk.loop.engine import LoopCounts, ResponseRun, response_id_of, tools_of
from reasoning_sdk.loop.events import ResponseEvents, ask_store
from reasoning_sdk.loop.stream import EventQueue, LoopStream
from reasoning_sdk.sinks import CallbackSink, SSESink
from reasoning_sdk.steps import RequestContext, ToolSchema
from reasoning_sdk.stores.memory import MemoryStore
from reasoning_sdk.tools import CombinedTools, FunctionTools, NoTools
from reasoning_sdk.typing import JSON, EventSink, MultiStepStore, ResponseStore, ToolExecutor

__all__ = ["LoopStats", "ResponseLoop", "run_response_loop"]

_NONE = type(None)
_DEFAULT_CONFIG = LoopConfig()
_EXECUTOR = ("tools", "execute")
_STORE = (
    "next_action_for",
    "record_step",
    "mark_step_processing",
    "complete_step",
    "fail_step",
    "list_chain",
    "assemble_response",
)
_OF_REQUESTS = ("create_response", "end_response", "append_events", "events_after")
_NO_TOOLS = NoTools()


def run_response_loop(
    store: MultiStepStore,
    tool_executor: ToolExecutor,
    ctx: RequestContext,
    upstream: UpstreamTarget,
    *,
    request_id: str,
    http: requests.Session | None = None,
    event_sink: EventSink | None = None,
    scope_parent: str | None = None,
    config: LoopConfig = _DEFAULT_CONFIG,
    depth: int = 0,
    cancel: Cancellation | None = None,
) -> JSON:
    """Carry out what a store says, until it says that it is enough. Blocks; from any thread.

    The store is asked for the next action; the steps it names are recorded, taken side by side, and
    what comes of each is noted; then it is asked again. A chain of steps that is partly there is
    gone on with: what has ended is not done again. A step that fails stops nobody: the store
    decides what that means. A store that fails ends the loop.

    Args:
        store: Says what is next, and keeps what came of it.
        tool_executor: Calls the tools.
        ctx: What tools get to know.
        upstream: The model.
        request_id: The response in the store.
        http: A session to ask the model with, with its proxies, adapters and cookies. A call over
            it that is canceled ends when its answer begins, or by ``config.model_timeout``.
        event_sink: Gets the events of the response. What it raises is logged.
        scope_parent: The tool call whose agent is carried out, in place of the whole response.
        config: The limits.
        depth: The level of this loop, from 0.
        cancel: Ends the loop, from any thread: a model call that is blocked in a read is cut off,
            and tools are told to stop and not waited for.

    Returns:
        The payload of the store's :class:`~reasoning_sdk.Complete`.

    Raises:
        LoopFailedError: The store has decided to fail.
        MaxIterationsError: There were ``config.max_iterations`` actions, and it is not complete.
        MaxDepthError: ``depth`` is beyond ``config.max_depth``.
        EmptyActionError: The store asked for steps and named none.
        LoopCanceledError: ``cancel`` was canceled.
        StoreError: The store has failed.
        ConfigurationError: An argument cannot work.
    """
    check_methods("store", store, _STORE, "a MultiStepStore")
    check_methods("tool_executor", tool_executor, _EXECUTOR, "a ToolExecutor")
    check_kind("ctx", ctx, (RequestContext,), "a RequestContext")
    check_kind("upstream", upstream, (UpstreamTarget,), "an UpstreamTarget")
    _check_id(request_id)
    check_kind("http", http, (requests.Session, _NONE), "a requests.Session")
    if event_sink is not None:
        check_methods("event_sink", event_sink, ("emit",), "an EventSink")
    check_kind("scope_parent", scope_parent, (str, _NONE), "a str")
    check_kind("config", config, (LoopConfig,), "a LoopConfig")
    check_count("depth", depth, or_zero=True)
    check_kind("cancel", cancel, (Cancellation, _NONE), "a Cancellation")
    with ExitStack() as stack:
        transport, workers, own = _transport(upstream, http), Workers(), Cancellation()
        stack.callback(transport.close)
        stack.callback(workers.close)
        run = ResponseRun(
            store=store,
            executor=tool_executor,
            ctx=ctx,
            model=_model(transport, upstream, config),
            workers=workers,
            request_id=request_id,
            scope=scope_parent,
            events=ResponseEvents(store if scope_parent is None else None, request_id, event_sink),
            config=config,
            cancellation=own,
            counts=LoopCounts(),
        )
        if cancel is not None:
            stack.enter_context(cancel.calling(own.cancel))
        return run.to_its_end(depth)


def _transport(upstream: UpstreamTarget, session: requests.Session | None) -> HTTPTransport:
    def authentication() -> dict[str, str]:
        key = _called(upstream.api_key) if callable(upstream.api_key) else upstream.api_key
        check_kind("what api_key gives", key, (str, _NONE), "a str")
        return {"Authorization": f"Bearer {key}"} if key else {}

    return HTTPTransport(
        authenticate=authentication,
        headers={"User-Agent": f"reasoning-sdk/{__version__}"},
        timeout=None,  # that of the model is given with each call
        follow_elsewhere=False,  # what is said goes to nobody else
        session=session,
    )


def _called(api_key: Callable[[], str]) -> str:
    try:
        return api_key()
    except Exception as exc:  # which may tell of the key
        raise ConfigurationError(f"api_key has failed with a {type(exc).__name__}") from exc


def _model(transport: HTTPTransport, upstream: UpstreamTarget, config: LoopConfig) -> ModelCaller:
    return ModelCaller(
        transport, upstream.url, upstream.api, timeout=config.model_timeout, retry=config.retry
    )


@attrs.frozen(kw_only=True)
class LoopStats:
    """What a :class:`ResponseLoop` has done so far.

    Args:
        running: Responses under way.
        completed: Responses that were carried to their end, those that are incomplete included.
        failed: Responses that were not, canceled ones included.
        model_calls: Model calls that have ended.
        failed_model_calls: How many of them failed.
        tool_calls: Tool calls that have ended.
        failed_tool_calls: How many of them failed.
    """

    running: int
    completed: int
    failed: int
    model_calls: int
    failed_model_calls: int
    tool_calls: int
    failed_tool_calls: int


class ResponseLoop:
    """Answers requests of the Responses API with a model and tools. Safe to use from any thread.

    Args:
        upstream: The model.
        tools: What the model may call: a :class:`~reasoning_sdk.ToolExecutor`, or a sequence of
            executors and plain functions.
        store: Keeps the responses; one in memory without.
        config: The limits.
        session: A session to ask the model with, with its proxies, adapters and cookies. A call
            over it that is canceled ends when its answer begins, or by ``config.model_timeout``.

    Raises:
        ConfigurationError: An argument cannot work.

    Example:
        >>> def add(a: int, b: int) -> int:
        ...     "Add two numbers."
        ...     return a + b
        >>> upstream = UpstreamTarget("http://127.0.0.1:8000/v1")
        >>> with ResponseLoop(upstream, tools=[add]) as loop:       # doctest: +SKIP
        ...     loop.run({"model": "qwen3", "input": "What is 2 + 3?"})["status"]
        'completed'
    """

    def __init__(
        self,
        upstream: UpstreamTarget,
        *,
        tools: ToolExecutor | Sequence[ToolExecutor | Callable[..., Any]] = _NO_TOOLS,
        store: ResponseStore | None = None,
        config: LoopConfig = _DEFAULT_CONFIG,
        session: requests.Session | None = None,
    ) -> None:
        check_kind("upstream", upstream, (UpstreamTarget,), "an UpstreamTarget")
        check_kind("config", config, (LoopConfig,), "a LoopConfig")
        check_kind("session", session, (requests.Session, _NONE), "a requests.Session")
        self.upstream = upstream
        self.tools = _executor(tools)
        self.store: ResponseStore = MemoryStore() if store is None else store
        # run_response_loop takes a store that knows no requests.
        check_methods("store", self.store, (*_STORE, *_OF_REQUESTS), "a ResponseStore")
        self.config = config
        self._transport = _transport(upstream, session)
        self._model = _model(self._transport, upstream, config)
        self._workers = Workers()
        self._counts = LoopCounts()
        self._completed = self._failed = 0
        self._closed = False
        self._pid = os.getpid()
        self._running: dict[str, Cancellation] = {}  # one C call adds, removes or copies
        json_parser()  # a child must not be forked while a thread imports it

    def __repr__(self) -> str:
        state = "CLOSED" if self._closed else "OPEN"
        return f"<ResponseLoop {state} {self.upstream.url} running={len(self._running)}>"

    def __enter__(self) -> "ResponseLoop":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def stats(self) -> LoopStats:
        """What it has done so far."""
        return LoopStats(
            running=len(self._running),
            completed=self._completed,
            failed=self._failed,
            **attrs.asdict(self._counts),
        )

    def close(self) -> None:
        """Cancel all responses under way, in whatever thread. Safe to call from any thread."""
        self._closed = True
        for cancellation in tuple(self._running.values()):
            cancellation.cancel()
        self._transport.close()
        self._workers.close()

    def run(
        self,
        request: Mapping[str, Any],
        *,
        request_id: str | None = None,
        sink: EventSink | None = None,
        cancel: Cancellation | None = None,
        extensions: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Answer a request, and wait for the answer.

        Args:
            request: The body of a ``POST /v1/responses``: ``{"model", "input", …}``. With a
                ``sink``, the model is asked for a stream unless ``stream`` is false.
            request_id: The id of the response, without ``resp_``; a new one without. With that of
                a response which has not completed, it is gone on with.
            sink: Gets the events, in this thread. What it raises is logged.
            cancel: Ends it, from any thread.
            extensions: What tools find in their context's ``extensions``.

        Returns:
            The object of the Responses API; its ``status`` is ``completed``, or ``incomplete``.

        Raises:
            ConfigurationError: The request cannot be carried out; the message names the field.
                Nothing was recorded.
            LoopError: The response has failed, or was canceled.
            StoreError: The store has failed.
            StateError: The loop is closed, or carries this response out already.
        """
        if sink is not None:
            check_methods("sink", sink, ("emit",), "an EventSink")
        check_kind("cancel", cancel, (Cancellation, _NONE), "a Cancellation")
        job = self._job(request, request_id, sink, extensions)
        with self._claim(job):
            return self._carry_out(job, cancel or Cancellation())

    def _job(
        self,
        request: Mapping[str, Any],
        request_id: str | None,
        sink: EventSink | None,
        extensions: Mapping[str, Any] | None,
        cancellation: Cancellation | None = None,
    ) -> "_Job":
        """A request that can be carried out."""
        request_id = uuid.uuid4().hex if request_id is None else request_id
        _check_id(request_id)
        check_kind("extensions", extensions, (Mapping, _NONE), "a mapping")
        checked = check_request(request, self.upstream.api)
        if sink is not None:
            checked.setdefault("stream", True)
        ctx = RequestContext(model=checked["model"], extensions=dict(extensions or {}))
        tools = tools_of(self.tools, ctx)
        return _Job(request_id, checked, ctx, tools, sink, cancellation or Cancellation())

    @contextmanager
    def _claim(self, job: "_Job") -> Iterator[None]:
        """Have a response to oneself, and its request kept by the store, for as long as this lasts.

        Ctrl-C may come anywhere in here.
        """
        if self._pid != os.getpid():  # what runs there is the parent's
            self._pid, self._running = os.getpid(), {}
        own, api = job.cancellation, self.upstream.api
        try:
            if self._running.setdefault(job.response_id, own) is not own:
                raise StateError(f"{job.response_id} is being carried out")
            if self._closed:  # seen by whoever is too late to be seen by close
                raise StateError("the loop is closed")
            tools = tuple(job.tools.values())
            ask_store(self.store.create_response, job.request_id, job.request, tools=tools, api=api)
            yield
        finally:
            if self._running.get(job.response_id) is own:
                del self._running[job.response_id]

    def _carry_out(self, job: "_Job", cancel: Cancellation) -> dict[str, Any]:
        try:
            run = ResponseRun(
                store=self.store,
                executor=self.tools,
                tools=job.tools,
                ctx=job.ctx,
                model=self._model,
                workers=self._workers,
                request_id=job.request_id,
                events=ResponseEvents(self.store, job.request_id, job.sink),
                config=self.config,
                cancellation=job.cancellation,
                counts=self._counts,
            )
            with cancel.calling(job.cancellation.cancel):
                run.to_its_end(0)
        except BaseException as exc:
            self._failed += 1
            if isinstance(exc, ReasoningError):
                exc.response_id = job.response_id
            raise
        self._completed += 1
        response: dict[str, Any] = run.response
        return response

    def stream(
        self,
        request: Mapping[str, Any],
        *,
        request_id: str | None = None,
        extensions: Mapping[str, Any] | None = None,
    ) -> LoopStream:
        """Answer a request, and iterate over the events as they come.

        Arguments and errors as for :meth:`run`, which does the work on another thread.
        """
        own = Cancellation()
        queue = EventQueue(own)
        job = self._job(request, request_id, queue, extensions, own)
        self._start(job, own, queue.end)
        return LoopStream(queue, job.response_id, own)

    def sse(
        self,
        request: Mapping[str, Any],
        *,
        request_id: str | None = None,
        extensions: Mapping[str, Any] | None = None,
        keep_alive: float | None = 15.0,
    ) -> SSESink:
        """Answer a request with the body of a ``text/event-stream``, for a web framework.

        Give it to a Flask ``Response`` or a Django ``StreamingHttpResponse``. When the client goes
        away the response is canceled. Other arguments and errors as for :meth:`run`.

        Args:
            request: As for :meth:`run`.
            request_id: As for :meth:`run`.
            extensions: As for :meth:`run`.
            keep_alive: Seconds without an event after which a comment is sent; ``None`` sends none.

        Returns:
            An iterable of bytes.
        """
        cancel = Cancellation()
        sink = SSESink(keep_alive=keep_alive, on_close=cancel.cancel)

        def emit(event: LoopEvent) -> None:
            if not cancel.canceled:  # else nobody reads any more
                sink.emit(event)

        job = self._job(request, request_id, CallbackSink(emit), extensions)
        self._start(job, cancel, lambda error: sink.end())  # its last event tells of an error
        return sink

    def _start(
        self, job: "_Job", cancel: Cancellation, on_end: Callable[[BaseException | None], None]
    ) -> None:
        """Carry a response out on another thread."""
        claim = ExitStack()

        def work() -> None:
            error: BaseException | None = None
            with claim:
                try:
                    self._carry_out(job, cancel)
                except BaseException as exc:  # raised by whoever iterates
                    error = exc
            on_end(error)

        try:
            claim.enter_context(self._claim(job))
            self._workers.start(work)
        except BaseException:
            cancel.cancel()
            claim.close()
            raise


@attrs.frozen(eq=False)
class _Job:
    """A request that can be carried out."""

    request_id: str
    request: dict[str, Any]
    ctx: RequestContext
    tools: Mapping[str, ToolSchema]
    sink: EventSink | None
    cancellation: Cancellation

    @property
    def response_id(self) -> str:
        return response_id_of(self.request_id)


def _executor(tools: Any) -> ToolExecutor:
    """What calls the tools that were given."""
    if _is_executor(tools):
        return tools
    several = isinstance(tools, Iterable) and not isinstance(tools, (str, Mapping))
    kinds = (Iterable,) if several else ()
    check_kind("tools", tools, kinds, "a ToolExecutor or a list of tools")
    functions, executors = FunctionTools(), []
    for place, tool in enumerate(tools):
        if _is_executor(tool):
            executors.append(tool)
        elif callable(tool) and not isinstance(tool, type):
            functions.register(tool)
        else:
            raise ConfigurationError(
                f"tools[{place}] must be a function or a ToolExecutor, got {shown(tool)}"
            )
    return CombinedTools(functions, *executors)


def _is_executor(tool: Any) -> TypeGuard[ToolExecutor]:
    return has_methods(tool, *_EXECUTOR)


def _check_id(request_id: Any) -> None:
    check_kind("request_id", request_id, (str,), "a str")
    if not request_id:
        raise ConfigurationError("request_id must not be empty, got ''")
