"""Python functions as tools."""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Annotated, Any, TypeVar, overload

import attrs

from reasoning_sdk._core.docstrings import Docstring
from reasoning_sdk._core.shapes import Object, read
from reasoning_sdk._core.signatures import Shapes, apply, hints_of, signature_of
from reasoning_sdk._core.wording import said
from reasoning_sdk._io import workers
from reasoning_sdk._io.thread import Signal
from reasoning_sdk.arguments import check_kind, check_seconds, shown
from reasoning_sdk.cancellation import Cancellation
from reasoning_sdk.encoding import encode_json, parse_json
from reasoning_sdk.errors import (
    ConfigurationError,
    InvalidEventError,
    LoopCanceledError,
    ToolError,
    ToolExecutionError,
    ToolTimeoutError,
)
from reasoning_sdk.steps import RequestContext, ToolSchema
from reasoning_sdk.tools.registry import Registry
from reasoning_sdk.typing import JSON

__all__ = ["Context", "FunctionTools"]

_F = TypeVar("_F", bound=Callable[..., Any])


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
        check_kind("functions", functions, (Iterable,), "a list of functions")
        self._registry: Registry[_Function] = Registry()
        for place, function in enumerate(functions):
            _check_callable(f"functions[{place}]", function)
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
        given = read(function.parameters, arguments)
        try:
            result = function.call(given, Context(name, call_id, ctx))
        except ToolError:
            raise
        except Exception as exc:
            if isinstance(exc, LoopCanceledError) and ctx.cancellation.canceled:
                raise
            raise ToolExecutionError(said(exc)) from exc
        return _as_json(name, result)


@attrs.frozen
class _Function:
    """A function that is a tool, and how its arguments are read."""

    function: Callable[..., Any]
    signature: inspect.Signature
    timeout: float | None
    parameters: Object
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
        signature, hints = signature_of(function, label), hints_of(_code_of(function), label)
        injected = {n: kind for n, hint in hints.items() if (kind := _injected(hint))}
        hidden = {*injected, *_fixed(function)}
        shapes = Shapes(strict)
        parameters = shapes.object_of(
            signature, hints, _doc_of(function).parameters, label, hidden=hidden
        )
        schema = shapes.document(parameters)
        return cls(function, signature, timeout, parameters, schema, injected)

    def call(self, given: dict[str, Any], context: Context) -> Any:
        """What comes of a call, made on another thread if it is not to take for ever."""
        call = functools.partial(self._call, given)
        return call(context) if self.timeout is None else _within(self.timeout, call, context)

    def _call(self, given: dict[str, Any], context: Context) -> Any:
        injected = {
            name: context if kind is Context else context.request
            for name, kind in self.injected.items()
        }
        result = apply(self.function, self.signature, {**given, **injected})
        return _run(result, context) if inspect.iscoroutine(result) else result


def _check_callable(where: str, function: Any) -> None:
    if not callable(function):
        raise ConfigurationError(f"{where} must be a function, got {shown(function)}")


def _within(seconds: float, call: Callable[[Context], Any], context: Context) -> Any:
    """Call on another thread, and wait for the end, for so long and until it is canceled."""
    own, ended, ends = Cancellation(), Signal(), list[Callable[[], Any]]()
    request = attrs.evolve(context.request, cancellation=own)

    def run() -> None:
        try:
            result = call(attrs.evolve(context, request=request))
            ends.append(lambda: result)
        except BaseException as exc:
            ends.append(functools.partial(_throw, exc))
        ended.give()

    try:
        with context.request.cancellation.calling(own.cancel), own.calling(ended.give):
            workers.start(run)
            ended.take(seconds)
        if ends:  # by itself: what it does when it is told to stop comes too late
            return ends.pop()()
    finally:
        own.cancel()
    context.check()
    raise ToolTimeoutError(f"tool {context.name!r} gave no result in {seconds:g} seconds")


def _throw(error: BaseException) -> Any:
    raise error


def _run(coroutine: Coroutine[Any, Any, Any], context: Context) -> Any:
    """Run to the end, or until it is canceled."""
    from reasoning_sdk.tools import coroutines  # noqa: PLC0415  # asyncio is slow to import

    try:
        return coroutines.run(coroutine, context.request.cancellation)
    except coroutines.CancelledError as exc:
        context.check()
        raise ToolExecutionError("CancelledError: the tool has canceled itself") from exc


def _as_json(name: str, result: Any) -> JSON:
    """What a function returned, as those who read it as JSON will see it."""
    if result is None or (type(result) is str and result.isascii()):
        return result
    try:
        return parse_json(encode_json(result))
    except (InvalidEventError, ValueError) as exc:
        raise ToolExecutionError(f"result of tool {name!r} is unusable: {exc}") from exc


def _inside(function: Any) -> Any:
    """What all of :func:`functools.partial` around a callable leaves."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _code_of(function: Any) -> Any:
    """The function, or the method, that has the code of a callable."""
    function = _inside(function)
    return function if inspect.isroutine(function) else type(function).__call__


def _name_of(function: Any) -> str:
    function = _inside(function)
    return getattr(function, "__name__", type(function).__name__)


def _doc_of(function: Any) -> Docstring:
    function = _inside(function)
    return Docstring.of(inspect.getdoc(_code_of(function)) or inspect.getdoc(function))


def _is_generator(function: Any) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def _fixed(function: Any) -> Iterator[str]:
    """The parameters that :func:`functools.partial` has given a value."""
    while isinstance(function, functools.partial):
        yield from function.keywords
        function = function.func


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
