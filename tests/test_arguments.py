"""Arguments, checked where they are given."""

from typing import Any

import pytest

from reasoning_sdk import ConfigurationError, EventSink, RecordingSink
from reasoning_sdk.arguments import check_count, check_kind, check_methods


class Event:
    pass


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (5, "an int"),
        (1.5, "a float"),
        (None, "a NoneType"),
        (Event(), "an Event"),
        (Event, "the class Event"),
        (RecordingSink, "the class RecordingSink"),
    ],
)
def test_what_is_of_another_kind_is_refused_with_what_it_is(value: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_kind("sink", value, (EventSink,), "an EventSink")
    assert str(caught.value) == f"sink must be an EventSink, got {said}"


def test_what_is_of_the_kind_passes() -> None:
    check_kind("sink", RecordingSink(), (EventSink,), "an EventSink")


@pytest.mark.parametrize("value", [0, -1, 1.5, "1", True, None])
def test_a_count_is_a_positive_int(value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_count("depth", value)
    assert str(caught.value) == f"depth must be an int > 0, got {value!r}"
    check_count("depth", 1)


@pytest.mark.parametrize("value", [-1, 1.5, "0", False, None])
def test_a_count_may_be_zero_where_that_is_allowed(value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_count("depth", value, or_zero=True)
    assert str(caught.value) == f"depth must be an int >= 0, got {value!r}"
    check_count("depth", 0, or_zero=True)


class Wrapper:
    """Finds its methods when it is asked for them."""

    def __init__(self, inner: object) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


def test_what_finds_its_methods_when_asked_for_them_has_them():
    check_methods("x", Wrapper("text"), ("upper", "lower"), "a text")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (str, "the class str"),
        (b"", "a bytes without format"),
        (None, "a NoneType"),
        (5, "an int"),
    ],
)
def test_what_lacks_a_method_is_refused_with_what_it_lacks(value, said):
    with pytest.raises(ConfigurationError) as raised:
        check_methods("x", value, ("upper", "format"), "a text")
    assert str(raised.value) == f"x must be a text, got {said}"
