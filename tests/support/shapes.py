"""Classes to annotate with, and the shapes that come of them."""

import dataclasses
from collections.abc import Callable, Sequence
from enum import Enum, IntEnum
from typing import Any, TypedDict

import attrs

from reasoning_sdk._core.docstrings import Docstring
from reasoning_sdk._core.shapes import Object, read
from reasoning_sdk._core.signatures import Shapes, apply, hints_of, signature_of


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


def taking(hint: Any) -> Callable[..., Any]:
    """A function whose parameter ``x`` is annotated so, and that gives what it gets."""

    def f(x):  # type: ignore[no-untyped-def]
        return x

    f.__annotations__["x"] = hint
    return f


def shape_of(
    function: Callable[..., Any], *, strict: bool = False, hidden: Sequence[str] = ()
) -> tuple[Object, Any]:
    """The shape of a function's parameters, and its schema."""
    shapes, label = Shapes(strict), "tool 'f'"
    docs = Docstring.of(function.__doc__).parameters
    signature, hints = signature_of(function, label), hints_of(function, label)
    shape = shapes.object_of(signature, hints, docs, label, hidden=hidden)
    return shape, shapes.document(shape)


def called(function: Callable[..., Any], arguments: Any, *, strict: bool = False) -> Any:
    """What comes of a call with arguments as a model writes them."""
    given = read(shape_of(function, strict=strict)[0], arguments)
    return apply(function, signature_of(function, "tool 'f'"), given)


def converted(hint: Any, value: Any, *, strict: bool = False) -> Any:
    """What becomes of an argument for a parameter that is annotated so."""
    return called(taking(hint), {"x": value}, strict=strict)
