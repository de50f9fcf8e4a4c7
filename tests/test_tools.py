"""Functions, agents and several executors as tools; endpoints are in test_http_tools.py."""

import asyncio
import contextvars
import dataclasses
import datetime
import functools
import math
import threading
import types
import uuid
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Generic, Literal, NewType, Optional, TypedDict, TypeVar, Union

import attrs
import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import NotRequired, ReadOnly, Required, TypeAliasType
from typing_extensions import TypedDict as NewTypedDict

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
from reasoning_sdk.steps import AgentSchema, RequestContext, ToolKind, ToolSchema
from reasoning_sdk.tools import AgentTools, CombinedTools, Context, FunctionTools, NoTools
from reasoning_sdk.typing import ToolExecutor
from tests.support.threads import InThread

CTX = RequestContext(model="m")
T = TypeVar("T")


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


@dataclasses.dataclass(frozen=True)
class Point:
    """A point in the plane.

    Args:
        x: To the right.
    """

    x: int
    y: float = 0.5
    names: list[str] = dataclasses.field(default_factory=list, hash=False)


@attrs.frozen
class Node:
    value: int
    _children: "list[Node]" = attrs.field(factory=list)


@dataclasses.dataclass
class Chain:
    first: int
    rest: "Chain" = None  # as people write it


@attrs.frozen
class Even:
    number: int = attrs.field()

    @number.validator
    def _check(self, _: Any, value: int) -> None:
        if value % 2:
            raise ValueError(f"{value} is odd")


class Base(TypedDict):
    a: int


class Options(Base, total=False):
    b: list[str]


class Marked(NewTypedDict):
    a: "Required[int]"
    b: "ReadOnly[NotRequired[Annotated[int, 'the b']]]"


def made(function, **options):
    """A registry with one function in it."""
    tools = FunctionTools()
    tools.register(function, name="f", **options)
    return tools


def schema_of(hint, **options):
    def f(x): ...

    f.__annotations__["x"] = hint
    parameters = made(f, **options).tools(CTX)[0].parameters
    jsonschema.Draft202012Validator.check_schema(parameters)
    return parameters


def member_of(hint, **options):
    return schema_of(hint, **options)["properties"]["x"]


def converted(hint, value, **options):
    got = []

    def f(x):
        got.append(x)

    f.__annotations__["x"] = hint
    made(f, **options).execute("f", "call_1", {"x": value}, CTX)
    return got[0]


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
    with pytest.raises(ConfigurationError, match="name of a tool must be 1 to 64 of"):
        FunctionTools().register(len_of, name=name)


@pytest.mark.parametrize(
    "timeout", [0, -1, math.nan, True, "5"], ids=["zero", "negative", "nan", "bool", "str"]
)
def test_a_timeout_that_is_no_time_is_refused(timeout):
    with pytest.raises(ConfigurationError, match="timeout must be > 0 seconds or None"):
        FunctionTools().register(len_of, timeout=timeout)


def starred(*parts: str): ...


def generator(x: int):
    yield x


async def async_generator(x: int):
    yield x


class Generating:
    def __call__(self):
        yield 1


UNFIT = [
    (starred, "parameter 'parts' of tool 'f' has no names for what it takes"),
    (generator, "tool 'f' must not be a generator function"),
    (async_generator, "tool 'f' must not be a generator function"),
    (Generating(), "tool 'f' must not be a generator function"),
    (Point, "tool 'f' must be a function, got <class"),
    (3, "tool 'f' must be a function, got 3"),
    (min, "tool 'f' has no signature that can be read"),
]


@pytest.mark.parametrize(("function", "message"), UNFIT)
def test_what_cannot_be_a_tool_is_refused_when_it_is_registered(function, message):
    with pytest.raises(ConfigurationError) as caught:
        made(function)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "hint",
    [bytes, complex, threading.Thread, dict[int, str], Literal[b"x"], type, [int], list[bytes]],
    ids=str,
)
def test_an_annotation_that_json_cannot_express_is_refused_with_the_parameter(hint):
    with pytest.raises(ConfigurationError, match="parameter 'x' of tool 'f' "):
        schema_of(hint)


def test_a_generic_class_is_refused():
    @dataclasses.dataclass
    class Box(Generic[T]):
        inside: T

    with pytest.raises(ConfigurationError, match="annotated with what JSON cannot express"):
        schema_of(Box[int])


def test_what_a_class_holds_that_json_cannot_express_is_named():
    holder = dataclasses.make_dataclass("Holder", [("data", bytes)])
    with pytest.raises(ConfigurationError, match="parameter 'data' of Holder is annotated with"):
        schema_of(holder)


def test_an_enum_whose_values_are_no_scalars_is_refused():
    with pytest.raises(ConfigurationError, match="annotated with what JSON cannot express"):
        schema_of(Enum("Pairs", {"A": (1, 2)}))


def test_an_annotation_that_cannot_be_resolved_is_refused_with_its_name():
    def f(x: "Missing"): ...  # noqa: F821

    with pytest.raises(ConfigurationError, match=r"annotations of tool 'f' .*'Missing'"):
        made(f)


def test_annotations_that_are_texts_are_resolved_but_not_that_of_the_result():
    def f(x: "int | None", y: "list[Color]" = ()) -> "Missing":  # noqa: F821
        return [x, y]

    assert run(f, {"x": 1, "y": ["red"]}) == [1, ["red"]]


# -- schemas -----------------------------------------------------------------------------------


Kilometers = NewType("Kilometers", int)

SCHEMAS = [
    (str, {"type": "string"}),
    (int, {"type": "integer"}),
    (float, {"type": "number"}),
    (bool, {"type": "boolean"}),
    (None, {"type": "null"}),
    (Any, {}),
    (object, {}),
    (Kilometers, {"type": "integer"}),
    (TypeAliasType("Names", list[str]), {"type": "array", "items": {"type": "string"}}),
    (list, {"type": "array"}),
    (list[int], {"type": "array", "items": {"type": "integer"}}),
    (Sequence[str], {"type": "array", "items": {"type": "string"}}),
    (Iterable[str], {"type": "array", "items": {"type": "string"}}),
    (set[int], {"type": "array", "items": {"type": "integer"}}),
    (tuple[int, ...], {"type": "array", "items": {"type": "integer"}}),
    (
        tuple[int, str],
        {
            "type": "array",
            "minItems": 2,
            "maxItems": 2,
            "prefixItems": [{"type": "integer"}, {"type": "string"}],
        },
    ),
    (dict, {"type": "object", "additionalProperties": True}),
    (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
    (Mapping[str, Any], {"type": "object", "additionalProperties": True}),
    (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
    (Literal[1, "a", None, True], {
        "type": ["integer", "string", "null", "boolean"], "enum": [1, "a", None, True]
    }),
    (Literal[Color.RED], {"type": "string", "enum": ["red"]}),
    (Color, {"type": "string", "enum": ["red", "blue"]}),
    (Level, {"type": "integer", "enum": [1, 2]}),
    (Optional[str], {"type": ["string", "null"]}),  # noqa: UP045
    (int | float | None, {"type": ["integer", "number", "null"]}),
    (str | Level, {"anyOf": [{"type": "string"}, {"type": "integer", "enum": [1, 2]}]}),
    (Any | None, {}),
    (Annotated[int, "how many"], {"type": "integer", "description": "how many"}),
    (
        list[Annotated[int, 7, "a number"]],
        {"type": "array", "items": {"type": "integer", "description": "a number"}},
    ),
    (Annotated[int, 7], {"type": "integer"}),
    (datetime.datetime, {"type": "string", "format": "date-time"}),
    (datetime.date, {"type": "string", "format": "date"}),
    (datetime.time, {"type": "string", "format": "time"}),
    (uuid.UUID, {"type": "string", "format": "uuid"}),
    (
        Decimal,
        {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?$"}]},
    ),
    (
        Point,
        {
            "description": "A point in the plane.",
            "type": "object",
            "properties": {
                "x": {"type": "integer", "description": "To the right."},
                "y": {"type": "number", "default": 0.5},
                "names": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["x"],
            "additionalProperties": False,
        },
    ),
    (
        Options,
        {
            "type": "object",
            "properties": {
                "a": {"type": "integer"},
                "b": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["a"],
            "additionalProperties": False,
        },
    ),
    (
        Marked,
        {
            "type": "object",
            "properties": {
                "a": {"type": "integer"},
                "b": {"type": "integer", "description": "the b"},
            },
            "required": ["a"],
            "additionalProperties": False,
        },
    ),
]  # fmt: skip


@pytest.mark.parametrize(("hint", "schema"), SCHEMAS, ids=[str(hint) for hint, _ in SCHEMAS])
def test_an_annotation_becomes_a_schema(hint, schema):
    assert member_of(hint) == schema


def test_a_class_that_has_itself_for_a_part_becomes_a_definition():
    schema = schema_of(Node)
    assert schema["properties"]["x"] == {"$ref": "#/$defs/Node"}
    assert schema["$defs"] == {
        "Node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
            },
            "required": ["value"],
            "additionalProperties": False,
        }
    }
    tree = {"value": 1, "children": [{"value": 2}]}
    assert converted(Node, tree) == Node(1, [Node(2)])
    assert converted(Node | None, None) is None


@pytest.mark.parametrize("strict", [False, True])
def test_a_chain_of_one_class_may_end_in_null(strict):
    chain = {"first": 1, "rest": {"first": 2, "rest": None}}
    assert converted(Chain, chain, strict=strict) == Chain(1, Chain(2))
    with pytest.raises(ToolArgumentsError, match=r"^\$\.x\.rest must be an object or null, got 3$"):
        converted(Chain, {"first": 1, "rest": 3}, strict=strict)


def test_a_choice_of_many_is_not_told_in_full():
    many = Enum("Many", {f"M{n}": n for n in range(100)})
    with pytest.raises(ToolArgumentsError, match="18, 19, …, got 'x'"):
        converted(many, "x")


def test_what_a_class_wants_for_its_making_only_is_a_member():
    @dataclasses.dataclass
    class Doubled:
        start: dataclasses.InitVar[int]
        twice: int = dataclasses.field(init=False, default=0)

        def __post_init__(self, start):
            self.twice = 2 * start

    assert member_of(Doubled)["properties"] == {"start": {"type": "integer"}}
    assert converted(Doubled, {"start": 2}).twice == 4


def test_two_recursive_classes_of_one_name_are_two_definitions():
    other = dataclasses.make_dataclass("Node", [("next", "Node")])
    other.__annotations__["next"] = other | None

    def f(a: Node, b: other, c: Annotated[Node, "one more"]): ...

    parameters = made(f).tools(CTX)[0].parameters
    assert parameters["properties"]["b"] == {"$ref": "#/$defs/Node_"}
    assert parameters["properties"]["c"] == {
        "anyOf": [{"$ref": "#/$defs/Node"}], "description": "one more"
    }  # fmt: skip
    assert list(parameters["$defs"]) == ["Node", "Node_"]


def test_defaults_are_in_the_schema_and_what_has_one_is_not_required():
    def f(a, b: int = 3, c: Color = Color.RED, d: Any = object(), e: int = None): ...  # noqa: B008, RUF013

    assert made(f).tools(CTX)[0].parameters == {
        "type": "object",
        "properties": {
            "a": {},
            "b": {"type": "integer", "default": 3},
            "c": {"type": "string", "enum": ["red", "blue"], "default": "red"},
            "d": {},
            "e": {"type": ["integer", "null"], "default": None},
        },
        "required": ["a"],
        "additionalProperties": False,
    }


def test_a_function_that_takes_any_name_gets_what_has_no_parameter():
    def f(a: int, **rest: int):
        return [a, rest]

    assert made(f).tools(CTX)[0].parameters["additionalProperties"] == {"type": "integer"}
    assert run(f, {"a": 1, "b": 2, "rest": 3}) == [1, {"b": 2, "rest": 3}]
    assert refusal(f, {"a": 1, "b": "x"}) == "$.b must be an int, got 'x'"


GOOGLE = """Tell the weather.

    It may be wrong.

    Args:
        city (str): The city,
            with its country.
        unit (Literal["C", "F"], optional): The unit: C or F.
        **rest: What else.

    Returns:
        The weather.

    Raises:
        ValueError: It is not known.

    It ends here.
    """
NUMPY = """Tell the weather.

    It may be wrong.

    Parameters
    ----------
    city : str
        The city,
        with its country.
    unit : {"C", "F"}, optional
        The unit: C or F.
    **rest
        What else.

    Returns
    -------
    str
        The weather.
    """
SPHINX = """Tell the weather.

    It may be wrong.

    :param str city: The city,
        with its country.
    :param unit: The unit: C or F.
    :type unit: str
    :param rest: What else.
    :returns: The weather.
    :raises ValueError: It is not known.
    """


@pytest.mark.parametrize("doc", [GOOGLE, NUMPY, SPHINX], ids=["google", "numpy", "sphinx"])
def test_a_docstring_describes_the_function_and_its_parameters(doc):
    def f(city: str, unit: Annotated[str, "Mine."] = "C", other: int = 1, **rest: int): ...

    f.__doc__ = doc
    schema = made(f).tools(CTX)[0]
    end = "\n\nIt ends here." if doc is GOOGLE else ""
    assert schema.description == "Tell the weather.\n\nIt may be wrong." + end
    properties = schema.parameters["properties"]
    assert properties["city"]["description"] == "The city, with its country."
    assert properties["unit"]["description"] == "Mine."
    assert "description" not in properties["other"]
    del f.__annotations__["unit"]
    properties = made(f).tools(CTX)[0].parameters["properties"]
    assert properties["unit"]["description"] == "The unit: C or F."


@pytest.mark.parametrize("doc", ["", "One line.", ":class:`X` is made.", "A\n\nNote: that\n:b"])
def test_a_docstring_without_sections_is_the_description(doc):
    def f(): ...

    f.__doc__ = doc
    assert made(f).tools(CTX)[0].description == doc


# -- strict ------------------------------------------------------------------------------------


def test_a_strict_schema_requires_everything_and_null_stands_for_a_default():
    def f(a: int, b: int = 3, c: int | None = 4, d: Point = Point(1), e: Color = Color.RED):
        return [a, b, c, d.y, e]

    tools = made(f, strict=True)
    schema = tools.tools(CTX)[0].parameters
    assert schema["required"] == ["a", "b", "c", "d", "e"]
    assert schema["properties"]["b"] == {"type": ["integer", "null"]}
    assert schema["properties"]["c"] == {"type": ["integer", "null"]}
    assert schema["properties"]["e"] == {
        "anyOf": [{"type": "string", "enum": ["red", "blue"]}, {"type": "null"}]
    }
    point = schema["properties"]["d"]["anyOf"][0]
    assert point["required"] == ["x", "y", "names"]
    assert "default" not in str(schema)
    given = {"a": 1, "b": None, "c": None, "d": {"x": 1, "y": None, "names": None}, "e": None}
    assert tools.execute("f", "c", given, CTX) == [1, 3, None, 0.5, "red"]
    with pytest.raises(ToolArgumentsError, match=r"^\$\.b is missing$"):
        tools.execute("f", "c", {name: given[name] for name in "acde"}, CTX)


@pytest.mark.parametrize(
    ("hint", "reason"),
    [
        (Any, "it takes anything"),
        (dict[str, int], "it takes any name"),
        (tuple[int, int], "it is a tuple of a fixed length"),
        (list, "it takes anything"),
    ],
    ids=str,
)
def test_what_cannot_be_strict_is_refused_with_the_reason(hint, reason):
    with pytest.raises(ConfigurationError) as caught:
        schema_of(hint, strict=True)
    assert str(caught.value) == f"parameter 'x' of tool 'f' cannot be strict: {reason}"


def test_a_function_that_takes_any_name_cannot_be_strict():
    def f(**rest: int): ...

    with pytest.raises(ConfigurationError, match="'rest' of tool 'f' cannot be strict"):
        made(f, strict=True)


# -- arguments ---------------------------------------------------------------------------------

UTC = datetime.timezone.utc

VALUES = [
    (int, 3.0, 3),
    (float, 3, 3.0),
    (Color, "red", Color.RED),
    (Level, 2, Level.HIGH),
    (Literal[1, True], True, True),
    (Literal[Color.BLUE], "blue", Color.BLUE),
    (tuple[int, str], [1, "a"], (1, "a")),
    (tuple[()], [], ()),
    (tuple[float, ...], [1], (1.0,)),
    (set[int], [1, 1, 2], {1, 2}),
    (frozenset[str], ["a"], frozenset({"a"})),
    (dict[str, Color], {"a": "red"}, {"a": Color.RED}),
    (Point, {"x": 1}, Point(1)),
    (set[Point], [{"x": 1}], {Point(1)}),
    (Even | None, {"number": 2}, Even(2)),
    (Options, {"a": 1}, {"a": 1}),
    (Marked, {"a": 1, "b": 2}, {"a": 1, "b": 2}),
    (Decimal, "1.10", Decimal("1.10")),
    (Decimal, 0.1, Decimal("0.1")),
    (Decimal, 10**30, Decimal(10**30)),
    (uuid.UUID, str(uuid.UUID("12345678" * 4)), uuid.UUID("12345678" * 4)),
    (datetime.date, "2030-01-31", datetime.date(2030, 1, 31)),
    (datetime.time, "12:30:00Z", datetime.time(12, 30, tzinfo=UTC)),
    (datetime.datetime, "2030-01-31T12:00:00Z", datetime.datetime(2030, 1, 31, 12, tzinfo=UTC)),
    (datetime.datetime, "2030-01-31t12:00:00.5z",
     datetime.datetime(2030, 1, 31, 12, microsecond=500000, tzinfo=UTC)),
    (datetime.datetime, "2030-01-31 12:00:00.123456789+00:00",
     datetime.datetime(2030, 1, 31, 12, microsecond=123456, tzinfo=UTC)),
    (datetime.datetime, "2030-01-31T12:00", datetime.datetime(2030, 1, 31, 12)),  # noqa: DTZ001
    (datetime.date | datetime.datetime, "2030-01-31", datetime.date(2030, 1, 31)),
    (str | int, 3, 3),
    (Any, {"a": [1]}, {"a": [1]}),
]  # fmt: skip


@pytest.mark.parametrize(("hint", "value", "result"), VALUES)
def test_an_argument_is_converted_to_what_the_parameter_is_annotated_with(hint, value, result):
    got = converted(hint, value)
    assert got == result
    assert type(got) is type(result)


WRONG = [
    (str, 3, "$.x must be a str, got 3"),
    (int, True, "$.x must be an int, got True"),
    (int, 1.5, "$.x must be an int, got 1.5"),
    (int, "3", "$.x must be an int, got '3'"),
    (float, math.nan, "$.x must be a number, got nan"),
    (float, 10**400, "$.x must be a number, got 1000"),
    (bool, 1, "$.x must be a bool, got 1"),
    (list[Annotated[int, "n"]], [""], "$.x[0] must be an int, got ''"),
    (list[Annotated[int, "n"] | str], [[]], "$.x[0] must be an int or a str, got a list of 0"),
    (None, 0, "$.x must be null, got 0"),
    (str, None, "$.x must be a str, got null"),
    (str | None, 3, "$.x must be a str or null, got 3"),
    (list[int], "ab", "$.x must be a list, got 'ab'"),
    (list[int], {"a": 1}, "$.x must be a list, got an object"),
    (list[int], [1, "a", None], "$.x[1] must be an int, got 'a'; $.x[2] must be an int, got null"),
    (list[int] | None, ["a"], "$.x[0] must be an int, got 'a'"),
    (tuple[int, int], [1], "$.x must be a list of 2, got a list of 1"),
    (set[Any], [[1]], "$.x must have items that can be in a set"),
    (dict[str, int], {"a b": "x"}, "$.x['a b'] must be an int, got 'x'"),
    (dict[str, int], [], "$.x must be an object, got a list of 0"),
    (Point, [], "$.x must be an object, got a list of 0"),
    (Point, {"z": 1}, "$.x.x is missing; $.x.z is not a parameter"),
    (Point | None, {}, "$.x.x is missing"),
    (Even, {"number": 3}, "$.x is refused: ValueError: 3 is odd"),
    (Even | None, {"number": 3}, "$.x is refused: ValueError: 3 is odd"),
    (Color, "green", "$.x must be one of 'red', 'blue', got 'green'"),
    (Color, ["red"], "$.x must be one of 'red', 'blue', got a list of 1"),
    (Literal[1], True, "$.x must be one of 1, got True"),
    (datetime.date, "2030-02-30", "$.x must be a date such as 2030-01-31, got '2030-02-30'"),
    (datetime.datetime, 5, "$.x must be a date and time such as 2030-01-31T12:00:00Z, got 5"),
    (Decimal, "NaN", "$.x must be a number, or a str of one, got 'NaN'"),
    (Decimal, math.inf, "$.x must be a number, or a str of one, got inf"),
    (uuid.UUID, "x", "$.x must be a UUID, got 'x'"),
    (str, ["a" * 70], "$.x must be a str, got a list of 1"),
    (int, "a" * 70, "$.x must be an int, got '" + "a" * 59 + "…"),
]


@pytest.mark.parametrize(("hint", "value", "message"), WRONG)
def test_an_argument_that_does_not_fit_is_refused_with_its_path_and_what_was_expected(
    hint, value, message
):
    with pytest.raises(ToolArgumentsError) as caught:
        converted(hint, value)
    assert str(caught.value).startswith(message)


def test_all_problems_are_in_one_message():
    def f(city: str, days: int): ...

    text = "$.city must be a str, got 3; $.days is missing; $.x is not a parameter"
    assert refusal(f, {"city": 3, "x": 1}) == text


def test_the_message_is_bounded_and_can_be_written_whatever_the_model_wrote():
    def f(x: list[int]): ...

    text = refusal(f, {"x": ["a"] * 1000})
    assert text.count("must be") == 20
    assert text.endswith("; and 980 more problems")
    text = refusal(f, {"x": [], "\ud800": 1, "y" * 10_000: 2})
    assert len(text.encode()) < 300


@pytest.mark.parametrize("arguments", [None, [], "{}", 3])
def test_arguments_that_are_no_object_are_refused(arguments):
    with pytest.raises(ToolArgumentsError, match=r"^\$ must be an object, got"):
        made(len_of).execute("f", "c", arguments, CTX)


def test_arguments_that_are_nested_too_deeply_are_refused():
    def f(x: Node): ...

    tree = {"value": 1}
    for _ in range(5000):
        tree = {"value": 1, "children": [tree]}
    assert refusal(f, {"x": tree}) == "$ is nested too deeply"


# -- the schema and the converter agree ----------------------------------------------------------

LEAVES = st.sampled_from(
    [str, int, float, bool, None, Any, Color, Level, Literal["a", 1, True, None], Point, Node,
     Options, Marked, datetime.date, uuid.UUID, Decimal]
)  # fmt: skip


def _wider(inner):
    return st.one_of(
        inner.map(lambda t: list[t]),
        inner.map(lambda t: dict[str, t]),
        inner.map(lambda t: tuple[t, ...]),
        inner.map(Optional.__getitem__),
        st.tuples(inner, inner).map(lambda pair: tuple[pair]),
        st.tuples(inner, inner).map(lambda pair: Union[pair]),  # noqa: UP007
    )


HINTS = st.recursive(LEAVES, _wider, max_leaves=4)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 10**20), st.floats(-1e6, 1e6),
    st.sampled_from(["a", "red", "1.5", "2030-01-31", "2030-02-30", str(uuid.UUID(int=7)), ""]),
    st.text(max_size=3),
)  # fmt: skip
KEYS = st.sampled_from(["x", "y", "names", "value", "children", "a", "b", "q"])
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


def fitting(schema, definitions, depth=0):
    """Values that a schema of ours allows, mostly."""
    again = functools.partial(fitting, definitions=definitions, depth=depth + 1)
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        return st.one_of([again(part) for part in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kinds = schema.get("type", [])
    if isinstance(kinds, list):
        return st.one_of([again({"type": kind}) for kind in kinds]) if kinds else JSON
    if kinds == "array" and "prefixItems" in schema:
        return st.tuples(*map(again, schema["prefixItems"])).map(list)
    if kinds == "array":
        return st.lists(again(schema.get("items", {})), max_size=2) if depth < 5 else st.just([])
    if kinds == "object":
        known, needed = schema.get("properties", {}), schema.get("required", [])
        rest = schema["additionalProperties"]
        if not known and rest is not False:
            return st.dictionaries(KEYS, again({} if rest is True else rest), max_size=2)
        optional = {n: again(part) for n, part in known.items() if n not in needed}
        return st.fixed_dictionaries({n: again(known[n]) for n in needed}, optional=optional)
    formats = {
        "date": st.dates().map(str), "uuid": st.uuids().map(str),
        "pattern": st.decimals(-9, 9, places=2).map(lambda number: f"{number:f}"),
    }  # fmt: skip
    if kinds == "string":
        return formats.get("pattern" if "pattern" in schema else schema.get("format"), st.text())
    plain = {
        "integer": st.integers(-3, 10**20) | st.integers(-9, 9).map(float),
        "number": st.integers(-9, 9) | st.floats(-1e6, 1e6), "boolean": st.booleans(),
        "null": st.none(),
    }  # fmt: skip
    return plain[kinds]


@given(HINTS, st.booleans(), st.data())
def test_what_the_schema_allows_is_converted_and_the_rest_is_refused(hint, fits, data):
    schema = schema_of(hint)
    judge = jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    values = fitting(schema["properties"]["x"], schema.get("$defs", {})) if fits else JSON
    value = data.draw(values)
    if judge.is_valid({"x": value}):
        converted(hint, value)
    else:
        with pytest.raises(ToolArgumentsError):
            converted(hint, value)


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


def test_parameters_that_have_no_name_outside_are_given_by_their_place():
    def f(a: int, b: int = 2, c: int = 3, /, d: int = 4):
        return [a, b, c, d]

    assert run(f, {"a": 1, "c": 5}) == [1, 2, 5, 4]


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

    assert run(f) == "call_1"
    with pytest.raises(ConfigurationError):
        schema_of(list[Context])


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


class Mute(Exception):
    def __str__(self):
        raise RuntimeError


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
        (ValueError(), "ValueError"),
        (KeyError("k"), "KeyError: 'k'"),
        (Mute(), "Mute"),
        (ValueError("\ud800"), "ValueError: \\ud800"),
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


def test_what_an_error_says_is_bounded():
    with pytest.raises(ToolExecutionError) as caught:
        run(raising(ValueError("x" * 100_000)))
    assert len(str(caught.value)) == 2001


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


# -- none, agents, several -----------------------------------------------------------------------


def test_no_tools_are_none():
    tools = NoTools()
    assert isinstance(tools, ToolExecutor)
    assert tools.tools(CTX) == []
    assert repr(tools) == "<NoTools>"
    with pytest.raises(ToolNotFoundError, match=r"^there is no tool 'x'$"):
        tools.execute("x", "c", {}, CTX)


def test_an_agent_is_a_tool_with_a_text_for_its_input():
    tools = AgentTools()
    assert tools.register("finder", description="Finds.", tools=["search"], model="small") is None
    schema = tools.tools(CTX)[0]
    assert schema == AgentSchema(
        "finder",
        "Finds.",
        {
            "type": "object",
            "properties": {"input": {"type": "string"}},
            "required": ["input"],
            "additionalProperties": False,
        },
        model="small",
        tools=("search",),
    )
    assert schema.kind is ToolKind.AGENT
    assert isinstance(tools, ToolExecutor)
    assert repr(tools) == "<AgentTools finder>"


def test_an_agent_can_have_parameters_of_its_own():
    tools, parameters = AgentTools(), {"type": "object", "properties": {"q": {}}}
    tools.register("a", description="", parameters=parameters, strict=True, instructions="Be.")
    schema = tools.tools(CTX)[0]
    assert (schema.parameters, schema.strict, schema.instructions) == (parameters, True, "Be.")
    assert schema.tools is None


def test_an_agent_cannot_be_called_without_a_loop():
    tools = AgentTools()
    tools.register("finder", description="Finds.")
    with pytest.raises(ToolExecutionError, match="'finder' can only be called by a response loop"):
        tools.execute("finder", "c", {"input": "x"}, CTX)
    with pytest.raises(ToolNotFoundError):
        tools.execute("other", "c", {}, CTX)
    with pytest.raises(ConfigurationError, match="there is a tool 'finder' already"):
        tools.register("finder", description="")


@pytest.mark.parametrize("names", ["search", [1]])
def test_the_tools_of_an_agent_are_names(names):
    with pytest.raises(ConfigurationError, match="tools must be names of tools, got"):
        AgentTools().register("a", description="", tools=names)


class Counting(FunctionTools):
    asked = 0

    def tools(self, ctx):
        self.asked += 1
        return super().tools(ctx)


def test_several_executors_are_one():
    first, second = Counting([add]), Counting([len_of])
    tools = CombinedTools(first, second)
    assert isinstance(tools, ToolExecutor)
    assert [schema.name for schema in tools.tools(CTX)] == ["add", "len_of"]
    assert tools.execute("add", "c", {"a": 1}, CTX) == 2
    assert tools.execute("len_of", "c", {"text": "abc"}, CTX) == 3
    assert (first.asked, second.asked) == (1, 1)
    assert repr(tools) == "<CombinedTools <FunctionTools add> <FunctionTools len_of>>"
    with pytest.raises(ToolNotFoundError, match="'ad'; there is 'add'"):
        tools.execute("ad", "c", {}, CTX)


def test_whose_a_tool_is_is_asked_once_for_each_context_and_not_kept_longer():
    first = Counting([add])
    tools, extensions = CombinedTools(first), {"unhashable": []}
    for expected in (1, 2, 3):
        ctx = RequestContext(extensions=extensions)
        for _ in range(3):
            assert tools.execute("add", "c", {"a": 1}, ctx) == 2
        assert first.asked == expected
        del ctx
        assert not tools._known


def test_a_tool_that_came_later_is_found():
    first = FunctionTools([add])
    tools = CombinedTools(first)
    tools.tools(CTX)
    first.register(len_of)
    assert tools.execute("len_of", "c", {"text": "abc"}, CTX) == 3


def test_a_name_in_two_executors_is_refused_with_both():
    tools = CombinedTools(FunctionTools([add]), NoTools(), FunctionTools([len_of, add]))
    message = "tool 'add' is in both <FunctionTools add> and <FunctionTools len_of add>"
    with pytest.raises(ConfigurationError) as caught:
        tools.tools(CTX)
    assert str(caught.value) == message
    with pytest.raises(ConfigurationError):
        tools.execute("add", "c", {"a": 1}, CTX)


def test_what_is_no_executor_cannot_be_combined():
    with pytest.raises(ConfigurationError, match="executor must be a ToolExecutor, got a list"):
        CombinedTools([])


def test_a_cancellation_before_the_call_is_seen_by_it():
    cancellation = Cancellation()
    cancellation.cancel()
    ctx = RequestContext(cancellation=cancellation)

    def f(c: Context):
        return c.canceled

    assert run(f, ctx=ctx) is True
    with pytest.raises(LoopCanceledError):
        run(lambda: threading.Event().wait(0.2), ctx=ctx, timeout=5)
