"""Functions as tools: registration, calls, results, errors, timeouts and cancellation."""

import asyncio
import contextvars
import datetime
import functools
import math
import threading
import types
from typing import Annotated, Any

import pytest

from reasoning_sdk.cancellation import Cancellation
from reasoning_sdk.errors import (
    ConfigurationError,
    LoopCanceledError,
    ToolArgumentsError,
    ToolError,
    ToolExecutionError,
    ToolNotFoundError,
    ToolTimeoutError,
)
from reasoning_sdk.steps import RequestContext, ToolSchema
from reasoning_sdk.tools import Context, FunctionTools
from reasoning_sdk.typing import ToolExecutor
from tests.support.shapes import Color, Even, Point
from tests.support.threads import InThread

CTX = RequestContext(model="m")


def made(function, **options):
    """A registry with one function in it."""
    tools = FunctionTools()
    tools.register(function, name="f", **options)
    return tools


def run(function, arguments=None, ctx=CTX, **options):
    return made(function, **options).execute("f", "call_1", arguments or {}, ctx)


def refusal(function, arguments):
    with pytest.raises(ToolArgumentsError) as caught:
        run(function, arguments)
    return str(caught.value)


# -- registration ------------------------------------------------------------------------------


def test_a_function_is_registered_by_a_decorator_with_and_without_arguments_and_by_a_call():
    tools = FunctionTools()

    @tools.register
    def one() -> int:
        """The first."""
        return 1

    @tools.register(name="second", description="Mine.", idempotent=True, timeout=5.0, strict=True)
    def two() -> int:
        """The second."""
        return 2

    def three():
        return 3

    assert tools.register(three) is three
    assert (one(), two()) == (1, 2)
    schemas = {schema.name: schema for schema in tools.tools(CTX)}
    assert list(schemas) == ["one", "second", "three"]
    assert schemas["one"] == ToolSchema(
        "one", "The first.", {"type": "object", "properties": {}, "additionalProperties": False}
    )
    assert (schemas["second"].description, schemas["second"].idempotent) == ("Mine.", True)
    assert schemas["second"].strict
    assert schemas["three"].description == ""
    assert [tools.execute(name, "c", {}, CTX) for name in schemas] == [1, 2, 3]


def test_functions_can_be_given_at_once_and_the_schemas_are_made_once():
    def f(): ...
    def g(): ...

    tools = FunctionTools([f, g])
    assert isinstance(tools, ToolExecutor)
    assert repr(tools) == "<FunctionTools f g>"
    assert repr(FunctionTools()) == "<FunctionTools EMPTY>"
    assert tools.tools(CTX)[0] is tools.tools(RequestContext())[0]


def test_a_second_tool_of_the_same_name_is_refused():
    tools = FunctionTools([len_of])
    with pytest.raises(ConfigurationError, match=r"^there is a tool 'len_of' already$"):
        tools.register(len_of)


def len_of(text: str) -> int:
    return len(text)


@pytest.mark.parametrize("name", ["", "a b", "größe", "x" * 65, "<lambda>"])
def test_a_name_that_no_upstream_takes_is_refused(name):
    with pytest.raises(ConfigurationError, match="name of a tool must"):
        FunctionTools().register(len_of, name=name)


@pytest.mark.parametrize(
    "timeout", [0, -1, math.nan, True, "5"], ids=["zero", "negative", "nan", "bool", "str"]
)
def test_a_timeout_that_is_no_time_is_refused(timeout):
    with pytest.raises(ConfigurationError, match="timeout must be > 0 seconds or None"):
        FunctionTools().register(len_of, timeout=timeout)


def generator(x: int):
    yield x


async def async_generator(x: int):
    yield x


class Generating:
    def __call__(self):
        yield 1


UNFIT = [
    (generator, "tool 'f' must not be a generator function"),
    (async_generator, "tool 'f' must not be a generator function"),
    (Generating(), "tool 'f' must not be a generator function"),
    (Point, "tool 'f' must be a function, got <class"),
    (3, "tool 'f' must be a function, got 3"),
]


@pytest.mark.parametrize(("function", "message"), UNFIT)
def test_what_cannot_be_a_tool_is_refused_when_it_is_registered(function, message):
    with pytest.raises(ConfigurationError) as caught:
        made(function)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        (5, "functions must be a list of functions, got an int"),
        (len_of, "functions must be a list of functions, got a function"),
        ("ab", "functions[0] must be a function, got 'a'"),
        ([len_of, None], "functions[1] must be a function, got None"),
        ([Point], "tool 'Point' must be a function, got <class"),
    ],
)
def test_what_is_no_list_of_functions_is_refused(functions, message):
    with pytest.raises(ConfigurationError) as caught:
        FunctionTools(functions)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"idempotent": 5}, "idempotent of tool 'len_of' must be a bool, got an int"),
        ({"strict": "yes"}, "strict of tool 'len_of' must be a bool, got a str"),
        ({"description": 5}, "description of tool 'len_of' must be a str, got an int"),
        ({"name": 5}, "name of a tool must be a str, got an int"),
    ],
)
def test_an_option_of_a_tool_that_cannot_work_is_refused(options, message):
    tools = FunctionTools()
    for register in (functools.partial(tools.register, **options), tools.register(**options)):
        with pytest.raises(ConfigurationError) as caught:
            register(len_of)
        assert str(caught.value) == message
    assert repr(tools) == "<FunctionTools EMPTY>"


def test_what_a_docstring_says_is_in_the_schema():
    def f(city: str, unit: str = "C"):
        """Tell the weather.

        Args:
            city: The city.
        """

    schema = made(f).tools(CTX)[0]
    assert schema.description == "Tell the weather."
    assert schema.parameters["properties"] == {
        "city": {"type": "string", "description": "The city."},
        "unit": {"type": "string", "default": "C"},
    }


# -- what is called ------------------------------------------------------------------------------


class Thermometer:
    """Measures."""

    offset = 1

    def measure(self, degrees: int) -> int:
        """Measure it."""
        return degrees + self.offset

    @classmethod
    def of_class(cls, degrees: int) -> int:
        return degrees + cls.offset

    @staticmethod
    def of_nothing(degrees: int) -> int:
        return degrees + 1

    def __call__(self, degrees: int) -> int:
        return degrees + self.offset


def add(a: int, b: int = 1, *, c: int = 0) -> int:
    """Add."""
    return a + b + c


@functools.lru_cache
def cached(degrees: int) -> int:
    return degrees + 1


@functools.wraps(Thermometer.of_nothing)
def wrapping(*args, **kwargs):
    return Thermometer.of_nothing(*args, **kwargs)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (Thermometer().measure, "measure"),
        (Thermometer.of_class, "of_class"),
        (Thermometer.of_nothing, "of_nothing"),
        (Thermometer(), "Thermometer"),
        (cached, "cached"),
        (wrapping, "of_nothing"),
    ],
)
def test_methods_and_other_callables_are_called(function, name):
    tools = FunctionTools([function])
    assert tools.tools(CTX)[0].name == name
    assert tools.tools(CTX)[0].parameters["properties"] == {"degrees": {"type": "integer"}}
    assert tools.execute(name, "c", {"degrees": 20}, CTX) == 21


def test_what_partial_has_fixed_is_not_for_the_model():
    tools = FunctionTools([functools.partial(functools.partial(add, 1), c=5)])
    schema = tools.tools(CTX)[0]
    assert (schema.name, schema.description) == ("add", "Add.")
    assert schema.parameters["properties"] == {"b": {"type": "integer", "default": 1}}
    assert tools.execute("add", "c", {}, CTX) == 7
    with pytest.raises(ToolArgumentsError, match="c is not a parameter"):
        tools.execute("add", "c", {"c": 6}, CTX)


def test_what_is_fixed_or_injected_cannot_be_given_to_a_function_that_takes_any_name_either():
    def f(*, user: str, ctx: Context, **rest: Any):
        return [user, ctx.call_id]

    bound = functools.partial(f, user="me")
    assert run(bound) == ["me", "call_1"]
    text = "$.user is not a parameter; $.ctx is not a parameter"
    assert refusal(bound, {"user": "you", "ctx": {}}) == text
    assert refusal(functools.partial(lambda **rest: rest, user=1), {"user": 2}) == (
        "$.user is not a parameter"
    )


def test_a_parameter_can_ask_for_the_context_which_the_model_does_not_see():
    def f(
        a: int, ctx: Context, request: RequestContext | None = None, more: "Context | None" = None
    ):
        assert more == ctx
        assert request is ctx.request is CTX
        return [a, ctx.name, ctx.call_id, ctx.canceled, ctx.check()]

    assert list(made(f).tools(CTX)[0].parameters["properties"]) == ["a"]
    assert run(f, {"a": 1}) == [1, "f", "call_1", False, None]


def test_an_annotated_context_is_injected_and_a_list_of_them_is_no_parameter():
    def f(ctx: Annotated[Context, "mine"]):
        return ctx.call_id

    def several(contexts: list[Context]): ...

    assert run(f) == "call_1"
    with pytest.raises(ConfigurationError, match="parameter 'cancellation' of RequestContext"):
        made(several)


def test_an_async_function_is_run_to_its_end():
    async def f(a: int) -> int:
        await asyncio.sleep(0)
        return a + 1

    class Callable:
        async def __call__(self, a: int) -> int:
            return await f(a)

    for function in (f, functools.partial(f), Callable()):
        assert run(function, {"a": 1}) == 2
        assert run(function, {"a": 1}, timeout=5) == 2


def test_an_async_function_in_a_thread_with_a_loop_is_an_error_that_says_so():
    async def f(): ...

    async def main():
        with pytest.raises(ToolExecutionError, match="running event loop"):
            run(f)
        return run(f, timeout=5)

    assert asyncio.run(main()) is None


def test_a_function_without_a_timeout_runs_in_the_thread_that_calls():
    assert run(lambda: threading.get_ident()) == threading.get_ident()
    assert run(lambda: threading.get_ident(), timeout=5) != threading.get_ident()


def test_context_variables_are_those_of_the_caller_with_and_without_a_timeout():
    user = contextvars.ContextVar("user", default="nobody")
    user.set("me")
    assert [run(lambda: user.get(), timeout=timeout) for timeout in (None, 5)] == ["me", "me"]


# -- results -------------------------------------------------------------------------------------

RESULTS = [
    (None, None),
    ("text", "text"),
    ("größe", "größe"),
    ({"a": (1, 2.5, None)}, {"a": [1, 2.5, None]}),
    ({1: "a"}, {"1": "a"}),
    (Point(1), {"x": 1, "y": 0.5, "names": []}),
    ([Even(2), Color.RED], [{"number": 2}, "red"]),
    (datetime.date(2030, 1, 31), "2030-01-31"),
    (types.MappingProxyType({"a": 1}), {"a": 1}),
]


@pytest.mark.parametrize(("result", "json"), RESULTS, ids=[str(r) for r, _ in RESULTS])
def test_a_result_is_what_comes_of_it_as_json(result, json):
    assert run(lambda: result) == json


@pytest.mark.parametrize(
    ("result", "problem"),
    [
        ({"a": [object()]}, r"$.a[0] cannot be JSON: a object"),
        ({"a": math.nan}, r"$.a cannot be JSON: nan is not finite"),
        ({(1, 2): 3}, r"$ cannot be JSON: a key that is a tuple"),
        ("\ud800", r"$ cannot be JSON: a lone surrogate"),
        ((i for i in ()), r"$ cannot be JSON: a generator"),
    ],
    ids=["object", "nan", "key", "surrogate", "generator"],
)
def test_a_result_that_cannot_be_json_is_an_error_with_its_path(result, problem):
    with pytest.raises(ToolExecutionError) as caught:
        run(lambda: result)
    assert str(caught.value) == f"result of tool 'f' is unusable: {problem}"


def test_a_result_that_the_tool_changes_later_stays_as_it_was():
    kept = {"a": [1]}
    result = run(lambda: kept)
    kept["a"].append(2)
    assert result == {"a": [1]}


# -- errors --------------------------------------------------------------------------------------


class Quota(ToolError):
    pass


def raising(error):
    def f():
        raise error

    return f


@pytest.mark.parametrize("timeout", [None, 5])
@pytest.mark.parametrize("error", [ToolError("x"), Quota("y"), ToolTimeoutError("z")])
def test_a_tool_error_passes_as_it_is(error, timeout):
    with pytest.raises(type(error)) as caught:
        run(raising(error), timeout=timeout)
    assert caught.value is error


@pytest.mark.parametrize("timeout", [None, 5])
@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no such city"), "ValueError: no such city"),
        (StopIteration(3), "StopIteration: 3"),
        (LoopCanceledError("another loop"), "LoopCanceledError: another loop"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_else_is_raised_is_a_tool_execution_error_that_says_it(error, text, timeout):
    with pytest.raises(ToolExecutionError) as caught:
        run(raising(error), timeout=timeout)
    assert str(caught.value) == text
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("timeout", [None, 5])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_an_exit_passes(error, timeout):
    with pytest.raises(type(error)):
        run(raising(error), timeout=timeout)


def test_an_unknown_tool_is_an_error_that_names_those_with_a_similar_name():
    tools = FunctionTools([len_of, add])
    with pytest.raises(ToolNotFoundError, match=r"^there is no tool 'len_off'; there is 'len_of'$"):
        tools.execute("len_off", "c", {}, CTX)
    with pytest.raises(ToolNotFoundError) as caught:
        tools.execute("x" * 10_000, "c", {}, CTX)
    assert len(str(caught.value)) < 100


# -- timeouts and cancellation -------------------------------------------------------------------


def test_a_call_that_takes_too_long_is_left_alone_and_its_context_is_canceled():
    ended = threading.Event()

    def f(ctx: Context, request: RequestContext):
        request.cancellation.wait(10)
        assert ctx.canceled
        assert request is ctx.request
        assert request.model == "m"
        ended.set()

    with pytest.raises(ToolTimeoutError, match=r"^tool 'f' gave no result in 0.02 seconds$"):
        run(f, timeout=0.02)
    assert ended.wait(10)
    assert not CTX.cancellation.canceled


@pytest.mark.parametrize("timeout", [None, 10])
def test_a_canceled_response_ends_a_call_that_looks_at_its_context(timeout):
    ctx, began = RequestContext(), threading.Event()

    def f(call: Context):
        began.set()
        call.request.cancellation.wait(10)
        call.check()

    thread = InThread(lambda: run(f, ctx=ctx, timeout=timeout))
    assert began.wait(10)
    ctx.cancellation.cancel()
    error = thread.raises(10)
    assert isinstance(error, LoopCanceledError)
    assert str(error) == "the call of tool 'f' was canceled"


def test_a_canceled_response_does_not_wait_for_a_call_that_does_not_look():
    ctx, began, let_go = RequestContext(), threading.Event(), threading.Event()

    def f():
        began.set()
        let_go.wait(10)

    thread = InThread(lambda: run(f, ctx=ctx, timeout=10))
    assert began.wait(10)
    ctx.cancellation.cancel()
    assert isinstance(thread.raises(5), LoopCanceledError)
    let_go.set()


@pytest.mark.parametrize("timeout", [None, 10])
def test_a_canceled_response_cancels_an_async_function(timeout):
    ctx, began, ended = RequestContext(), threading.Event(), threading.Event()

    async def f():
        began.set()
        try:
            await asyncio.sleep(10)
        finally:
            ended.set()

    thread = InThread(lambda: run(f, ctx=ctx, timeout=timeout))
    assert began.wait(10)
    ctx.cancellation.cancel()
    assert isinstance(thread.raises(5), LoopCanceledError)
    assert ended.wait(5)


def test_a_call_that_ends_when_it_is_told_to_stop_has_taken_too_long_all_the_same():
    told, ending = threading.Event(), threading.Event()

    def stop():
        told.set()
        ending.wait(0.1)  # as long as the call may need to end

    def f(call: Context):
        with call.request.cancellation.calling(stop):
            told.wait(10)
        call.check()

    with pytest.raises(ToolTimeoutError):
        run(f, timeout=0.02)


def test_an_async_function_that_takes_too_long_is_canceled():
    began, ended = threading.Event(), threading.Event()

    async def f():
        began.set()
        try:
            await asyncio.sleep(10)
        finally:
            ended.set()

    with pytest.raises(ToolTimeoutError):
        run(f, timeout=0.05)
    assert ended.wait(5) or not began.is_set()  # it may have been too early to begin


def test_an_async_function_that_cancels_itself_has_failed():
    async def f():
        raise asyncio.CancelledError

    with pytest.raises(ToolExecutionError, match="has canceled itself"):
        run(f)


def test_tools_are_registered_and_called_by_many_threads_at_once():
    tools, gate = FunctionTools([add]), threading.Barrier(8)

    def work(number):
        gate.wait(10)
        tools.register(lambda: number, name=f"t{number}")
        results = [tools.execute("add", "c", {"a": n, "b": number}, CTX) for n in range(50)]
        assert results == [n + number for n in range(50)]
        return tools.execute(f"t{number}", "c", {}, CTX)

    threads = [InThread(functools.partial(work, number)) for number in range(8)]
    for number, thread in enumerate(threads):
        assert (thread.raises(20), thread.value) == (None, number)
    assert len(tools.tools(CTX)) == 9


def test_a_cancellation_before_the_call_is_seen_by_it():
    cancellation = Cancellation()
    cancellation.cancel()
    ctx = RequestContext(cancellation=cancellation)

    def f(c: Context):
        return c.canceled

    assert run(f, ctx=ctx) is True
    with pytest.raises(LoopCanceledError):
        run(lambda: threading.Event().wait(0.2), ctx=ctx, timeout=5)
