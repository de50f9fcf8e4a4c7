"""JSON both ways: what is written and how, where a bad value is, and that parsers agree."""

import collections
import copy
import dataclasses
import datetime
import decimal
import enum
import json
import math
import os
import pathlib
import sys
import threading
import types
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reasoning_sdk import encoding
from reasoning_sdk.encoding import (
    as_object,
    encode_json,
    json_parser,
    parse_json,
    whole_characters,
)
from reasoning_sdk.errors import InvalidEventError

NAN = math.nan


# -- what is written ---------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"
    PAIR = (1, 2)


class Text(str, enum.Enum):
    KEY = "key"
    ODD = "odd key"


class Number(enum.IntEnum):
    ONE = 1


class Ratio(float, enum.Enum):
    HALF = 0.5
    NONE = NAN


class Bits(enum.Flag):
    A = 1
    B = 2


class IntBits(enum.IntFlag):
    A = 1
    B = 2


class Pair(NamedTuple):
    x: int
    y: Any


@attrs.frozen
class Point:
    x: Any
    _private: int = 0


@attrs.define(slots=False)
class Unset:
    x: int = attrs.field(init=False)


@dataclasses.dataclass
class Line:
    start: Any
    end: Any = None
    length: ClassVar[int] = 3
    scratch: dataclasses.InitVar[int] = 0


class Record(collections.UserDict):
    pass


class Where(os.PathLike):
    def __init__(self, path: Any) -> None:
        self.path = path

    def __fspath__(self) -> Any:
        if isinstance(self.path, Exception):
            raise self.path
        return self.path


class Broken(Mapping):
    def __getitem__(self, key: str) -> Any:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])

    def __len__(self) -> int:
        return 1


UTC = datetime.timezone.utc
EAST = datetime.timezone(datetime.timedelta(hours=5, minutes=30))
ID = uuid.UUID("12345678-1234-5678-1234-567812345678")

WRITTEN: list[tuple[Any, str]] = [
    # what json takes
    (None, "null"),
    (True, "true"),
    ([1, -2.5, "x", [], {}], '[1,-2.5,"x",[],{}]'),
    ((1, 2), "[1,2]"),
    (Pair(1, Line(2)), '[1,{"start":2,"end":null}]'),
    ({"a": 1, 2: 3, 1.5: 4, True: 5, None: 6}, '{"a":1,"2":3,"1.5":4,"true":5,"null":6}'),
    (2**70, "1180591620717411303424"),
    (1e300, "1e+300"),
    (collections.OrderedDict(b=1, a=2), '{"b":1,"a":2}'),
    # text is UTF-8 and escaped only where JSON asks for it
    ("Grüße 東京 🌸 \u2028", '"Grüße 東京 🌸 \u2028"'),
    ('"\\\n\x00\x7f', '"\\"\\\\\\n\\u0000\x7f"'),
    # enums
    (Colour.RED, '"red"'),
    (Colour.PAIR, "[1,2]"),
    (Text.KEY, '"key"'),
    (Number.ONE, "1"),
    (Ratio.HALF, "0.5"),
    (Bits.A | Bits.B, "3"),
    (IntBits.A | IntBits.B, "3"),
    ({Text.ODD: 1, Number.ONE: 2}, '{"odd key":1,"1":2}'),
    # attrs and dataclass instances, in one another
    (Point(1), '{"x":1,"_private":0}'),
    (Line(Point(Line(1))), '{"start":{"x":{"start":1,"end":null},"_private":0},"end":null}'),
    # other mappings
    (types.MappingProxyType({"a": Point(ID)}), f'{{"a":{{"x":"{ID}","_private":0}}}}'),
    (Record(a=Record()), '{"a":{}}'),
    (collections.ChainMap({"a": 1}, {"b": 2}), '{"b":2,"a":1}'),
    # times
    (datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), '"2026-01-02T03:04:05+00:00"'),
    (datetime.datetime(2026, 1, 2, 3, 4, 5, 6, EAST), '"2026-01-02T03:04:05.000006+05:30"'),
    (datetime.date(2026, 1, 2), '"2026-01-02"'),
    (datetime.time(3, 4, 5), '"03:04:05"'),
    # as strings
    (ID, f'"{ID}"'),
    (decimal.Decimal("0.10"), '"0.10"'),
    (decimal.Decimal("1E+400"), '"1E+400"'),
    (pathlib.PurePosixPath("/a/ü"), '"/a/ü"'),
    (Where("/b"), '"/b"'),
]  # fmt: skip


@pytest.mark.parametrize(("value", "text"), WRITTEN)
def test_a_value_is_written_as_promised(value, text):
    assert encode_json(value) == text.encode()
    assert encode_json({"at": [value]}) == f'{{"at":[{text}]}}'.encode()


@pytest.mark.parametrize("value", [value for value, _ in WRITTEN])
def test_what_is_written_is_json(value):
    parse_json(encode_json(value))


def test_a_naive_datetime_is_local_time():
    naive = datetime.datetime(2026, 7, 1, 12, 0)  # noqa: DTZ001
    written = datetime.datetime.fromisoformat(json.loads(encode_json(naive)))
    assert written.tzinfo is not None
    assert written == naive.astimezone()


def test_writing_changes_nothing():
    value = {"a": [Point({"b": Colour.RED})], "c": collections.ChainMap({"d": 1})}
    before = copy.deepcopy(value)
    encode_json(value)
    assert value == before


def test_one_value_may_stand_in_many_places():
    part = Point([1])
    assert encode_json([part, part, {"p": part}]).count(b'{"x":[1]') == 3


text = st.text(st.characters(exclude_categories=["Cs"]))
finite = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=20,
)


@given(json_values)
def test_what_is_written_reads_back_as_it_was(value):
    assert repr(json.loads(encode_json(value))) == repr(value)


# -- numpy -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "argument", "text"),
    [
        ("int64", 5, "5"),
        ("uint8", 5, "5"),
        ("float64", 1.5, "1.5"),
        ("float32", 1.5, "1.5"),
        ("bool_", True, "true"),
        ("str_", "x", '"x"'),
        ("datetime64", "2026-01-02", '"2026-01-02"'),
    ],
)
def test_numpy_scalars_are_written_as_what_they_hold(name, argument, text):
    numpy = pytest.importorskip("numpy")
    assert encode_json([getattr(numpy, name)(argument)]) == f"[{text}]".encode()


@pytest.mark.parametrize(
    ("name", "argument", "problem"),
    [
        ("float32", NAN, "nan is not finite"),
        ("float64", NAN, "nan is not finite"),
        ("complex64", 1, "a complex"),
        ("longdouble", 1, "a longdouble"),
        ("array", [1], "a ndarray"),
    ],
)
def test_numpy_values_that_cannot_be_json_are_refused(name, argument, problem):
    numpy = pytest.importorskip("numpy")
    with pytest.raises(InvalidEventError) as caught:
        encode_json({"a": getattr(numpy, name)(argument)})
    assert str(caught.value) == f"$.a cannot be JSON: {problem}"


class Scalar:
    """Stands for numpy's scalars where numpy is not installed."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def item(self) -> Any:
        return self if self.value is None else self.value


@pytest.fixture
def small_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", types.SimpleNamespace(generic=Scalar))


@pytest.mark.usefixtures("small_numpy")
def test_a_scalar_is_asked_for_what_it_holds():
    assert encode_json({"a": Scalar(Number.ONE)}) == b'{"a":1}'
    with pytest.raises(InvalidEventError, match=r"^\$\.a cannot be JSON: nan is not finite$"):
        encode_json({"a": Scalar(NAN)})


@pytest.mark.usefixtures("small_numpy")
def test_a_scalar_that_python_has_no_type_for_is_refused():
    with pytest.raises(InvalidEventError, match=r"^\$\.a cannot be JSON: a Scalar$"):
        encode_json({"a": Scalar(None)})


@pytest.mark.parametrize("numpy", [None, types.ModuleType("numpy")])
def test_a_numpy_that_is_blocked_or_half_imported_does_no_harm(numpy, monkeypatch):
    monkeypatch.setitem(sys.modules, "numpy", numpy)
    with pytest.raises(InvalidEventError, match=r"a Scalar$"):
        encode_json(Scalar(1))


def test_numpy_is_not_imported_for_our_sake(monkeypatch):
    monkeypatch.delitem(sys.modules, "numpy", raising=False)
    encode_json([Point(1), Colour.RED])
    with pytest.raises(InvalidEventError):
        encode_json(object())
    assert "numpy" not in sys.modules


# -- what cannot be JSON, and where ------------------------------------------------------------


def nested(depth: int, inner: Any) -> Any:
    for _ in range(depth):
        inner = [inner]
    return inner


def circle() -> Any:
    part: dict[str, Any] = {"first": 1}
    part["around"] = [part]
    return {"choices": part}


def attrs_circle() -> Any:
    part = Line(None)
    part.end = {"back": part}
    return part


REFUSED: list[tuple[Any, str, str]] = [
    # paths
    ({"choices": [1, 2, {"delta": {1}}]}, "$.choices[2].delta", "a set"),
    (object(), "$", "a object"),
    ([[[b""]]], "$[0][0][0]", "a bytes"),
    ({"a b": b""}, '$["a b"]', "a bytes"),
    ({"": b""}, '$[""]', "a bytes"),
    ({"a.b": b""}, '$["a.b"]', "a bytes"),
    ({'"\\\n': b""}, r'$["\"\\\n"]', "a bytes"),
    ({"0": b""}, '$["0"]', "a bytes"),
    ({"größe": b""}, "$.größe", "a bytes"),
    ({1: {None: {True: {1.5: b""}}}}, '$["1"].null.true["1.5"]', "a bytes"),
    ({Text.KEY: {Text.ODD: {Number.ONE: b""}}}, '$.key["odd key"]["1"]', "a bytes"),
    (Point([Line(1, b"")]), "$.x[0].end", "a bytes"),
    (types.MappingProxyType({"a": (0, b"")}), "$.a[1]", "a bytes"),
    (Pair(1, {"z": b""}), "$[1].z", "a bytes"),
    # the first in the order of the text
    ({"a": [1, b""], "b": {1}}, "$.a[1]", "a bytes"),
    ([{"ok": Colour.RED}, NAN, b""], "$[1]", "nan is not finite"),
    # kinds of values
    ([bytearray()], "$[0]", "a bytearray"),
    ([memoryview(b"")], "$[0]", "a memoryview"),
    ({"a": iter([])}, "$.a", "a list_iterator"),
    ({"a": 1j}, "$.a", "a complex"),
    ({"a": Point}, "$.a", "a type"),
    ({"a": Line}, "$.a", "a type"),
    ({"a": Where(b"x")}, "$.a", "a bytes"),
    ({"a": datetime.timedelta(1)}, "$.a", "a timedelta"),
    # numbers
    ([NAN], "$[0]", "nan is not finite"),
    ({"a": math.inf}, "$.a", "inf is not finite"),
    (-math.inf, "$", "-inf is not finite"),
    ({"a": Ratio.NONE}, "$.a", "nan is not finite"),
    ({"a": decimal.Decimal("NaN")}, "$.a", "NaN is not finite"),
    ({"a": decimal.Decimal("sNaN")}, "$.a", "sNaN is not finite"),
    ({"a": decimal.Decimal("-Infinity")}, "$.a", "-Infinity is not finite"),
    # text
    (["\ud800"], "$[0]", "a lone surrogate"),
    ({"a": "x\udfff"}, "$.a", "a lone surrogate"),
    # keys
    ({"a": {(1, 2): 3}}, "$.a", "a key that is a tuple"),
    ({"a": {b"k": 3}}, "$.a", "a key that is a bytes"),
    ({"a": {Colour.RED: 3}}, "$.a", "a key that is a Colour"),
    ({"a": {NAN: 3}}, "$.a", "a key: nan is not finite"),
    ({"a": {"\ud800": 3}}, "$.a", "a key: a lone surrogate"),
    # circles
    (circle(), "$.choices.around[0]", "a reference to what it is part of"),
    (attrs_circle(), "$.end.back", "a reference to what it is part of"),
    # values whose own code fails
    ({"a": Broken()}, "$.a", "'a'"),
    ({"a": Where(KeyError())}, "$.a", "KeyError"),
    ({"a": Where(OverflowError("too far"))}, "$.a", "too far"),
    # deep
    (nested(300, NAN), "$" + "[0]" * 300, "nan is not finite"),
    (nested(100_000, 1), "$", "nested too deeply"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "path", "problem"), REFUSED)
def test_a_value_that_cannot_be_json_is_refused_with_its_path(value, path, problem):
    with pytest.raises(InvalidEventError) as caught:
        encode_json(value)
    assert caught.value.path == path
    assert str(caught.value) == f"{path} cannot be JSON: {problem}"
    assert caught.value.__cause__ is not None


def test_a_mapping_that_raises_is_refused():
    class Raising(dict):  # type: ignore[type-arg]
        def items(self):
            raise ZeroDivisionError("in items")

    for value in (Raising(a=1), [Raising(a=1)]):
        with pytest.raises(InvalidEventError, match=r"^\$ cannot be JSON: in items"):
            encode_json(value)


def test_an_instance_with_an_attribute_unset_is_refused():
    with pytest.raises(InvalidEventError, match=r"^\$\.a cannot be JSON: .* no attribute 'x'"):
        encode_json({"a": Unset()})


def test_a_number_of_more_digits_than_python_writes_is_refused():
    with pytest.raises(InvalidEventError, match=r"^\$\.a\[0\] cannot be JSON: Exceeds the limit"):
        encode_json({"a": [10**5000]})
    with pytest.raises(InvalidEventError, match=r"^\$\.a cannot be JSON: a key: Exceeds the limit"):
        encode_json({"a": {10**5000: 1}})


def test_a_datetime_beyond_what_can_be_converted_is_refused():
    class Edge(datetime.datetime):
        def astimezone(self, tz: Any = None) -> Any:
            raise OverflowError("date value out of range")

    with pytest.raises(
        InvalidEventError, match=r"^\$\[0\] cannot be JSON: date value out of range"
    ):
        encode_json([Edge(1, 1, 1)])


def test_refusing_works_with_little_stack_left():
    def deep(frames: int) -> bytes:
        return encode_json({"a": b""}) if frames == 0 else deep(frames - 1)

    refusals = []
    for frames in range(sys.getrecursionlimit()):
        try:
            deep(frames)
        except InvalidEventError as error:
            refusals.append(str(error))
        except RecursionError:  # before it was called
            break
    assert len(refusals) > 100
    assert set(refusals) == {"$.a cannot be JSON: a bytes", "$ cannot be JSON: nested too deeply"}


def test_an_interrupt_is_not_swallowed():
    class Slow(Where):
        def __fspath__(self) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_json([Slow("")])


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
    | st.complex_numbers() | st.decimals() | st.datetimes(timezones=st.none() | st.just(UTC))
    | st.dates() | st.times() | st.uuids()
    | st.sampled_from([Colour.RED, Ratio.NONE, Bits.B, Point, Unset()]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.floats() | st.binary(), inner)
    | st.tuples(inner) | st.builds(Point, inner) | st.builds(Line, inner, inner)
    | st.builds(Pair, st.integers(), inner) | st.sets(st.integers()),
    max_leaves=10,
)  # fmt: skip


@given(anything)
def test_every_value_is_written_as_json_or_refused(value):
    error = None
    try:
        written = encode_json(value)
    except InvalidEventError as exc:
        error = exc
    if error is None:
        json.loads(written, parse_constant=pytest.fail)
    else:
        assert error.path.startswith("$")
        assert str(error).startswith(f"{error.path} cannot be JSON: ")
        assert not str(error).endswith(": ")


def test_many_threads_may_write_at_once():
    results = []
    threads = [
        threading.Thread(target=lambda n=n: results.append((n, encode_json([Point(n)] * 200))))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [(n, encode_json([Point(n)] * 200)) for n in range(8)]


# -- objects -----------------------------------------------------------------------------------


class Mapped(enum.Enum):
    ONE = {"a": 1}  # noqa: RUF012


@pytest.mark.parametrize(
    ("value", "members"),
    [
        ({"a": NAN}, {"a": NAN}),
        ({}, {}),
        (Point(1, b"x"), {"x": 1, "_private": b"x"}),
        (Line(Point(0, 0), Point(1, 1)), {"start": Point(0, 0), "end": Point(1, 1)}),
        (Record({"a": {1}}), {"a": {1}}),
        (types.MappingProxyType({1: 2}), {1: 2}),
        (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (Mapped.ONE, {"a": 1}),
    ],
)
def test_the_members_of_an_object_are_what_they_are(value, members):
    found = as_object(value)
    assert repr(dict(found)) == repr(members)
    assert isinstance(found, dict)


@pytest.mark.parametrize(
    "value",
    [None, True, 1, 1.5, "text", b"{}", [], (), {1}, Pair(1, 2), Point, Line, Colour.RED, Unset(),
     Broken(), uuid.UUID(int=1), datetime.date(2026, 1, 1), object()],
)  # fmt: skip
def test_what_is_no_object_is_refused(value):
    with pytest.raises(InvalidEventError, match=r"^\$ must be an object in JSON") as caught:
        as_object(value)
    assert caught.value.path == "$"


# -- reading -----------------------------------------------------------------------------------

Parse = Callable[[Any], Any]


@pytest.fixture(params=["with msgspec", "without msgspec"])
def parse(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Parse]:
    """The parser as it is with the extra ``speed``, and as it is without."""
    if request.param == "with msgspec":
        pytest.importorskip("msgspec")
    else:
        monkeypatch.setitem(sys.modules, "msgspec", None)
    json_parser.cache_clear()
    yield json_parser()
    json_parser.cache_clear()


def outcome(parse: Parse, text: str | bytes) -> str:
    """What a parser makes of a text; ``repr`` tells 1 from 1.0 and True, -0.0 from 0.0."""
    try:
        return repr(parse(text))
    except (ValueError, RecursionError) as error:
        return "ValueError" if isinstance(error, RecursionError) else type(error).__name__


TEXTS: list[str | bytes] = [
    "null", " [1, 2.0, -0, -0.0, 1E5, 1e-7] ", "\t\r\n{}\n", "", " ", "[", "[1,]", "{'a':1}", "01",
    "+1", ".5", "5.", "1e", "-", "tru", "True", "1 2", "\ufeff1", "\xa01", "\x0b1", "// c\n1",
    '"\n"', '"\x00"', '"\x7f\u2028"', r'"\u0000"', r'"\x41"', r'"\u00e9\ud83d\ude00"',
    # constants that are no JSON
    "NaN", "[Infinity, -Infinity]", "-NaN", "nan", "1e400", "-1e400",
    # numbers
    str(2**63), str(2**64), str(-(2**63) - 1), "9" * 100, "9" * 4300, "9" * 4301, "2.5e-324",
    "1e23", "9007199254740993.0", "0." + "0" * 400 + "1", "1." + "1" * 1000,
    "1234567890123456789e5",
    # duplicate keys: the last value in the first place
    '{"a":1,"b":2,"a":3}', r'{"a":1,"\u0061":2}',
    # surrogates
    r'"\ud800"', r'"\udc00\ud800"', r'"\ud800\u0041"', r'{"\ud800":1}', '"\ud800"',
    # bytes
    b"[1]", b"\xef\xbb\xbf1", b'"\xff"', b'"\xed\xa0\x80"', b'"\xf0\x9f\x98\x80"', b"",
    "[1]".encode("utf-16"), '"ü"'.encode("utf-16-le"), "{}".encode("utf-32-be"), b"\xff\xfe",
    # deep
    "[" * 200 + "]" * 200, "[" * 200_000 + "]" * 200_000, '{"a":' * 200_000, "[" * 200_000,
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text)[:40])
def test_the_parser_gives_what_json_gives(parse, text):
    assert outcome(parse, text) == outcome(json.loads, text)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, "[" * 200_000 + "]" * 200_000])
def test_too_deep_a_text_is_a_value_error(parse, text):
    with pytest.raises(ValueError, match=r"^nested too deeply$"):
        parse(text)


def differs(parsers: list[Parse], text: str | bytes) -> bool:
    return len({outcome(parser, text) for parser in [*parsers, json.loads]}) != 1


near_json = st.lists(
    st.sampled_from([
        *'[]{},:" \n\t-+.0123456789eE\\/', "true", "false", "null", "NaN", "Infinity", '"a"',
        '"a":', "\\u", "d800", "\\ud83d\\ude00", "\\n", "1e308", "0.1", "1e5", "\x00", "é", "🌸",
        "\ud800", "\ufeff", "18446744073709551616", "-9223372036854775809", "1234567.12345678e-5",
    ])
    | st.text(max_size=3)
    | st.floats().map(repr)
    | st.integers().map(str),
    max_size=12,
).map("".join)  # fmt: skip


@given(near_json)
@example('{"":0,"":1}')
def test_what_is_nearly_json_is_read_alike_with_and_without_msgspec(text):
    parsers = [encoding._loads, json_parser()]
    assert not differs(parsers, text)
    assert not differs(parsers, text.encode("utf-8", "surrogatepass"))


@given(json_values, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_json_is_read_alike_with_and_without_msgspec(value, ascii_only, indent):
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    for parser in (encoding._loads, json_parser(), parse_json):
        assert repr(parser(text)) == repr(parser(text.encode())) == repr(value)


@given(st.binary())
def test_any_bytes_are_read_alike_with_and_without_msgspec(text):
    assert not differs([encoding._loads, json_parser()], text)


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["%r", "%.25e", "%.17g", "%f"]),
)
def test_every_float_is_read_alike_with_and_without_msgspec(number, form):
    assert not differs([encoding._loads, json_parser()], form % number)


def test_msgspec_is_used_when_it_is_there(parse, request):
    with_msgspec = request.node.callspec.params["parse"] == "with msgspec"
    assert (parse is not encoding._loads) == with_msgspec


def test_the_parser_is_chosen_once():
    assert json_parser() is json_parser()


def test_reading_says_where_it_is_not_json():
    with pytest.raises(json.JSONDecodeError, match=r"line 1 column 2 \(char 1\)"):
        parse_json("[oops]")


# -- halves of characters ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("\ud83d" + "\ude00", "😀"),
        ("a\ud83d" + "\ude00b\ud83d", "a😀b\ufffd"),
        ("\ud83dx", "\ufffdx"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("\ud83d\ud83d\ude00", "\ufffd😀"),
        ("\ufeff\udfff", "\ufeff\ufffd"),
    ],
)
def test_halves_of_characters_are_joined_or_replaced_wherever_they_are(text, whole):
    assert whole_characters(text) == whole
    value = {text: [text, {"a": text, "n": [1, None, 1.5, True]}], "b": "東京"}
    mended = whole_characters(value)
    assert mended == {whole: [whole, {"a": whole, "n": [1, None, 1.5, True]}], "b": "東京"}
    encode_json(mended)


def test_a_text_without_halves_is_the_same_object():
    for text in ("", "plain", "東京 😀"):
        assert whole_characters(text) is text


@given(st.text(st.characters(exclude_categories=())))
def test_what_was_mended_can_be_written_and_is_as_long(text):
    whole = whole_characters(text)
    assert json.loads(encode_json(whole)) == whole == whole_characters(whole)
    assert len(whole.encode("utf-16-le")) == len(text.encode("utf-16-le", "surrogatepass"))


def test_what_the_parser_has_read_can_be_mended_however_deep(parse):
    text = "[" * 900 + r'"\ud83d"' + "]" * 900
    value = whole_characters(parse(text))
    for _ in range(900):
        (value,) = value
    assert value == "\ufffd"
