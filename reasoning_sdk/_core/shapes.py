"""What the arguments of a call have to be: a tree of *shapes*.

A shape has the JSON schema of a value, and reads the value that a model has written: what its
schema refuses, it refuses, and gives the rest as what a function was annotated with.
"""

import datetime
import decimal
import functools
import math
import re
import types
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import attrs

from reasoning_sdk._core.wording import member, printable, said, told
from reasoning_sdk.errors import ToolArgumentsError

__all__ = [
    "ANY",
    "NULL",
    "SCALARS",
    "Described",
    "Items",
    "Leaf",
    "Object",
    "OneOf",
    "Places",
    "Property",
    "Reference",
    "Shape",
    "Values",
    "any_of",
    "extended",
    "read",
    "same",
    "takes_null",
]

_T = TypeVar("_T")
_MAX_PROBLEMS = 20
Problems = list[tuple[str, str]]


class Shape(Protocol):
    """What a value has to be.

    Attributes:
        schema: Its JSON schema.
        expected: What it is called in errors.
    """

    @property
    def schema(self) -> dict[str, Any]: ...

    @property
    def expected(self) -> str: ...

    def convert(self, value: Any, path: str, problems: Problems) -> Any:
        """Read a value; what is wrong with it is added to the problems."""


@attrs.frozen
class Leaf:
    """A value that has no parts, or none that matter.

    Args:
        expected: What it is called in errors.
        schema: Its JSON schema.
        read: Gives what a value stands for, or raises.
    """

    expected: str
    schema: dict[str, Any]
    read: Callable[[Any], Any]

    def convert(self, value: Any, path: str, problems: Problems) -> Any:
        try:
            return self.read(value)
        except (TypeError, ValueError, LookupError, ArithmeticError):
            problems.append(_unlike(self, value, path))


@attrs.frozen
class Items:
    """An array whose items are all alike."""

    item: Shape
    make: Callable[[list[Any]], Any]
    expected = "a list"

    @property
    def schema(self) -> dict[str, Any]:
        items = self.item.schema
        return {"type": "array", "items": items} if items else {"type": "array"}

    def convert(self, value: Any, path: str, problems: Problems) -> Any:
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
class Places:
    """An array with a shape for each of its places."""

    places: Sequence[Shape]

    @property
    def expected(self) -> str:
        return f"a list of {len(self.places)}"

    @property
    def schema(self) -> dict[str, Any]:
        size = len(self.places)
        array = {"type": "array", "minItems": size, "maxItems": size}
        return {**array, "prefixItems": [p.schema for p in self.places]} if size else array

    def convert(self, value: Any, path: str, problems: Problems) -> Any:
        if not isinstance(value, (list, tuple)) or len(value) != len(self.places):
            problems.append(_unlike(self, value, path))
            return None
        pairs = enumerate(zip(self.places, value, strict=True))
        return tuple(place.convert(v, f"{path}[{i}]", problems) for i, (place, v) in pairs)


@attrs.frozen
class Values:
    """An object with any members, whose values are all alike."""

    value: Shape
    expected = "an object"

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": self.value.schema or True}

    def convert(self, value: Any, path: str, problems: Problems) -> Any:
        if not isinstance(value, Mapping):
            problems.append(_unlike(self, value, path))
            return None
        return {n: self.value.convert(v, member(path, n), problems) for n, v in value.items()}


@attrs.frozen
class OneOf:
    """A value of one of several shapes; the first that fits is taken."""

    shapes: Sequence[Shape]

    @property
    def expected(self) -> str:
        return " or ".join(dict.fromkeys(shape.expected for shape in self.shapes))

    @property
    def schema(self) -> dict[str, Any]:
        return any_of([shape.schema for shape in self.shapes])

    def convert(self, value: Any, path: str, problems: Problems) -> Any:
        inside: Problems = []
        for shape in self.shapes:
            wrong: Problems = []
            result = shape.convert(value, path, wrong)
            if not wrong:
                return result
            if wrong[0] != _unlike(shape, value, path):  # it is of this kind, but for its parts
                inside = inside or wrong
        problems += inside or [_unlike(self, value, path)]
        return None


@attrs.frozen
class Property:
    """A member of an object.

    Args:
        shape: What it has to be.
        schema: Its JSON schema, with what is said of it here.
        required: Whether it has to be given.
        null_is_default: Whether ``null`` leaves it out, as nobody else can where all is required.
    """

    shape: Shape
    schema: dict[str, Any]
    required: bool
    null_is_default: bool = False


@attrs.frozen
class Object:
    """An object with the members that a function, or a class, has names for.

    Args:
        properties: These.
        make: Makes what the object stands for.
        rest: What takes all others, and their shape; ``None`` where there may be none.
        reserved: Names that those others must not have.
        description: What is said of it.
        strict: Whether all members are required.
    """

    properties: Mapping[str, Property]
    make: Callable[[dict[str, Any]], Any]
    rest: tuple[str, Shape] | None = None
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

    def convert(self, value: Any, path: str, problems: Problems) -> Any:
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
            problems.append((path, f"is refused: {said(exc)}"))

    def _known(self, value: Mapping[str, Any], path: str, problems: Problems) -> dict[str, Any]:
        given = {}
        for name, part in self.properties.items():
            if name not in value:
                if part.required or self.strict:
                    problems.append((member(path, name), "is missing"))
            elif value[name] is not None or not part.null_is_default:
                given[name] = part.shape.convert(value[name], member(path, name), problems)
        return given

    def _others(self, value: Mapping[str, Any], path: str, problems: Problems) -> dict[str, Any]:
        others = {}
        for name in value:
            if name in self.properties:
                continue
            if self.rest is None or name in self.reserved:
                problems.append((member(path, name), "is not a parameter"))
            else:
                others[name] = self.rest[1].convert(value[name], member(path, name), problems)
        return {self.rest[0]: others} if self.rest else {}


@attrs.frozen
class Described:
    """A shape of which something more is said."""

    shape: Shape
    description: str

    @property
    def expected(self) -> str:
        return self.shape.expected

    @property
    def schema(self) -> dict[str, Any]:
        return extended(self.shape.schema, {"description": self.description})

    def convert(self, value: Any, path: str, problems: Problems) -> Any:
        return self.shape.convert(value, path, problems)


@attrs.define(eq=False)
class Reference:
    """A shape that has a name, as it has itself for a part.

    Args:
        name: Its name among the schema's definitions.
        target: The shape, when it is known.
        used: Whether anything refers to it.
    """

    name: str
    target: Shape | None = None
    used: bool = False

    @property
    def expected(self) -> str:
        return "an object" if self.target is None else self.target.expected

    @property
    def schema(self) -> dict[str, Any]:
        return {"$ref": f"#/$defs/{self.name}"}

    def convert(self, value: Any, path: str, problems: Problems) -> Any:
        if self.target is not None:
            return self.target.convert(value, path, problems)
        problems.append(_unlike(self, value, path))  # it is being made: who asks has only null
        return None


def read(shape: Shape, arguments: Any) -> Any:
    """What arguments that a model has written stand for.

    Raises:
        ToolArgumentsError: They do not fit; the message tells each problem, with its path.
    """
    problems: Problems = []
    try:
        given = shape.convert(arguments, "$", problems)
    except RecursionError:
        problems = [("$", "is nested too deeply")]
    if problems:
        raise ToolArgumentsError(_listed(problems))
    return given


def _listed(problems: Problems) -> str:
    shown = [f"{path} {what}" for path, what in problems[:_MAX_PROBLEMS]]
    if len(problems) > len(shown):
        shown.append(f"and {len(problems) - len(shown)} more problems")
    return printable("; ".join(shown))


def _unlike(shape: Shape, value: Any, path: str) -> tuple[str, str]:
    return path, f"must be {shape.expected}, got {told(value)}"


def extended(schema: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """A schema with more keys; some readers do not see those that stand beside a ``$ref``."""
    return {"anyOf": [schema], **more} if "$ref" in schema and more else {**schema, **more}


def any_of(schemas: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The schema of what fits one of several."""
    if {} in schemas:
        return {}
    if any(schema.keys() != {"type"} for schema in schemas):
        return {"anyOf": list(schemas)}
    names: list[str] = []
    for schema in schemas:
        names += [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    return {"type": list(dict.fromkeys(names))}


def same(value: Any) -> Any:
    """The value itself, where nothing is made of it."""
    return value


def takes_null(shape: Shape) -> bool:
    """Whether a shape reads ``null``."""
    problems: Problems = []
    shape.convert(None, "$", problems)
    return not problems


# -- Values without parts -------------------------------------------------------------------------


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
) -> Leaf:
    read = functools.partial(_read_text, pattern, make)
    return Leaf(expected, {"type": "string", "format": format}, read)


def _plain_leaf(expected: str, type_: str, kind: type) -> Leaf:
    def read(value: Any) -> Any:
        return value if isinstance(value, kind) else _refuse()

    return Leaf(expected, {"type": type_}, read)


ANY = Leaf("anything", {}, same)
NULL = _plain_leaf("null", "null", types.NoneType)
SCALARS: dict[Any, Shape] = {
    **dict.fromkeys((None, types.NoneType), NULL),
    str: _plain_leaf("a str", "string", str),
    bool: _plain_leaf("a bool", "boolean", bool),
    int: Leaf("an int", {"type": "integer"}, _read_int),
    float: Leaf("a number", {"type": "number"}, _read_float),
    decimal.Decimal: Leaf(
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
