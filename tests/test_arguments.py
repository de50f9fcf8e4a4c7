"""Arguments, checked where they are given."""

from typing import Any

import pytest

from reasoning_sdk import ConfigurationError, EventSink, RecordingSink
from reasoning_sdk.arguments import check_count, check_kind


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
