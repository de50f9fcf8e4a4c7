"""What a model writes is converted, or refused with what is wrong with it."""

import datetime
import functools
import math
import uuid
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, Optional, Union

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning_sdk._core.shapes import read
from reasoning_sdk.errors import ToolArgumentsError
from tests.support.shapes import (
    Color,
    Even,
    Level,
    Node,
    Options,
    Point,
    called,
    converted,
    shape_of,
    taking,
)


def refusal(function, arguments):
    with pytest.raises(ToolArgumentsError) as caught:
        called(function, arguments)
    return str(caught.value)


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


def test_a_choice_of_many_is_not_told_in_full():
    many = Enum("Many", {f"M{n}": n for n in range(100)})
    with pytest.raises(ToolArgumentsError, match="18, 19, …, got 'x'"):
        converted(many, "x")


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
        read(shape_of(taking(int))[0], arguments)


def test_arguments_that_are_nested_too_deeply_are_refused():
    def f(x: Node): ...

    tree = {"value": 1}
    for _ in range(5000):
        tree = {"value": 1, "children": [tree]}
    assert refusal(f, {"x": tree}) == "$ is nested too deeply"


def test_a_function_that_takes_any_name_gets_what_has_no_parameter():
    def f(a: int, **rest: int):
        return [a, rest]

    assert shape_of(f)[1]["additionalProperties"] == {"type": "integer"}
    assert called(f, {"a": 1, "b": 2, "rest": 3}) == [1, {"b": 2, "rest": 3}]
    assert refusal(f, {"a": 1, "b": "x"}) == "$.b must be an int, got 'x'"


def test_a_hidden_parameter_cannot_be_given_even_where_any_name_can():
    def f(user: str, **rest: Any): ...

    shape, schema = shape_of(f, hidden=["user"])
    assert schema == {"type": "object", "properties": {}, "additionalProperties": True}
    with pytest.raises(ToolArgumentsError, match=r"^\$\.user is not a parameter$"):
        read(shape, {"user": "me"})


def test_parameters_that_have_no_name_outside_are_given_by_their_place():
    def f(a: int, b: int = 2, c: int = 3, /, d: int = 4):
        return [a, b, c, d]

    assert called(f, {"a": 1, "c": 5}) == [1, 2, 5, 4]


# -- the schema and the converter agree ----------------------------------------------------------


LEAVES = st.sampled_from(
    [str, int, float, bool, None, Any, Color, Level, Literal["a", 1, True, None], Point, Node,
     Options, datetime.date, uuid.UUID, Decimal]
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
    schema = shape_of(taking(hint))[1]
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
