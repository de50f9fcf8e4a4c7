"""Annotations and signatures become schemas; what JSON cannot express is refused."""

import dataclasses
import datetime
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Generic, Literal, NewType, Optional, TypeVar

import jsonschema
import pytest

from reasoning_sdk.errors import ConfigurationError, ToolArgumentsError
from tests.support.shapes import (
    Chain,
    Color,
    Level,
    Node,
    Options,
    Point,
    called,
    converted,
    shape_of,
    taking,
)

T = TypeVar("T")


def schema_of(hint, **options):
    schema = shape_of(taking(hint), **options)[1]
    jsonschema.Draft202012Validator.check_schema(schema)
    return schema


def member_of(hint, **options):
    return schema_of(hint, **options)["properties"]["x"]


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


def test_what_a_class_wants_for_its_making_only_is_a_member():
    @dataclasses.dataclass
    class Doubled:
        start: dataclasses.InitVar[int]
        twice: int = dataclasses.field(init=False, default=0)

        def __post_init__(self, start):
            self.twice = 2 * start

    assert member_of(Doubled)["properties"] == {"start": {"type": "integer"}}
    assert converted(Doubled, {"start": 2}).twice == 4


def marked(module):
    """A class with keys that are marked by what a module has, as texts and as they are."""
    read_only = getattr(module, "ReadOnly", Annotated[T, None])
    return module.TypedDict(
        "Marked",
        {
            "a": module.Required[int],
            "b": read_only[module.NotRequired[Annotated[int, "the b"]]],
            "c": read_only[int],
        },
    )


@pytest.mark.parametrize("library", ["typing", "typing_extensions"])
def test_keys_are_required_as_they_are_marked(library):
    module = pytest.importorskip(library)
    if not hasattr(module, "Required"):
        pytest.skip("an old Python has no marks of its own")
    kind = marked(module)
    assert member_of(kind) == {
        "type": "object",
        "properties": {
            "a": {"type": "integer"},
            "b": {"type": "integer", "description": "the b"},
            "c": {"type": "integer"},
        },
        "required": ["a", "c"],
        "additionalProperties": False,
    }
    assert converted(kind, {"a": 1, "b": 2, "c": 3}) == {"a": 1, "b": 2, "c": 3}


def test_a_type_that_has_a_name_is_what_it_stands_for():
    names = pytest.importorskip("typing_extensions").TypeAliasType("Names", list[str])
    assert member_of(names) == {"type": "array", "items": {"type": "string"}}


def test_two_recursive_classes_of_one_name_are_two_definitions():
    other = dataclasses.make_dataclass("Node", [("next", "Node")])
    other.__annotations__["next"] = other | None

    def f(a: Node, b: other, c: Annotated[Node, "one more"]): ...

    parameters = shape_of(f)[1]
    assert parameters["properties"]["b"] == {"$ref": "#/$defs/Node_"}
    assert parameters["properties"]["c"] == {
        "anyOf": [{"$ref": "#/$defs/Node"}], "description": "one more"
    }  # fmt: skip
    assert list(parameters["$defs"]) == ["Node", "Node_"]


def test_an_annotation_describes_and_else_the_docstring():
    def f(city: str, unit: Annotated[str, "Mine."]):
        """Tell the weather.

        Args:
            city: The city.
            unit: Not mine.
        """

    properties = shape_of(f)[1]["properties"]
    assert properties["city"]["description"] == "The city."
    assert properties["unit"]["description"] == "Mine."


def test_defaults_are_in_the_schema_and_what_has_one_is_not_required():
    def f(a, b: int = 3, c: Color = Color.RED, d: Any = object(), e: int = None): ...  # noqa: B008, RUF013

    assert shape_of(f)[1] == {
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


# -- strict ------------------------------------------------------------------------------------


def test_a_strict_schema_requires_everything_and_null_stands_for_a_default():
    def f(a: int, b: int = 3, c: int | None = 4, d: Point = Point(1), e: Color = Color.RED):  # noqa: B008
        return [a, b, c, d.y, e]

    schema = shape_of(f, strict=True)[1]
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
    assert called(f, given, strict=True) == [1, 3, None, 0.5, Color.RED]
    with pytest.raises(ToolArgumentsError, match=r"^\$\.b is missing$"):
        called(f, {name: given[name] for name in "acde"}, strict=True)


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
        shape_of(f, strict=True)


# -- what is refused ---------------------------------------------------------------------------


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


def test_what_takes_parameters_without_names_is_refused():
    def f(*parts: str): ...

    with pytest.raises(ConfigurationError, match="'parts' of tool 'f' has no names for what it"):
        shape_of(f)


def test_what_has_no_signature_is_refused():
    with pytest.raises(ConfigurationError, match="tool 'f' has no signature that can be read"):
        shape_of(min)


def test_an_annotation_that_cannot_be_resolved_is_refused_with_its_name():
    def f(x: "Missing"): ...  # noqa: F821

    with pytest.raises(ConfigurationError, match=r"annotations of tool 'f' .*'Missing'"):
        shape_of(f)


def test_annotations_that_are_texts_are_resolved_but_not_that_of_the_result():
    def f(x: "int | None", y: "list[Color]" = ()) -> "Missing":  # noqa: F821
        return [x, y]

    assert called(f, {"x": 1, "y": ["red"]}) == [1, [Color.RED]]
