"""JSON, both ways: the one encoder and the one parser of the package."""

import dataclasses
import datetime
import decimal
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

__all__ = ["encode_json", "json_parser", "parse_json"]


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
    except (TypeError, ValueError, RecursionError) as exc:
        path, problem = next(_problems(value, "$", ()), ("$", str(exc)))
        raise InvalidEventError(f"{path} cannot be JSON: {problem}", path=path) from exc


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
    if isinstance(value, decimal.Decimal) and value.is_finite():
        return str(value)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        return value.item()
    raise TypeError(_unfit(value))


_ENCODER = json.JSONEncoder(
    default=_plain, allow_nan=False, ensure_ascii=False, separators=(",", ":")
)


def _unfit(value: Any) -> str:
    name = type(value).__name__
    return f"{value} is not finite" if isinstance(value, decimal.Decimal) else f"a {name}"


def _problems(value: Any, path: str, above: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    """Yield the path and the nature of what cannot be JSON, leaves in the order of the text."""
    if id(value) in above:
        yield path, "a reference to what it is part of"
    elif len(above) > 200:
        yield path, "nested too deeply"
    elif isinstance(value, dict):
        for key, part in value.items():
            if isinstance(key, (str, int, float, type(None))):
                yield from _problems(part, _join(path, key), (*above, id(value)))
            else:
                yield path, f"a key that is a {type(key).__name__}"
    elif isinstance(value, (list, tuple)):
        for index, part in enumerate(value):
            yield from _problems(part, f"{path}[{index}]", (*above, id(value)))
    elif isinstance(value, (str, int, float, type(None))):
        try:
            _ENCODER.encode(value).encode()
        except ValueError as exc:
            yield path, "a lone surrogate" if isinstance(value, str) else str(exc)
    else:
        try:
            plain = _plain(value)
        except TypeError as exc:
            yield path, str(exc)
        else:
            yield from _problems(plain, path, (*above, id(value)))


def _join(path: str, key: object) -> str:
    name = str(key)
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


def _loads(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
