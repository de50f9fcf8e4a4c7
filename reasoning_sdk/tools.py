"""The tools that a model can call: Python functions, endpoints over HTTP, agents, or all of them.

A function's parameters become a tree of *shapes*. A shape has the JSON schema of a value, and reads
the value that a model has written: what its schema refuses, it refuses, and gives the rest as what
the function was annotated with.
"""

import asyncio
import dataclasses
import datetime
import decimal
import difflib
import functools
import hashlib
import inspect
import itertools
import logging
import math
import re
import textwrap
import time
import types
import typing
import uuid
import weakref
from collections import abc
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from typing import Annotated, Any, Generic, Literal, Protocol, TypeVar, overload

import attrs
import requests

from reasoning_sdk._io import workers
from reasoning_sdk._io.exchange import Exchange
from reasoning_sdk._io.http import (
    Answer,
    HTTPStream,
    HTTPTransport,
    check_headers,
    check_url,
    is_passing,
)
from reasoning_sdk._io.thread import Signal
from reasoning_sdk._io.translate import Hide, origin
from reasoning_sdk._version import __version__
from reasoning_sdk.arguments import check_kind, check_seconds, shown
from reasoning_sdk.cancellation import Cancellation
from reasoning_sdk.encoding import encode_json, parse_json
from reasoning_sdk.errors import (
    APIStatusError,
    ConfigurationError,
    InvalidEventError,
    LoopCanceledError,
    ReasoningError,
    RequestTimeoutError,
    StateError,
    ToolArgumentsError,
    ToolError,
    ToolExecutionError,
    ToolNotFoundError,
    ToolTimeoutError,
    TransportError,
)
from reasoning_sdk.retry import Retries, RetryPolicy
from reasoning_sdk.steps import AgentSchema, RequestContext, ToolSchema
from reasoning_sdk.typing import JSON, ToolExecutor

__all__ = ["AgentTools", "CombinedTools", "Context", "FunctionTools", "HTTPTools", "NoTools"]

log = logging.getLogger("reasoning_sdk.loop")

_T = TypeVar("_T")
_F = TypeVar("_F", bound=Callable[..., Any])
_Key = str | Callable[[], str] | None

_NAME = re.compile("[a-zA-Z0-9_-]{1,64}")
_MAX_MESSAGE = 2000
_MAX_PROBLEMS = 20
_MAX_SHOWN = 60
_MAX_SIZE = 4 * 1024 * 1024
_ONCE = RetryPolicy(max_attempts=0)
_THRICE = RetryPolicy(max_attempts=2)
_INPUT = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}


class NoTools:
    """No tools at all. Safe to use from any thread."""

    def __repr__(self) -> str:
        return "<NoTools>"

    def tools(self, ctx: RequestContext) -> list[ToolSchema]:
        """None."""
        return []

    def execute(
        self, name: str, call_id: str, arguments: Mapping[str, Any], ctx: RequestContext
    ) -> JSON:
        """Call none.

        Raises:
            ToolNotFoundError: Always.
        """
        raise _not_found(name, ())


# -- Python functions ------------------------------------------------------------------------------


@attrs.frozen
class Context:
    """What a function gets to know of its call, if a parameter is annotated with this class.

    Args:
        name: The name of the tool.
        call_id: The call's id, as the model gave it.
        request: The context of the response.
    """

    name: str
    call_id: str
    request: RequestContext

    @property
    def canceled(self) -> bool:
        """Whether nobody waits for the result any more."""
        return self.request.cancellation.canceled

    def check(self) -> None:
        """Go on only if somebody still waits for the result.

        Raises:
            LoopCanceledError: Nobody does.
        """
        if self.canceled:
            raise LoopCanceledError(f"the call of tool {self.name!r} was canceled")


class FunctionTools:
    """Python functions as tools. Safe to use from any thread.

    The schema of a function's arguments is made, once, from its signature and its docstring, be
    that in the style of Google, NumPy or Sphinx. Annotations can be: ``str``, ``int``, ``float``,
    ``bool``, ``None``, ``Any``, lists, tuples, sets, ``dict[str, …]``, ``Literal``, enums (by their
    values), unions (the first that fits is taken), dates, times and datetimes (RFC 3339), ``UUID``,
    ``Decimal``, ``TypedDict``, attrs classes and dataclasses. ``Annotated[T, "text"]`` describes.
    Arguments are checked and converted before the call, so that the function gets what it is
    annotated with. One annotated with :class:`Context` or :class:`~reasoning_sdk.RequestContext`
    gets that, and the model does not see it; nor does it see what :func:`functools.partial` has
    fixed.

    An ``async`` function is run to its end by :func:`asyncio.run`, and canceled with the response.

    Args:
        functions: Functions to register.

    Raises:
        ConfigurationError: As for :meth:`register`.

    Example:
        >>> tools = FunctionTools()
        >>> @tools.register(idempotent=True)
        ... def add(a: int, b: int = 1) -> int:
        ...     "Add two numbers."
        ...     return a + b
        >>> tools.execute("add", "call_1", {"a": 2}, RequestContext())
        3
    """

    def __init__(self, functions: Iterable[Callable[..., Any]] = ()) -> None:
        self._registry: _Registry[_Function] = _Registry()
        for function in functions:
            self.register(function)

    def __repr__(self) -> str:
        return f"<FunctionTools {self._registry}>"

    @overload
    def register(
        self,
        function: _F,
        /,
        *,
        name: str | None = None,
        description: str | None = None,
        idempotent: bool = False,
        timeout: float | None = None,
        strict: bool = False,
    ) -> _F: ...

    @overload
    def register(
        self,
        function: None = None,
        /,
        *,
        name: str | None = None,
        description: str | None = None,
        idempotent: bool = False,
        timeout: float | None = None,
        strict: bool = False,
    ) -> Callable[[_F], _F]: ...

    def register(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        description: str | None = None,
        idempotent: bool = False,
        timeout: float | None = None,
        strict: bool = False,
    ) -> Any:
        """Make a function a tool: as a decorator, with and without arguments, or as a call.

        Args:
            function: The function, method or other callable.
            name: The tool's name, instead of the function's.
            description: What it does, instead of what the docstring says before its sections.
            idempotent: Whether it may be called again when nobody knows whether it was called.
            timeout: Seconds for a call, which is then made on another thread. One that takes longer
                is left alone, and its context is canceled.
            strict: Whether the model has to keep to the schema. Then all parameters are required,
                and ``null`` stands for a default.

        Returns:
            The function as it was given.

        Raises:
            ConfigurationError: There is a tool of this name, or the function cannot be one; the
                message names the parameter.
        """
        if function is None:
            return functools.partial(
                self.register,
                name=name,
                description=description,
                idempotent=idempotent,
                timeout=timeout,
                strict=strict,
            )
        check_seconds("timeout", timeout)
        name = _name_of(function) if name is None else name
        known = _Function.of(function, name, timeout, strict)
        if description is None:
            description = _doc_of(function).description
        schema = ToolSchema(name, description, known.schema, strict, idempotent=idempotent)
        self._registry.add(schema, known)
        return function

    def tools(self, ctx: RequestContext) -> list[ToolSchema]:
        """All of them."""
        return self._registry.schemas()

    def execute(
        self, name: str, call_id: str, arguments: Mapping[str, Any], ctx: RequestContext
    ) -> JSON:
        """Call a function, in this thread if it has no timeout.

        Returns:
            What it returned, as JSON.

        Raises:
            ToolNotFoundError: There is none of this name.
            ToolArgumentsError: The arguments do not fit; the message tells each problem.
            ToolTimeoutError: It took too long.
            ToolExecutionError: It raised, or returned what cannot be JSON.
            ToolError: It raised this itself.
            LoopCanceledError: The response was canceled.
        """
        function = self._registry.find(name)
        given = function.read(arguments)
        try:
            result = function.call(given, Context(name, call_id, ctx))
        except ToolError:
            raise
        except Exception as exc:
            if isinstance(exc, LoopCanceledError) and ctx.cancellation.canceled:
                raise
            raise ToolExecutionError(_said(exc)) from exc
        return _as_json(name, result)


@attrs.frozen
class _Function:
    """A function that is a tool, and how its arguments are read."""

    function: Callable[..., Any]
    signature: inspect.Signature
    timeout: float | None
    parameters: "_Object"
    schema: Mapping[str, Any]
    injected: Mapping[str, Any]

    @classmethod
    def of(
        cls, function: Callable[..., Any], name: str, timeout: float | None, strict: bool
    ) -> "_Function":
        label = f"tool {name!r}"
        if isinstance(function, type) or not callable(function):
            raise ConfigurationError(f"{label} must be a function, got {shown(function)}")
        if any(map(_is_generator, (function, _code_of(function)))):
            raise ConfigurationError(f"{label} must not be a generator function")
        signature, hints = _signature(function, label), _hints(_code_of(function), label)
        injected = {n: kind for n, hint in hints.items() if (kind := _injected(hint))}
        hidden = {*injected, *_fixed(function)}
        shapes = _Shapes(strict)
        parameters = shapes.object_of(
            signature, hints, _doc_of(function).parameters, label, hidden=hidden
        )
        schema = shapes.document(parameters)
        return cls(function, signature, timeout, parameters, schema, injected)

    def read(self, arguments: Any) -> dict[str, Any]:
        """The arguments that a model has written, converted."""
        problems: _Problems = []
        try:
            given: dict[str, Any] = self.parameters.convert(arguments, "$", problems)
        except RecursionError:
            problems = [("$", "is nested too deeply")]
        if problems:
            raise ToolArgumentsError(_listed(problems))
        return given

    def call(self, given: dict[str, Any], context: Context) -> Any:
        """What comes of a call, made on another thread if it is not to take for ever."""
        call = functools.partial(self._call, given)
        return call(context) if self.timeout is None else _within(self.timeout, call, context)

    def _call(self, given: dict[str, Any], context: Context) -> Any:
        injected = {
            name: context if kind is Context else context.request
            for name, kind in self.injected.items()
        }
        result = _apply(self.function, self.signature, {**given, **injected})
        return _run(result, context) if inspect.iscoroutine(result) else result


def _apply(
    function: Callable[..., Any], signature: inspect.Signature, given: dict[str, Any]
) -> Any:
    bound = signature.bind_partial()
    bound.arguments.update(given)
    bound.apply_defaults()  # which those that have no name outside need
    return function(*bound.args, **bound.kwargs)


def _within(seconds: float, call: Callable[[Context], Any], context: Context) -> Any:
    """Call on another thread, and wait for the end, for so long and until it is canceled."""
    own, ended, ends = Cancellation(), Signal(), list[Callable[[], Any]]()
    request = attrs.evolve(context.request, cancellation=own)

    def run() -> None:
        try:
            ends.append(functools.partial(_same, call(attrs.evolve(context, request=request))))
        except BaseException as exc:
            ends.append(functools.partial(_throw, exc))
        ended.give()

    try:
        with context.request.cancellation.calling(own.cancel), own.calling(ended.give):
            workers.start(run)
            ended.take(seconds)
    finally:
        own.cancel()
    if ends:
        return ends.pop()()
    context.check()
    raise ToolTimeoutError(f"tool {context.name!r} gave no result in {seconds:g} seconds")


def _throw(error: BaseException) -> Any:
    raise error


def _run(coroutine: Coroutine[Any, Any, Any], context: Context) -> Any:
    """Run to the end, or until it is canceled."""
    main = _until_canceled(coroutine, context.request.cancellation)
    try:
        return asyncio.run(main)
    except asyncio.CancelledError as exc:
        context.check()
        raise ToolExecutionError("CancelledError: the tool has canceled itself") from exc
    finally:  # where a loop runs in this thread already, neither has begun
        main.close()
        coroutine.close()


async def _until_canceled(coroutine: Coroutine[Any, Any, _T], cancellation: Cancellation) -> _T:
    loop = asyncio.get_running_loop()
    task = loop.create_task(coroutine)

    def cancel() -> None:
        with suppress(RuntimeError):  # it has ended just now
            loop.call_soon_threadsafe(task.cancel)

    with cancellation.calling(cancel):
        return await task


def _said(error: Exception) -> str:
    """An error as a model gets to see it."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # of its own __str__
        text = type(error).__name__
    text = text if len(text) <= _MAX_MESSAGE else text[:_MAX_MESSAGE] + "…"
    return _printable(text.removesuffix(": "))


def _printable(text: str) -> str:
    """A text that can be written: a model, too, may have made half a character."""
    return text.encode("utf-8", "backslashreplace").decode()


def _as_json(name: str, result: Any) -> JSON:
    """What a function returned, as those who read it as JSON will see it."""
    if result is None or (type(result) is str and result.isascii()):
        return result
    try:
        return parse_json(encode_json(result))
    except (InvalidEventError, ValueError) as exc:
        raise ToolExecutionError(f"result of tool {name!r} is unusable: {exc}") from exc


# -- Endpoints over HTTP ---------------------------------------------------------------------------


class HTTPTools:
    """Endpoints over HTTP as tools. Safe to use from any thread.

    A call is a POST of its arguments, as JSON, to the URL that was registered. A redirect is
    followed (307 and 308) as long as it leads to the same origin: neither key nor arguments go
    elsewhere. Nothing that the model writes gets into the URL or the headers, but for a hash of the
    call in ``Idempotency-Key``.

    Args:
        api_key: The bearer token, or a callable that gives it for each attempt. It goes to every
            tool that has none of its own.
        timeout: Seconds for an attempt; ``None`` is no limit.
        max_size: The most bytes that an answer may have.
        headers: Headers of every request.
        session: A :class:`requests.Session` to use, with its proxies and adapters. With one a
            canceled call may go on until the answer begins.

    Raises:
        ConfigurationError: An argument cannot work.

    Example:
        >>> tools = HTTPTools(api_key="secret")
        >>> tools.register("weather", "https://tools.example/weather")
        >>> tools
        <HTTPTools weather>
        >>> tools.close()
    """

    def __init__(
        self,
        *,
        api_key: str | Callable[[], str] | None = None,
        timeout: float | None = 30.0,
        max_size: int = _MAX_SIZE,
        headers: Mapping[str, str] | None = None,
        session: requests.Session | None = None,
    ) -> None:
        check_kind("session", session, (requests.Session, type(None)), "a requests.Session")
        check_kind("max_size", max_size, (int,), "an int")
        if max_size < 1:
            raise ConfigurationError(f"max_size must be > 0 bytes, got {shown(max_size)}")
        self._api_key = _checked_key(api_key)
        self._max_size = max_size
        self._registry: _Registry[_Endpoint] = _Registry()
        self._closing = Cancellation()
        common = {"Accept": "application/json", "User-Agent": f"reasoning-sdk/{__version__}"}
        self._transport = _StayingTransport(
            headers={**common, **check_headers(headers or {})}, timeout=timeout, session=session
        )

    def __repr__(self) -> str:
        return f"<HTTPTools {self._registry}>"

    def __enter__(self) -> "HTTPTools":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all calls, in whatever thread."""
        self._transport.close()
        self._closing.cancel()

    def register(
        self,
        name: str,
        url: str,
        *,
        description: str = "",
        parameters: Mapping[str, Any] | None = None,
        api_key: str | Callable[[], str] | None = None,
        timeout: float | None = None,
        idempotent: bool = False,
        strict: bool = False,
    ) -> None:
        """Make an endpoint a tool.

        Args:
            name: The tool's name.
            url: Where its arguments are posted to; it may have a query.
            description: What it does.
            parameters: The JSON schema of its arguments; they are not checked here.
            api_key: Its own bearer token, or a callable that gives it; ``""`` sends none.
            timeout: Seconds for an attempt, in place of those for all.
            idempotent: Whether it may be called again when nobody knows whether it was called.
                Then transport errors, 429 and 5xx are retried twice.
            strict: Whether the model has to keep to the schema.

        Raises:
            ConfigurationError: There is a tool of this name, or an argument cannot work.
        """
        check_seconds("timeout", timeout)
        url = check_url("url", url, with_query=True)
        key = self._api_key if api_key is None else _checked_key(api_key)
        schema = ToolSchema(name, description, strict=strict, idempotent=idempotent)
        if parameters is not None:
            schema = attrs.evolve(schema, parameters=parameters)
        self._registry.add(
            schema, _Endpoint(name, url, key, timeout, _THRICE if idempotent else _ONCE)
        )

    def tools(self, ctx: RequestContext) -> list[ToolSchema]:
        """All of them."""
        return self._registry.schemas()

    def execute(
        self, name: str, call_id: str, arguments: Mapping[str, Any], ctx: RequestContext
    ) -> JSON:
        """Call an endpoint.

        Returns:
            The JSON of its answer; ``None`` if that is empty, ``{"result": text}`` if it is no
            JSON.

        Raises:
            ToolNotFoundError: There is none of this name.
            ToolArgumentsError: The arguments cannot be written as JSON.
            ToolTimeoutError: It did not answer in time.
            ToolExecutionError: It could not be asked, answered with an error, with a redirect to
                another origin, or with too much.
            LoopCanceledError: The response was canceled.
        """
        endpoint = self._registry.find(name)
        try:
            body = encode_json(arguments)
        except InvalidEventError as exc:
            raise ToolArgumentsError(str(exc)) from exc
        stop = Cancellation()
        with ctx.cancellation.calling(stop.cancel), self._closing.calling(stop.cancel):
            try:
                return _content(self._post(endpoint, call_id, body, stop))
            except ToolError:
                raise
            except ReasoningError as exc:
                if ctx.cancellation.canceled:
                    canceled = f"the call of tool {name!r} was canceled"
                    raise LoopCanceledError(canceled) from exc
                timed_out = isinstance(exc, RequestTimeoutError)
                kind = ToolTimeoutError if timed_out else ToolExecutionError
                raise kind(f"tool {name!r} failed: {exc}") from exc

    def _post(self, endpoint: "_Endpoint", call_id: str, body: bytes, stop: Cancellation) -> Answer:
        retries = Retries(endpoint.retry, time.monotonic())
        while True:
            try:
                return self._attempt(endpoint, call_id, body, stop)
            except (TransportError, APIStatusError) as exc:
                if stop.canceled or not is_passing(exc, frozenset({429})):
                    raise
                asked = getattr(exc, "retry_after", None)
                delay = retries.next_delay(time.monotonic(), asked)
                if delay is None:
                    raise
                log.info("retry %d in %.3g s: %s", retries.attempts, delay, exc)
            stop.wait(delay)

    def _attempt(
        self, endpoint: "_Endpoint", call_id: str, body: bytes, stop: Cancellation
    ) -> Answer:
        if stop.canceled:
            raise StateError("the call was canceled")
        exchange = _Visit(None)
        with (
            stop.calling(exchange.abort),
            self._transport.stream(
                "POST",
                endpoint.url,
                body=body,
                headers=endpoint.headers(call_id, body),
                timeout=endpoint.timeout,
                retry=False,
                exchange=exchange,
            ) as stream,
        ):
            return stream.read_all(self._max_size)


@attrs.frozen
class _Endpoint:
    name: str
    url: str = attrs.field(repr=False)
    api_key: _Key = attrs.field(repr=False)
    timeout: float | None
    retry: RetryPolicy

    def headers(self, call_id: str, body: bytes) -> dict[str, str]:
        """Those of one call, the same on every try."""
        # Some servers number the calls of each response anew: an id alone is not unique.
        call = f"{self.name}\n{call_id}\n".encode("utf-8", "surrogatepass") + body
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": hashlib.sha256(call).hexdigest(),
        }
        key = self._key()
        return {**headers, "Authorization": f"Bearer {key}"} if key else headers

    def _key(self) -> str | None:
        if not callable(self.api_key):
            return self.api_key
        try:
            key = self.api_key()
        except Exception as exc:  # whose text may tell secrets
            failed = f"api_key of tool {self.name!r} has raised a {type(exc).__name__}"
            raise ToolExecutionError(failed) from exc
        check_kind("what api_key gives", key, (str, type(None)), "a str")
        return key


class _Visit(Exchange):
    """An exchange that knows the origin where it began."""

    home: str | None = None


class _StayingTransport(HTTPTransport):
    """A transport that sends nothing to another origin than the one that was asked."""

    def _send(
        self,
        session: requests.Session,
        prepared: requests.PreparedRequest,
        exchange: Exchange,
        hide: Hide,
    ) -> HTTPStream:
        where = origin(str(prepared.url))
        assert isinstance(exchange, _Visit)
        if exchange.home not in (None, where):
            raise ToolExecutionError(f"a redirect to {where} is not followed")
        exchange.home = where
        return super()._send(session, prepared, exchange, hide)


def _checked_key(key: _Key) -> _Key:
    if callable(key):
        return key
    check_kind("api_key", key, (str, type(None)), "a str or a callable that gives one")
    check_headers({"Authorization": f"Bearer {key}"} if key else {})
    return key


def _content(answer: Answer) -> JSON:
    """What an endpoint has answered: JSON, else text."""
    if not answer.body:
        return None
    try:
        content = parse_json(answer.body)
        encode_json(content)  # which refuses the NaN that the parser takes
    except (ValueError, InvalidEventError):
        return {"result": _text(answer)}
    return content


def _text(answer: Answer) -> str:
    found = re.search(r"charset=\"?([\w.:-]+)", answer.headers.get("content-type", ""))
    with suppress(LookupError, ValueError):
        return answer.body.decode(found[1] if found else "utf-8")
    return answer.body.decode("utf-8", "replace")


# -- Agents, and several executors -----------------------------------------------------------------


class AgentTools:
    """Agents as tools: the loop itself calls them. Safe to use from any thread.

    Example:
        >>> tools = AgentTools()
        >>> tools.register("researcher", description="Finds out about a subject.")
        >>> tools
        <AgentTools researcher>
    """

    def __init__(self) -> None:
        self._registry: _Registry[None] = _Registry()

    def __repr__(self) -> str:
        return f"<AgentTools {self._registry}>"

    def register(
        self,
        name: str,
        *,
        description: str,
        instructions: str = "",
        model: str | None = None,
        tools: Sequence[str] | None = None,
        parameters: Mapping[str, Any] | None = None,
        strict: bool = False,
    ) -> None:
        """Make an agent a tool.

        Args:
            name: The tool's name.
            description: What the agent is good for.
            instructions: Its system message; the description where there is none.
            model: Its model; that of the response where there is none.
            tools: The names of the tools that it may call; ``None`` is all, itself included.
            parameters: The JSON schema of its arguments: a text, ``input``, where there is none.
            strict: Whether the model has to keep to the schema.

        Raises:
            ConfigurationError: There is a tool of this name, or an argument cannot work.
        """
        if tools is not None:
            if isinstance(tools, str) or not all(isinstance(tool, str) for tool in tools):
                raise ConfigurationError(f"tools must be names of tools, got {shown(tools)}")
            tools = tuple(tools)
        schema = AgentSchema(
            name,
            description,
            _INPUT if parameters is None else parameters,
            strict,
            instructions=instructions,
            model=model,
            tools=tools,
        )
        self._registry.add(schema, None)

    def tools(self, ctx: RequestContext) -> list[ToolSchema]:
        """All of them."""
        return self._registry.schemas()

    def execute(
        self, name: str, call_id: str, arguments: Mapping[str, Any], ctx: RequestContext
    ) -> JSON:
        """Refuse: only a loop can call an agent.

        Raises:
            ToolNotFoundError: There is none of this name.
            ToolExecutionError: There is.
        """
        self._registry.find(name)
        raise ToolExecutionError(f"agent {name!r} can only be called by a response loop")


class CombinedTools:
    """Several executors as one. Safe to use from any thread.

    Args:
        executors: Executors whose tools have different names. Who has given them closes them.

    Raises:
        ConfigurationError: One of them is no executor.
    """

    def __init__(self, *executors: ToolExecutor) -> None:
        for executor in executors:
            check_kind("executor", executor, (ToolExecutor,), "a ToolExecutor")
        self._executors = executors
        # Contexts cannot be hashed. What is kept for one goes with it.
        self._known: dict[int, tuple[weakref.ref[RequestContext], dict[str, ToolExecutor]]] = {}

    def __repr__(self) -> str:
        return f"<CombinedTools {' '.join(map(repr, self._executors))}>"

    def tools(self, ctx: RequestContext) -> list[ToolSchema]:
        """Those of all.

        Raises:
            ConfigurationError: Two of them have a tool of the same name.
        """
        return self._look_up(ctx)[0]

    def execute(
        self, name: str, call_id: str, arguments: Mapping[str, Any], ctx: RequestContext
    ) -> JSON:
        """Call a tool of the executor that has it.

        Raises:
            ToolNotFoundError: None has it.
            ConfigurationError: Two of them have a tool of the same name.
            ToolError: As the executor says.
        """
        ref, owners = self._known.get(id(ctx), (None, {}))
        if ref is None or ref() is not ctx or name not in owners:
            owners = self._look_up(ctx)[1]
        if name not in owners:
            raise _not_found(name, owners)
        return owners[name].execute(name, call_id, arguments, ctx)

    def _look_up(self, ctx: RequestContext) -> tuple[list[ToolSchema], dict[str, ToolExecutor]]:
        schemas, owners = [], dict[str, ToolExecutor]()
        for executor in self._executors:
            for schema in executor.tools(ctx):
                other = owners.setdefault(schema.name, executor)
                if other is not executor:
                    raise ConfigurationError(
                        f"tool {schema.name!r} is in both {other!r} and {executor!r}"
                    )
                schemas.append(schema)
        key, known = id(ctx), self._known
        known[key] = weakref.ref(ctx, lambda _: known.pop(key, None)), owners
        return schemas, owners


class _Registry(Generic[_T]):
    """Tools by name, in the order in which they came. Safe to use from any thread."""

    def __init__(self) -> None:
        # One C call adds to it, and one copies it.
        self._tools: dict[str, tuple[ToolSchema, _T]] = {}

    def __str__(self) -> str:
        return " ".join(self._tools.copy()) or "EMPTY"

    def add(self, schema: ToolSchema, tool: _T) -> None:
        if not _NAME.fullmatch(schema.name):
            raise ConfigurationError(
                f"name of a tool must be 1 to 64 of a-z, A-Z, 0-9, _ and -, got {schema.name!r}"
            )
        entry = schema, tool
        if self._tools.setdefault(schema.name, entry) is not entry:
            raise ConfigurationError(f"there is a tool {schema.name!r} already")

    def find(self, name: str) -> _T:
        try:
            return self._tools[name][1]
        except KeyError:
            raise _not_found(name, self._tools.copy()) from None

    def schemas(self) -> list[ToolSchema]:
        return [schema for schema, _ in self._tools.copy().values()]


def _not_found(name: str, names: Iterable[str]) -> ToolNotFoundError:
    near = difflib.get_close_matches(name[:_MAX_SHOWN], list(names))
    hint = f"; there is {' and '.join(map(repr, near))}" if near else ""
    return ToolNotFoundError(f"there is no tool {_told(name)}{hint}")


# -- What functions say of themselves --------------------------------------------------------------


def _code_of(function: Any) -> Any:
    """The function, or the method, that has the code of a callable."""
    while isinstance(function, functools.partial):
        function = function.func
    return function if inspect.isroutine(function) else type(function).__call__


def _name_of(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def _doc_of(function: Any) -> "_Doc":
    while isinstance(function, functools.partial):
        function = function.func
    return _Doc.of(inspect.getdoc(_code_of(function)) or inspect.getdoc(function))


def _is_generator(function: Any) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def _fixed(function: Any) -> Iterator[str]:
    """The parameters that :func:`functools.partial` has given a value."""
    while isinstance(function, functools.partial):
        yield from function.keywords
        function = function.func


def _signature(function: Callable[..., Any], label: str) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError) as exc:
        raise ConfigurationError(f"{label} has no signature that can be read: {exc}") from exc


def _hints(annotated: Any, label: str) -> dict[str, Any]:
    """Annotations, those that are texts resolved."""
    if not isinstance(annotated, type):
        code = inspect.unwrap(annotated)
        annotations = {**getattr(code, "__annotations__", {})}
        annotations.pop("return", None)  # which nobody needs to be able to resolve
        annotated = types.SimpleNamespace(
            __annotations__=annotations,
            __globals__=getattr(code, "__globals__", {}),
            __type_params__=getattr(code, "__type_params__", ()),
        )
    try:
        return typing.get_type_hints(annotated, include_extras=True)
    except Exception as exc:  # whatever the evaluation of an annotation raises
        raise ConfigurationError(f"annotations of {label} cannot be resolved: {exc}") from exc


def _injected(hint: Any) -> Any:
    """The class of context that a parameter asks for, if it does."""
    if hint in (Context, RequestContext):
        return hint
    kind, args = typing.get_origin(hint), typing.get_args(hint)
    if kind is Annotated:
        return _injected(args[0])
    if kind in (typing.Union, types.UnionType):
        found = {_injected(part) for part in args if part is not types.NoneType}
        return found.pop() if len(found) == 1 else None
    return None


@attrs.frozen
class _Doc:
    """What a docstring says.

    Args:
        description: What comes before and between the sections.
        parameters: What it says of each parameter, or attribute.
    """

    description: str
    parameters: Mapping[str, str]

    @classmethod
    def of(cls, text: str | None) -> "_Doc":
        body: list[str] = []
        parameters: dict[str, str] = {}
        for title, numpy, block in _blocks(inspect.cleandoc(text or "").splitlines()):
            words = title.split()
            if not words:
                body += block
            elif title in _PARAMETER_SECTIONS:
                parameters.update(_items(block, numpy))
            elif words[0] in _PARAMETER_FIELDS:
                parameters[words[-1].lstrip("*")] = _joined(block)
        return cls(re.sub(r"\n{3,}", "\n\n", "\n".join(body)).strip(), parameters)


_PARAMETER_SECTIONS = {
    *("args", "arguments", "parameters", "params", "attributes"),
    *("keyword args", "keyword arguments", "other parameters"),
}
_SECTIONS = {
    *_PARAMETER_SECTIONS,
    *("returns", "return", "yields", "yield", "receives", "raises", "raise", "except"),
    *("warns", "warnings", "warning", "see also", "note", "notes", "references", "source"),
    *("example", "examples", "todo", "todos", "methods"),
}
_PARAMETER_FIELDS = {"param", "parameter", "arg", "argument", "key", "keyword"}
_FIELDS = {
    *_PARAMETER_FIELDS,
    *("type", "raises", "raise", "except", "exception", "returns", "return", "rtype"),
    *("var", "ivar", "cvar", "vartype", "yields", "yield", "meta"),
}
_HEADER = re.compile(r"(\w[\w ]*):")
_UNDERLINE = re.compile(r"-{3,}|={3,}")
_FIELD = re.compile(r":(\w+)((?:\s+[^:]+)?):(?:\s+(.*))?")
_ITEM = re.compile(r"([\w*, ]+?)\s*(?:\(.*?\))?\s*:(?:\s+(.*))?")


def _blocks(lines: list[str]) -> Iterator[tuple[str, bool, list[str]]]:
    """Yield the parts of a docstring: title, whether it is of NumPy's style, and lines.

    The title is that of a section, in lower case, or a field of Sphinx; ``""`` has none.
    """
    title, numpy, block = "", False, list[str]()
    for line, after in itertools.zip_longest(lines, lines[1:], fillvalue=""):
        header, field = _HEADER.fullmatch(line.rstrip()), _FIELD.fullmatch(line)
        if line.strip().lower() in _SECTIONS and _UNDERLINE.fullmatch(after.strip()):
            yield title, numpy, block
            title, numpy, block = line.strip().lower(), True, []
        elif header and header[1].lower() in _SECTIONS:
            yield title, numpy, block
            title, numpy, block = header[1].lower(), False, []
        elif field and field[1] in _FIELDS:
            yield title, numpy, block
            title, numpy, block = field[1] + field[2], False, [field[3] or ""]
        elif title and not numpy and line[:1].strip():  # no longer indented
            yield title, numpy, block
            title, block = "", [line]
        elif not (numpy and _UNDERLINE.fullmatch(line.strip())):
            block.append(line)
    yield title, numpy, block


def _items(block: list[str], numpy: bool) -> dict[str, str]:
    """The parameters that a section describes."""
    found: dict[str, list[str]] = {}
    parts: list[str] = []
    for line in textwrap.dedent("\n".join(block)).splitlines():
        item = None if line[:1].isspace() else _ITEM.fullmatch(line)
        if numpy and line[:1].strip():
            names, parts = line.partition(":")[0], []
        elif item:
            names, parts = item[1], [item[2] or ""]
        else:
            parts.append(line)
            continue
        found.update((name.strip(" *"), parts) for name in names.split(","))
    return {name: _joined(parts) for name, parts in found.items()}


def _joined(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())


# -- Shapes ----------------------------------------------------------------------------------------

_Problems = list[tuple[str, str]]


class _Shape(Protocol):
    """What a value has to be.

    Attributes:
        schema: Its JSON schema.
        expected: What it is called in errors.
    """

    @property
    def schema(self) -> dict[str, Any]: ...

    @property
    def expected(self) -> str: ...

    def convert(self, value: Any, path: str, problems: _Problems) -> Any:
        """Read a value; what is wrong with it is added to the problems."""


@attrs.frozen
class _Leaf:
    """A value that has no parts, or none that matter.

    Args:
        expected: What it is called in errors.
        schema: Its JSON schema.
        read: Gives what a value stands for, or raises.
    """

    expected: str
    schema: dict[str, Any]
    read: Callable[[Any], Any]

    def convert(self, value: Any, path: str, problems: _Problems) -> Any:
        try:
            return self.read(value)
        except (TypeError, ValueError, LookupError, ArithmeticError):
            problems.append(_unlike(self, value, path))


@attrs.frozen
class _Items:
    """An array whose items are all alike."""

    item: _Shape
    make: Callable[[list[Any]], Any]
    expected = "a list"

    @property
    def schema(self) -> dict[str, Any]:
        items = self.item.schema
        return {"type": "array", "items": items} if items else {"type": "array"}

    def convert(self, value: Any, path: str, problems: _Problems) -> Any:
        if not isinstance(value, (list, tuple)):
            problems.append(_unlike(self, value, path))
            return None
        found = len(problems)
        items = [self.item.convert(v, f"{path}[{i}]", problems) for i, v in enumerate(value)]
        try:
            return self.make(items) if len(problems) == found else None
        except TypeError:  # lists and objects of Any, in a set
            problems.append((path, "must have items that can be in a set"))


@attrs.frozen
class _Places:
    """An array with a shape for each of its places."""

    places: Sequence[_Shape]

    @property
    def expected(self) -> str:
        return f"a list of {len(self.places)}"

    @property
    def schema(self) -> dict[str, Any]:
        size = len(self.places)
        array = {"type": "array", "minItems": size, "maxItems": size}
        return {**array, "prefixItems": [p.schema for p in self.places]} if size else array

    def convert(self, value: Any, path: str, problems: _Problems) -> Any:
        if not isinstance(value, (list, tuple)) or len(value) != len(self.places):
            problems.append(_unlike(self, value, path))
            return None
        pairs = enumerate(zip(self.places, value, strict=True))
        return tuple(place.convert(v, f"{path}[{i}]", problems) for i, (place, v) in pairs)


@attrs.frozen
class _Values:
    """An object with any members, whose values are all alike."""

    value: _Shape
    expected = "an object"

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": self.value.schema or True}

    def convert(self, value: Any, path: str, problems: _Problems) -> Any:
        if not isinstance(value, Mapping):
            problems.append(_unlike(self, value, path))
            return None
        return {n: self.value.convert(v, _member(path, n), problems) for n, v in value.items()}


@attrs.frozen
class _OneOf:
    """A value of one of several shapes; the first that fits is taken."""

    shapes: Sequence[_Shape]

    @property
    def expected(self) -> str:
        return " or ".join(dict.fromkeys(shape.expected for shape in self.shapes))

    @property
    def schema(self) -> dict[str, Any]:
        return _any_of([shape.schema for shape in self.shapes])

    def convert(self, value: Any, path: str, problems: _Problems) -> Any:
        inside: _Problems = []
        for shape in self.shapes:
            wrong: _Problems = []
            result = shape.convert(value, path, wrong)
            if not wrong:
                return result
            if wrong[0] != _unlike(shape, value, path):  # it is of this kind, but for its parts
                inside = inside or wrong
        problems += inside or [_unlike(self, value, path)]
        return None


@attrs.frozen
class _Property:
    """A member of an object.

    Args:
        shape: What it has to be.
        schema: Its JSON schema, with what is said of it here.
        required: Whether it has to be given.
        null_is_default: Whether ``null`` leaves it out, as nobody else can where all is required.
    """

    shape: _Shape
    schema: dict[str, Any]
    required: bool
    null_is_default: bool = False


@attrs.frozen
class _Object:
    """An object with the members that a function, or a class, has names for.

    Args:
        properties: These.
        make: Makes what the object stands for.
        rest: What takes all others, and their shape; ``None`` where there may be none.
        reserved: Names that those others must not have.
        description: What is said of it.
        strict: Whether all members are required.
    """

    properties: Mapping[str, _Property]
    make: Callable[[dict[str, Any]], Any]
    rest: tuple[str, _Shape] | None = None
    reserved: Iterable[str] = ()
    description: str = ""
    strict: bool = False
    expected = "an object"

    @property
    def schema(self) -> dict[str, Any]:
        known = self.properties.items()
        required = [name for name, part in known if part.required or self.strict]
        return {
            **({"description": self.description} if self.description else {}),
            "type": "object",
            "properties": {name: part.schema for name, part in known},
            **({"required": required} if required else {}),
            "additionalProperties": (self.rest[1].schema or True) if self.rest else False,
        }

    def convert(self, value: Any, path: str, problems: _Problems) -> Any:
        if not isinstance(value, Mapping):
            problems.append(_unlike(self, value, path))
            return None
        found = len(problems)
        given = self._known(value, path, problems)
        others = self._others(value, path, problems)
        if len(problems) > found:
            return None
        try:
            return self.make({**given, **others})
        except Exception as exc:  # what a class refuses by itself
            problems.append((path, f"is refused: {_said(exc)}"))

    def _known(self, value: Mapping[str, Any], path: str, problems: _Problems) -> dict[str, Any]:
        given = {}
        for name, part in self.properties.items():
            if name not in value:
                if part.required or self.strict:
                    problems.append((_member(path, name), "is missing"))
            elif value[name] is not None or not part.null_is_default:
                given[name] = part.shape.convert(value[name], _member(path, name), problems)
        return given

    def _others(self, value: Mapping[str, Any], path: str, problems: _Problems) -> dict[str, Any]:
        others = {}
        for name in value:
            if name in self.properties:
                continue
            if self.rest is None or name in self.reserved:
                problems.append((_member(path, name), "is not a parameter"))
            else:
                others[name] = self.rest[1].convert(value[name], _member(path, name), problems)
        return {self.rest[0]: others} if self.rest else {}


@attrs.frozen
class _Described:
    """A shape of which something more is said."""

    shape: _Shape
    description: str

    @property
    def expected(self) -> str:
        return self.shape.expected

    @property
    def schema(self) -> dict[str, Any]:
        return _with(self.shape.schema, {"description": self.description})

    def convert(self, value: Any, path: str, problems: _Problems) -> Any:
        return self.shape.convert(value, path, problems)


@attrs.define(eq=False)
class _Reference:
    """A shape that has a name, as it has itself for a part.

    Args:
        name: Its name among the schema's definitions.
        target: The shape, when it is known.
        used: Whether anything refers to it.
    """

    name: str
    target: _Shape | None = None
    used: bool = False

    @property
    def expected(self) -> str:
        return "an object" if self.target is None else self.target.expected

    @property
    def schema(self) -> dict[str, Any]:
        return {"$ref": f"#/$defs/{self.name}"}

    def convert(self, value: Any, path: str, problems: _Problems) -> Any:
        if self.target is not None:
            return self.target.convert(value, path, problems)
        problems.append(_unlike(self, value, path))  # it is being made: who asks has only null
        return None


def _listed(problems: _Problems) -> str:
    shown = [f"{path} {what}" for path, what in problems[:_MAX_PROBLEMS]]
    if len(problems) > len(shown):
        shown.append(f"and {len(problems) - len(shown)} more problems")
    return _printable("; ".join(shown))


def _unlike(shape: _Shape, value: Any, path: str) -> tuple[str, str]:
    return path, f"must be {shape.expected}, got {_told(value)}"


def _told(value: Any) -> str:
    """A value as the model that has written it is reminded of it."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    text = "null" if value is None else shown(value)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"


def _member(path: str, name: Any) -> str:
    plain = isinstance(name, str) and name.isidentifier() and len(name) <= _MAX_SHOWN
    return f"{path}.{name}" if plain else f"{path}[{_told(name)}]"


def _with(schema: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """A schema with more keys; some readers do not see those that stand beside a ``$ref``."""
    return {"anyOf": [schema], **more} if "$ref" in schema and more else {**schema, **more}


def _any_of(schemas: Sequence[dict[str, Any]]) -> dict[str, Any]:
    if {} in schemas:
        return {}
    if any(schema.keys() != {"type"} for schema in schemas):
        return {"anyOf": list(schemas)}
    names: list[str] = []
    for schema in schemas:
        names += [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    return {"type": list(dict.fromkeys(names))}


def _same(value: Any) -> Any:
    return value


def _read_int(value: Any) -> int:
    if isinstance(value, float) and value.is_integer():  # in JSON that is one
        return int(value)
    return int(_read_number(value)) if isinstance(value, int) else _refuse()


def _read_float(value: Any) -> float:
    number = float(_read_number(value))
    return number if math.isfinite(number) else _refuse()


def _read_number(value: Any) -> Any:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else _refuse()


def _read_decimal(value: Any) -> decimal.Decimal:
    if isinstance(value, str):
        return _read_text(_DECIMAL, decimal.Decimal, value)
    number = _read_number(value)
    return decimal.Decimal(number if isinstance(number, int) else repr(_read_float(number)))


def _read_text(pattern: "re.Pattern[str]", make: Callable[[str], _T], value: Any) -> _T:
    return make(value) if pattern.fullmatch(value) else _refuse()


def _read_datetime(text: str) -> datetime.datetime:
    """Read what RFC 3339 allows, and a time without an offset; old Pythons take less."""
    found = _DATETIME.fullmatch(text)
    assert found is not None
    day, hour, fraction, offset = found.groups(default="")
    offset = "+00:00" if offset in ("Z", "z") else offset
    fraction = f".{fraction[:6]:0<6}" if fraction else ""
    return datetime.datetime.fromisoformat(f"{day}T{hour}{fraction}{offset}")


def _read_time(text: str) -> datetime.time:
    return _read_datetime(f"2000-01-01T{text}").timetz()


def _refuse() -> Any:
    raise ValueError("it is something else")


_DAY, _HOUR = "[0-9]{4}-[0-9]{2}-[0-9]{2}", "[0-9]{2}:[0-9]{2}(?::[0-9]{2})?"
_FRACTION, _OFFSET = r"(?:\.([0-9]+))?", "([Zz]|[+-][0-9]{2}:[0-9]{2})?"
_DATE = re.compile(_DAY)
_TIME = re.compile(_HOUR + _FRACTION + _OFFSET)
_DATETIME = re.compile(f"({_DAY})[Tt ]({_HOUR}){_FRACTION}{_OFFSET}")
_UUID = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?")


def _text_leaf(
    expected: str, format: str, pattern: "re.Pattern[str]", make: Callable[[str], Any]
) -> _Leaf:
    read = functools.partial(_read_text, pattern, make)
    return _Leaf(expected, {"type": "string", "format": format}, read)


def _plain_leaf(expected: str, type_: str, kind: type) -> _Leaf:
    def read(value: Any) -> Any:
        return value if isinstance(value, kind) else _refuse()

    return _Leaf(expected, {"type": type_}, read)


_ANY = _Leaf("anything", {}, _same)
_NULL = _plain_leaf("null", "null", types.NoneType)
_LEAVES: dict[Any, _Shape] = {
    **dict.fromkeys((None, types.NoneType), _NULL),
    str: _plain_leaf("a str", "string", str),
    bool: _plain_leaf("a bool", "boolean", bool),
    int: _Leaf("an int", {"type": "integer"}, _read_int),
    float: _Leaf("a number", {"type": "number"}, _read_float),
    decimal.Decimal: _Leaf(
        "a number, or a str of one",
        {"anyOf": [{"type": "number"}, {"type": "string", "pattern": f"^{_DECIMAL.pattern}$"}]},
        _read_decimal,
    ),
    datetime.datetime: _text_leaf(
        "a date and time such as 2030-01-31T12:00:00Z", "date-time", _DATETIME, _read_datetime
    ),
    datetime.date: _text_leaf(
        "a date such as 2030-01-31", "date", _DATE, datetime.date.fromisoformat
    ),
    datetime.time: _text_leaf("a time such as 12:00:00Z", "time", _TIME, _read_time),
    uuid.UUID: _text_leaf("a UUID", "uuid", _UUID, uuid.UUID),
}
_ARRAYS: dict[Any, Callable[[list[Any]], Any]] = {
    **dict.fromkeys((list, abc.Sequence, abc.MutableSequence, abc.Iterable, abc.Collection), list),
    **dict.fromkeys((set, abc.Set, abc.MutableSet), set),
    frozenset: frozenset,
    tuple: tuple,
}
_OBJECTS = (dict, abc.Mapping, abc.MutableMapping)
_TYPE_NAMES = {str: "string", bool: "boolean", int: "integer", float: "number"}
_MARKS = {"Required", "NotRequired", "ReadOnly"}  # of typing, or of typing_extensions


class _Shapes:
    """Makes the shapes of one function.

    Args:
        strict: Whether the schema is to keep to what a strict mode asks: all members of an object
            are required, and there are no others.

    Source: "Structured Outputs" of the public Responses API, "Supported schemas".
    """

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        # Those that are being made, and those that have themselves for a part.
        self._references: dict[Any, _Reference] = {}

    def document(self, shape: _Shape) -> dict[str, Any]:
        """The schema of a shape, with its definitions."""
        targets = {ref.name: ref.target for ref in self._references.values() if ref.target}
        definitions = {name: target.schema for name, target in targets.items()}
        return {**shape.schema, **({"$defs": definitions} if definitions else {})}

    def object_of(
        self,
        signature: inspect.Signature,
        hints: Mapping[str, Any],
        docs: Mapping[str, str],
        label: str,
        *,
        make: Callable[[dict[str, Any]], Any] = _same,
        description: str = "",
        hidden: Iterable[str] = (),
    ) -> _Object:
        """The shape of what is called with the parameters of a signature.

        Args:
            signature: That of a function or a class.
            hints: Its annotations.
            docs: What is said of each parameter.
            label: What errors call it.
            make: Makes what the object stands for.
            description: What is said of it.
            hidden: Parameters that are none of the object's members.
        """
        properties, rest = dict[str, _Property](), None
        for name, parameter in signature.parameters.items():
            where, hint = f"parameter {name!r} of {label}", hints.get(name, Any)
            if name in hidden:
                continue
            if parameter.kind is parameter.VAR_POSITIONAL:
                raise ConfigurationError(f"{where} has no names for what it takes")
            if parameter.kind is parameter.VAR_KEYWORD:
                self._check_strict(where, "it takes any name")
                rest = name, self.of(hint, where)
            else:
                properties[name] = self._property(hint, parameter.default, docs.get(name), where)
        return _Object(properties, make, rest, hidden, description, self._strict)

    def of(self, hint: Any, where: str) -> _Shape:
        """The shape of a type.

        Args:
            hint: An annotation, resolved.
            where: What errors call its place.

        Raises:
            ConfigurationError: There is none.
        """
        kind, args = typing.get_origin(hint), typing.get_args(hint)
        if kind is Annotated:
            text, inside = _text_of(args), self.of(args[0], where)
            return _Described(inside, text) if text else inside
        if kind in (typing.Union, types.UnionType):
            return _OneOf([self.of(arg, where) for arg in args])
        if kind is Literal:
            return _choice(args, where)
        if _mark(hint):
            return self.of(args[0], where)
        if not isinstance(hint, abc.Hashable):
            raise _inexpressible(hint, where)
        return self._plain(hint, where) or self._container(kind or hint, args, where)

    def _plain(self, hint: Any, where: str) -> _Shape | None:
        if hint in _LEAVES:
            return _LEAVES[hint]
        if hint in (Any, object, inspect.Parameter.empty):
            self._check_strict(where, "it takes anything")
            return _ANY
        if _is_class(hint) and issubclass(hint, Enum):
            return _choice(hint, where)
        if isinstance(hint, dataclasses.InitVar):
            return self.of(hint.type, where)
        if hasattr(hint, "__supertype__"):  # of a NewType
            return self.of(hint.__supertype__, where)
        return None

    def _container(self, kind: Any, args: tuple[Any, ...], where: str) -> _Shape:
        if kind is tuple and args and args[-1] is not Ellipsis:
            self._check_strict(where, "it is a tuple of a fixed length")
            return _Places([self.of(arg, where) for arg in args if arg != ()])
        if kind in _ARRAYS:
            return _Items(self.of(args[0] if args else Any, where), _ARRAYS[kind])
        if kind in _OBJECTS:
            self._check_strict(where, "it takes any name")
            if args and args[0] not in (str, Any):
                raise ConfigurationError(f"{where} must have keys that are str, got {args[0]}")
            return _Values(self.of(args[1] if args else Any, where))
        if args:  # of a generic class
            raise _inexpressible(kind, where)
        return self._named(kind, where)

    def _named(self, hint: Any, where: str) -> _Shape:
        if (reference := self._references.get(hint)) is not None:
            reference.used = True
            return reference
        reference = self._references[hint] = _Reference(self._free_name(hint))
        reference.target = shape = self._by_name(hint, where)
        if reference.used:
            return reference
        del self._references[hint]
        return shape

    def _free_name(self, hint: Any) -> str:
        name, taken = getattr(hint, "__name__", "type"), self._references.values()
        while any(name == reference.name for reference in taken):
            name += "_"
        return name

    def _by_name(self, hint: Any, where: str) -> _Shape:
        if hasattr(hint, "__value__"):  # of a type statement
            return self.of(hint.__value__, where)
        if _is_class(hint) and issubclass(hint, dict) and hasattr(hint, "__required_keys__"):
            return self._typed_dict(hint)
        if _is_class(hint) and (attrs.has(hint) or dataclasses.is_dataclass(hint)):
            return self._class(hint)
        raise _inexpressible(hint, where)

    def _typed_dict(self, kind: Any) -> _Object:
        label, doc = kind.__name__, _doc_of_class(kind)
        properties = {
            name: self._property(
                hint,
                inspect.Parameter.empty if _is_needed(kind, name, hint) else attrs.NOTHING,
                doc.parameters.get(name),
                f"key {name!r} of {label}",
            )
            for name, hint in _hints(kind, label).items()
        }
        return _Object(properties, dict, description=doc.description, strict=self._strict)

    def _class(self, kind: Any) -> _Object:
        label, doc = kind.__name__, _doc_of_class(kind)
        signature, hints = _signature(kind, label), _hints(kind, label)
        if attrs.has(kind):
            hints = {f.alias: hints.get(f.name, f.type or Any) for f in attrs.fields(kind)}
        make = functools.partial(_apply, kind, signature)
        return self.object_of(
            signature, hints, doc.parameters, label, make=make, description=doc.description
        )

    def _property(self, hint: Any, default: Any, doc: str | None, where: str) -> _Property:
        if typing.get_origin(hint) is Annotated:
            doc = _text_of(typing.get_args(hint)) or doc
            hint = typing.get_args(hint)[0]
        shape, required = self.of(hint, where), default is inspect.Parameter.empty
        if default is None and not _takes_null(shape):
            shape = _OneOf([shape, _NULL])
        more = {"description": doc} if doc else {}
        if not self._strict:
            return _Property(shape, _with(shape.schema, {**more, **_default(default)}), required)
        null_is_default = not required and not _takes_null(shape)
        schema = _any_of([shape.schema, _NULL.schema]) if null_is_default else shape.schema
        return _Property(shape, _with(schema, more), required, null_is_default)

    def _check_strict(self, where: str, reason: str) -> None:
        if self._strict:
            raise ConfigurationError(f"{where} cannot be strict: {reason}")


def _inexpressible(hint: Any, where: str) -> ConfigurationError:
    return ConfigurationError(f"{where} is annotated with what JSON cannot express: {hint!r}")


def _is_class(hint: Any) -> bool:
    return isinstance(hint, type) and typing.get_origin(hint) is None


def _doc_of_class(kind: Any) -> _Doc:
    text = vars(kind).get("__doc__") or ""
    return _Doc.of("" if text.startswith(f"{kind.__name__}(") else text)  # a dataclass's own


def _mark(hint: Any) -> str:
    """What a ``TypedDict`` says of a key, as ``"NotRequired"``."""
    name = str(typing.get_origin(hint)).rpartition(".")[2]
    return name if name in _MARKS else ""


def _is_needed(kind: Any, name: str, hint: Any) -> bool:
    while mark := _mark(hint):  # annotations that were texts are not in __required_keys__
        if mark != "ReadOnly":
            return mark == "Required"
        hint = typing.get_args(hint)[0]
    return name in kind.__required_keys__


def _text_of(annotated: Sequence[Any]) -> str:
    return next((text for text in annotated[1:] if isinstance(text, str)), "")


def _takes_null(shape: _Shape) -> bool:
    problems: _Problems = []
    shape.convert(None, "$", problems)
    return not problems


def _default(value: Any) -> dict[str, Any]:
    """What a schema says of a default, where that can be JSON."""
    if value is inspect.Parameter.empty or value is attrs.NOTHING:
        return {}
    try:
        return {"default": parse_json(encode_json(value))}
    except (InvalidEventError, ValueError):
        return {}


def _choice(values: Iterable[Any], where: str) -> _Leaf:
    """One of the values of an enum, or of a ``Literal``."""
    members = [(v.value if isinstance(v, Enum) else v, v) for v in values]
    for value, _ in members:
        if value is not None and type(value) not in _TYPE_NAMES:
            raise _inexpressible(value, where)
    names = dict.fromkeys(_TYPE_NAMES.get(type(value), "null") for value, _ in members)
    found = {(isinstance(value, bool), value): member for value, member in members}
    plain = [value for value, _ in members]
    more = ", …" if len(plain) > _MAX_PROBLEMS else ""
    return _Leaf(
        f"one of {', '.join(map(_told, plain[:_MAX_PROBLEMS]))}{more}",
        {"type": next(iter(names)) if len(names) == 1 else list(names), "enum": plain},
        lambda value: found[isinstance(value, bool), value],
    )
