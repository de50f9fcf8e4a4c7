"""JSON, both ways: the one encoder and the one parser of the package."""

import dataclasses
import datetime
import enum
import json
import os
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import attrs

from reasoning_sdk.errors import InvalidEventError

__all__ = ["as_object", "encode_json", "json_parser", "parse_json", "whole_characters"]


def encode_json(value: Any) -> bytes:
    """Write a value as JSON. Safe to call from any thread.

    Beside what :func:`json.dumps` takes: attrs and dataclass instances and other mappings (as
    objects), enums (their values), datetimes, dates and times (RFC 3339; a naive datetime is local
    time), UUIDs, Decimals and paths (as strings), and numpy scalars.

    Args:
        value: Anything made of the above.

    Returns:
        UTF-8, without white space.

    Raises:
        InvalidEventError: A value that cannot be JSON, NaN and infinities included; its ``path``
            and message say where it is.
    """
    try:
        return _ENCODER.encode(value).encode()
    except Exception as exc:  # also what the code of the value's own parts raises
        path, problem = _problem(value) or ("$", str(exc))
        raise InvalidEventError(f"{path} cannot be JSON: {problem}", path=path) from exc


def as_object(value: Any) -> dict[str, Any]:
    """The members of what is an object in JSON. Safe to call from any thread.

    Raises:
        InvalidEventError: It is something else.
    """
    try:
        plain = value if isinstance(value, dict) else _plain(value)
    except Exception as exc:  # also what the code of the value's own raises
        raise InvalidEventError(f"$ must be an object in JSON: {exc}") from exc
    if not isinstance(plain, dict):
        raise InvalidEventError(f"$ must be an object in JSON, got a {type(value).__name__}")
    return plain


def _loaded(module: str, name: str) -> Any:
    """A class of a module that is slow to import, or none: without it there are no instances."""
    return getattr(sys.modules.get(module), name, ())


def _plain(value: Any) -> Any:
    """One step from a rich value towards what :mod:`json` knows."""
    if attrs.has(type(value)):
        return {f.name: getattr(value, f.name) for f in attrs.fields(type(value))}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, datetime.datetime):
        return (value if value.tzinfo else value.astimezone()).isoformat()
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (uuid.UUID, os.PathLike)):
        return os.fspath(value) if isinstance(value, os.PathLike) else str(value)
    if isinstance(value, _loaded("decimal", "Decimal")) and value.is_finite():
        return str(value)
    numpy_scalar = _loaded("numpy", "generic")
    if isinstance(value, numpy_scalar):
        plain = value.item()
        if not isinstance(plain, numpy_scalar):  # as that of a long double is
            return plain
    raise TypeError(_unfit(value))


_ENCODER = json.JSONEncoder(
    default=_plain, allow_nan=False, ensure_ascii=False, separators=(",", ":")
)


def _unfit(value: Any) -> str:
    name = type(value).__name__
    return (
        f"{value} is not finite"
        if isinstance(value, _loaded("decimal", "Decimal"))
        else f"a {name}"
    )


def _problem(value: Any) -> tuple[str, str] | None:
    """The path and the nature of what first, in the order of the text, cannot be JSON."""
    try:
        return next(_problems(value, "$", ()), None)
    except RecursionError:
        return "$", "nested too deeply"
    except Exception:  # of the code of a mapping, or another part, of its own kind
        return None


def _problems(value: Any, path: str, above: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    inside = (*above, id(value))
    if id(value) in above:
        yield path, "a reference to what it is part of"
    elif isinstance(value, dict):
        for key, part in value.items():
            if not isinstance(key, (str, int, float, type(None))):
                yield path, f"a key that is a {type(key).__name__}"
            elif problem := _problem_of_leaf(key):
                yield path, f"a key: {problem}"
            else:
                yield from _problems(part, _join(path, key), inside)
    elif isinstance(value, (list, tuple)):
        for index, part in enumerate(value):
            yield from _problems(part, f"{path}[{index}]", inside)
    elif isinstance(value, (str, int, float, type(None))):
        if problem := _problem_of_leaf(value):
            yield path, problem
    else:
        try:
            plain = _plain(value)
        except RecursionError:
            raise
        except Exception as exc:
            yield path, str(exc) or type(exc).__name__
        else:
            yield from _problems(plain, path, inside)


def _problem_of_leaf(value: str | float | None) -> str:
    try:
        _ENCODER.encode(value).encode()
    except ValueError as exc:
        if isinstance(value, float):
            return f"{float(value)} is not finite"
        return "a lone surrogate" if isinstance(value, str) else str(exc)
    return ""


def _join(path: str, key: str | float | None) -> str:
    name = str.__str__(key) if isinstance(key, str) else _ENCODER.encode(key)  # an enum's value
    return f"{path}.{name}" if name.isidentifier() else f"{path}[{json.dumps(name)}]"


def parse_json(text: str | bytes) -> Any:
    """Read JSON. Safe to call from any thread.

    Raises:
        ValueError: It is not JSON, or nested too deeply.
    """
    return json_parser()(text)


@cache
def json_parser() -> Callable[[str | bytes], Any]:
    """The fastest parser at hand that gives what :func:`json.loads` gives.

    msgspec when it is installed (the extra ``speed``). Whatever it refuses, :mod:`json` decides.
    """
    try:
        import msgspec  # noqa: PLC0415  # costs too much to import before it is needed
    except ImportError:
        return _loads
    decode = msgspec.json.Decoder().decode

    def parse(text: str | bytes) -> Any:
        try:
            return decode(text)
        except Exception:  # msgspec refuses what json takes, in several ways
            return _loads(text)

    return parse


def whole_characters(value: Any) -> Any:
    """JSON without halves of characters. Safe to call from any thread.

    Who cuts text in units of UTF-16 may cut a character in two. Halves that have come together
    again are that character, and any other becomes U+FFFD.

    Args:
        value: What a parser has given.

    Returns:
        The value; a text in which there is nothing to mend is the same object.
    """
    if isinstance(value, str):
        return _whole(value)
    if isinstance(value, dict):
        members = zip(map(_whole, value), map(whole_characters, value.values()), strict=True)
        return dict(members)
    return list(map(whole_characters, value)) if isinstance(value, list) else value


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _loads(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
