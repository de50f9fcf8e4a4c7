"""How signatures and annotations become shapes."""

import dataclasses
import functools
import inspect
import types
import typing
from collections import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Annotated, Any, Literal

import attrs

from reasoning_sdk._core.docstrings import Docstring
from reasoning_sdk._core.shapes import (
    ANY,
    NULL,
    SCALARS,
    Described,
    Items,
    Leaf,
    Object,
    OneOf,
    Places,
    Property,
    Reference,
    Shape,
    Values,
    any_of,
    extended,
    same,
    takes_null,
)
from reasoning_sdk._core.wording import told
from reasoning_sdk.encoding import encode_json, parse_json
from reasoning_sdk.errors import ConfigurationError, InvalidEventError

__all__ = ["Shapes", "apply", "hints_of", "signature_of"]

_MAX_CHOICES = 20

_ARRAYS: dict[Any, Callable[[list[Any]], Any]] = {
    **dict.fromkeys((list, abc.Sequence, abc.MutableSequence, abc.Iterable, abc.Collection), list),
    **dict.fromkeys((set, abc.Set, abc.MutableSet), set),
    frozenset: frozenset,
    tuple: tuple,
}
_OBJECTS = (dict, abc.Mapping, abc.MutableMapping)
_TYPE_NAMES = {str: "string", bool: "boolean", int: "integer", float: "number"}
_MARKS = {"Required", "NotRequired", "ReadOnly"}  # of typing, or of typing_extensions


class Shapes:
    """Makes the shapes of one function.

    Args:
        strict: Whether the schema is to keep to what a strict mode asks: all members of an object
            are required, and there are no others.

    Source: "Structured Outputs" of the public Responses API, "Supported schemas".
    """

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        # Those that are being made, and those that have themselves for a part.
        self._references: dict[Any, Reference] = {}

    def document(self, shape: Shape) -> dict[str, Any]:
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
        make: Callable[[dict[str, Any]], Any] = same,
        description: str = "",
        hidden: Iterable[str] = (),
    ) -> Object:
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
        properties, rest = dict[str, Property](), None
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
        return Object(properties, make, rest, hidden, description, self._strict)

    def of(self, hint: Any, where: str) -> Shape:
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
            return Described(inside, text) if text else inside
        if kind in (typing.Union, types.UnionType):
            return OneOf([self.of(arg, where) for arg in args])
        if kind is Literal:
            return _choice(args, where)
        if _mark(hint):
            return self.of(args[0], where)
        if not isinstance(hint, abc.Hashable):
            raise _inexpressible(hint, where)
        return self._plain(hint, where) or self._container(kind or hint, args, where)

    def _plain(self, hint: Any, where: str) -> Shape | None:
        if hint in SCALARS:
            return SCALARS[hint]
        if hint in (Any, object, inspect.Parameter.empty):
            self._check_strict(where, "it takes anything")
            return ANY
        if _is_class(hint) and issubclass(hint, Enum):
            return _choice(hint, where)
        if isinstance(hint, dataclasses.InitVar):
            return self.of(hint.type, where)
        if hasattr(hint, "__supertype__"):  # of a NewType
            return self.of(hint.__supertype__, where)
        return None

    def _container(self, kind: Any, args: tuple[Any, ...], where: str) -> Shape:
        if kind is tuple and args and args[-1] is not Ellipsis:
            self._check_strict(where, "it is a tuple of a fixed length")
            return Places([self.of(arg, where) for arg in args if arg != ()])
        if kind in _ARRAYS:
            return Items(self.of(args[0] if args else Any, where), _ARRAYS[kind])
        if kind in _OBJECTS:
            self._check_strict(where, "it takes any name")
            if args and args[0] not in (str, Any):
                raise ConfigurationError(f"{where} must have keys that are str, got {args[0]}")
            return Values(self.of(args[1] if args else Any, where))
        if args:  # of a generic class
            raise _inexpressible(kind, where)
        return self._named(kind, where)

    def _named(self, hint: Any, where: str) -> Shape:
        if (reference := self._references.get(hint)) is not None:
            reference.used = True
            return reference
        reference = self._references[hint] = Reference(self._free_name(hint))
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

    def _by_name(self, hint: Any, where: str) -> Shape:
        if hasattr(hint, "__value__"):  # of a type statement
            return self.of(hint.__value__, where)
        if _is_class(hint) and issubclass(hint, dict) and hasattr(hint, "__required_keys__"):
            return self._typed_dict(hint)
        if _is_class(hint) and (attrs.has(hint) or dataclasses.is_dataclass(hint)):
            return self._class(hint)
        raise _inexpressible(hint, where)

    def _typed_dict(self, kind: Any) -> Object:
        label, doc = kind.__name__, _doc_of_class(kind)
        properties = {
            name: self._property(
                hint,
                inspect.Parameter.empty if _is_needed(kind, name, hint) else attrs.NOTHING,
                doc.parameters.get(name),
                f"key {name!r} of {label}",
            )
            for name, hint in hints_of(kind, label).items()
        }
        return Object(properties, dict, description=doc.description, strict=self._strict)

    def _class(self, kind: Any) -> Object:
        label, doc = kind.__name__, _doc_of_class(kind)
        signature, hints = signature_of(kind, label), hints_of(kind, label)
        if attrs.has(kind):
            hints = {f.alias: hints.get(f.name, f.type or Any) for f in attrs.fields(kind)}
        make = functools.partial(apply, kind, signature)
        return self.object_of(
            signature, hints, doc.parameters, label, make=make, description=doc.description
        )

    def _property(self, hint: Any, default: Any, doc: str | None, where: str) -> Property:
        if typing.get_origin(hint) is Annotated:
            doc = _text_of(typing.get_args(hint)) or doc
            hint = typing.get_args(hint)[0]
        shape, required = self.of(hint, where), default is inspect.Parameter.empty
        if default is None and not takes_null(shape):
            shape = OneOf([shape, NULL])
        more = {"description": doc} if doc else {}
        if not self._strict:
            return Property(shape, extended(shape.schema, {**more, **_default(default)}), required)
        null_is_default = not required and not takes_null(shape)
        schema = any_of([shape.schema, NULL.schema]) if null_is_default else shape.schema
        return Property(shape, extended(schema, more), required, null_is_default)

    def _check_strict(self, where: str, reason: str) -> None:
        if self._strict:
            raise ConfigurationError(f"{where} cannot be strict: {reason}")


def signature_of(function: Callable[..., Any], label: str) -> inspect.Signature:
    """The signature of a function or a class.

    Raises:
        ConfigurationError: It has none that can be read.
    """
    try:
        return inspect.signature(function)
    except (TypeError, ValueError) as exc:
        raise ConfigurationError(f"{label} has no signature that can be read: {exc}") from exc


def hints_of(annotated: Any, label: str) -> dict[str, Any]:
    """The annotations of a function or a class, those that are texts resolved.

    Raises:
        ConfigurationError: One of them cannot be.
    """
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


def apply(function: Callable[..., Any], signature: inspect.Signature, given: dict[str, Any]) -> Any:
    """Call with arguments by name, also those that have no name outside."""
    bound = signature.bind_partial()
    bound.arguments.update(given)
    bound.apply_defaults()  # which those that have no name outside need
    return function(*bound.args, **bound.kwargs)


def _inexpressible(hint: Any, where: str) -> ConfigurationError:
    return ConfigurationError(f"{where} is annotated with what JSON cannot express: {hint!r}")


def _is_class(hint: Any) -> bool:
    return isinstance(hint, type) and typing.get_origin(hint) is None


def _doc_of_class(kind: Any) -> Docstring:
    text = vars(kind).get("__doc__") or ""
    return Docstring.of("" if text.startswith(f"{kind.__name__}(") else text)  # a dataclass's own


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


def _default(value: Any) -> dict[str, Any]:
    """What a schema says of a default, where that can be JSON."""
    if value is inspect.Parameter.empty or value is attrs.NOTHING:
        return {}
    try:
        return {"default": parse_json(encode_json(value))}
    except (InvalidEventError, ValueError):
        return {}


def _choice(values: Iterable[Any], where: str) -> Leaf:
    """One of the values of an enum, or of a ``Literal``."""
    members = [(v.value if isinstance(v, Enum) else v, v) for v in values]
    for value, _ in members:
        if value is not None and type(value) not in _TYPE_NAMES:
            raise _inexpressible(value, where)
    names = dict.fromkeys(_TYPE_NAMES.get(type(value), "null") for value, _ in members)
    found = {(isinstance(value, bool), value): member for value, member in members}
    plain = [value for value, _ in members]
    more = ", …" if len(plain) > _MAX_CHOICES else ""
    return Leaf(
        f"one of {', '.join(map(told, plain[:_MAX_CHOICES]))}{more}",
        {"type": next(iter(names)) if len(names) == 1 else list(names), "enum": plain},
        lambda value: found[isinstance(value, bool), value],
    )
