"""When to try again: delays, their bounds and ends, and what a server asks for."""

import copy
import itertools
import math
import pickle
import random
import time
from email.utils import formatdate

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning_sdk.errors import ConfigurationError
from reasoning_sdk.retry import Retries, RetryPolicy, retry_after

EXACT = RetryPolicy(randomization_factor=0.0)


def first(policy: RetryPolicy, count: int) -> list[float]:
    return list(itertools.islice(policy.delays(), count))


@pytest.fixture
def top(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dice fall as high as they can."""
    monkeypatch.setattr(random, "random", lambda: math.nextafter(1.0, 0.0))


@pytest.fixture
def bottom(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dice fall as low as they can."""
    monkeypatch.setattr(random, "random", lambda: 0.0)


# -- the policy, a value -----------------------------------------------------------------------


def test_the_defaults_are_those_of_the_contract():
    assert attrs.asdict(RetryPolicy()) == {
        "initial_interval": 0.5,
        "multiplier": 2.0,
        "max_interval": 30.0,
        "randomization_factor": 0.5,
        "max_attempts": None,
        "max_elapsed_time": None,
        "max_retry_after": 120.0,
    }


def test_a_policy_cannot_be_changed():
    policy = RetryPolicy()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        policy.max_attempts = 3
    assert attrs.evolve(policy, max_attempts=3) == RetryPolicy(max_attempts=3)
    assert policy == RetryPolicy()
    assert len({policy, RetryPolicy(), RetryPolicy(max_attempts=3)}) == 2


def test_a_policy_takes_keywords_only():
    with pytest.raises(TypeError):
        RetryPolicy(0.5)


@pytest.mark.parametrize(
    "clone", [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))]
)
def test_a_policy_can_be_copied_and_pickled(clone):
    policy = RetryPolicy(max_attempts=3, max_elapsed_time=1.5)
    assert clone(policy) == policy


NAN, INF, HUGE = math.nan, math.inf, 10**400
SECONDS = "> 0 seconds and finite"

INVALID = [
    *(("initial_interval", value, SECONDS) for value in (0, -1, NAN, INF, HUGE, "1", None, True)),
    *(("max_interval", value, SECONDS) for value in (0, -0.5, NAN, INF, HUGE, None)),
    *(("multiplier", v, ">= 1 and finite") for v in (0.99, 0, -2, NAN, INF, HUGE, None, "2")),
    *(("randomization_factor", v, "between 0 and 1") for v in (-0.1, 1.1, NAN, INF, None, False)),
    *(("max_attempts", v, "a whole number >= 0") for v in (-1, 1.5, NAN, INF, True, "3")),
    *(("max_elapsed_time", v, ">= 0 seconds") for v in (-1, -INF, NAN, False, "3")),
    *(("max_retry_after", v, ">= 0 seconds") for v in (-1, NAN, None, [])),
]


@pytest.mark.parametrize(("name", "value", "rule"), INVALID)
def test_a_value_out_of_range_is_refused_with_the_rule_and_the_value(name, value, rule):
    with pytest.raises(ConfigurationError) as caught:
        RetryPolicy(**{name: value})
    assert str(caught.value) == f"{name} must be {rule}, got {value!r}"


@pytest.mark.parametrize(
    "arguments",
    [
        {"initial_interval": 1, "max_interval": 1e-9, "multiplier": 1},
        {"randomization_factor": 0, "max_attempts": 0, "max_elapsed_time": 0},
        {"randomization_factor": 1, "max_attempts": 4.0, "max_retry_after": 0},
        {"max_elapsed_time": INF, "max_retry_after": INF, "max_attempts": HUGE},
    ],
)
def test_the_ends_of_the_ranges_are_in_them(arguments):
    policy = RetryPolicy(**arguments)
    assert {name: getattr(policy, name) for name in arguments} == arguments


# -- delays ------------------------------------------------------------------------------------


def test_the_nth_delay_is_the_initial_one_times_the_multiplier_to_the_nth():
    policy = RetryPolicy(
        initial_interval=0.5, multiplier=3.0, max_interval=1000.0, randomization_factor=0.0
    )
    assert first(policy, 6) == [0.5 * 3.0**n for n in range(6)]


def test_no_delay_is_longer_than_the_longest():
    assert first(EXACT, 9) == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert first(attrs.evolve(EXACT, initial_interval=50.0), 2) == [30.0, 30.0]
    assert first(attrs.evolve(EXACT, multiplier=1.0), 3) == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("multiplier", [1, 1.0001, 2, 2.0, 10, 1e300])
def test_a_hundred_thousand_delays_do_not_overflow(multiplier):
    policy = attrs.evolve(EXACT, multiplier=multiplier, max_interval=60.0)
    *_, last = first(policy, 100_000)
    assert last == (0.5 if multiplier == 1 else 60.0 if multiplier >= 2 else pytest.approx(60.0))


@pytest.mark.usefixtures("top")
def test_jitter_comes_after_the_cap_and_adds_its_factor_at_most():
    assert first(RetryPolicy(), 8) == pytest.approx([1.5 * d for d in first(EXACT, 8)])
    assert max(first(RetryPolicy(), 8)) <= 45.0


@pytest.mark.usefixtures("bottom")
def test_jitter_takes_its_factor_away_at_most():
    assert first(RetryPolicy(), 8) == [0.5 * d for d in first(EXACT, 8)]
    assert first(RetryPolicy(randomization_factor=1.0), 8) == [0.0] * 8


@given(
    st.floats(0, 1),
    st.floats(1e-3, 1e3),
    st.floats(1, 10),
    st.floats(1e-3, 1e4),
)
def test_every_delay_is_within_its_bounds(factor, initial, multiplier, longest):
    policy = RetryPolicy(
        initial_interval=initial,
        multiplier=multiplier,
        max_interval=longest,
        randomization_factor=factor,
    )
    for n, delay in enumerate(first(policy, 20)):
        middle = min(initial * multiplier**n, longest)
        low, high = middle * (1 - factor), middle * (1 + factor)
        assert low * (1 - 1e-9) <= delay <= high * (1 + 1e-9)


def test_jitter_spreads_evenly():
    random.seed(7)
    policy = RetryPolicy(initial_interval=1.0, multiplier=1.0)
    delays = first(policy, 4000)
    fifths = [sum(low <= d < low + 0.2 for d in delays) for low in (0.5, 0.7, 0.9, 1.1, 1.3)]
    assert sum(fifths) == 4000
    assert all(700 < count < 900 for count in fifths)


def test_every_call_starts_afresh():
    policy = attrs.evolve(EXACT, max_attempts=3)
    assert list(policy.delays()) == list(policy.delays()) == [0.5, 1.0, 2.0]
    one, other = policy.delays(), policy.delays()
    assert [next(one), next(one), next(other), next(one)] == [0.5, 1.0, 0.5, 2.0]


@pytest.mark.parametrize("count", [0, 1, 4, 100])
def test_attempts_count_retries(count):
    assert len(list(RetryPolicy(max_attempts=count).delays())) == count


@pytest.mark.parametrize(
    ("most", "delays"),
    [(0.0, []), (0.4, []), (0.5, [0.5]), (3.4, [0.5, 1.0]), (3.5, [0.5, 1.0, 2.0])],
)
def test_the_delays_end_before_their_sum_passes_the_time(most, delays):
    assert list(attrs.evolve(EXACT, max_elapsed_time=most).delays()) == delays


def test_the_first_of_both_limits_ends_the_delays():
    assert len(list(attrs.evolve(EXACT, max_elapsed_time=10.0, max_attempts=2).delays())) == 2
    assert len(list(attrs.evolve(EXACT, max_elapsed_time=1.5, max_attempts=9).delays())) == 2


# -- the retries of one call -------------------------------------------------------------------


def test_attempts_are_counted_when_they_are_granted():
    retries = Retries(attrs.evolve(EXACT, max_attempts=2), 100.0)
    assert retries.attempts == 0
    assert [retries.next_delay(100.0) for _ in range(4)] == [0.5, 1.0, None, None]
    assert retries.attempts == 2


def test_time_is_counted_from_the_first_try():
    policy = attrs.evolve(EXACT, max_elapsed_time=10.0)
    assert Retries(policy, 100.0).next_delay(109.5) == 0.5
    assert Retries(policy, 100.0).next_delay(109.6) is None


def test_what_the_server_asks_for_takes_the_place_of_a_delay():
    retries = Retries(RetryPolicy(max_attempts=5, max_retry_after=60.0), 0.0)
    assert retries.next_delay(0.0, 0.0) == 0.0
    assert retries.next_delay(0.0, 7.25) == 7.25
    assert retries.next_delay(0.0, 60.5) == 60.0
    assert retries.next_delay(0.0, math.inf) == 60.0
    assert retries.attempts == 4


def test_what_the_server_asks_for_counts_as_one_of_the_delays():
    retries = Retries(EXACT, 0.0)
    assert retries.next_delay(0.0) == 0.5
    assert retries.next_delay(0.0, 9.0) == 9.0
    assert retries.next_delay(0.0) == 2.0


def test_what_the_server_asks_for_ends_the_retries_when_it_is_too_long_for_the_time():
    retries = Retries(attrs.evolve(EXACT, max_elapsed_time=10.0), 0.0)
    assert retries.next_delay(1.0, 9.5) is None
    assert retries.attempts == 0
    assert retries.next_delay(1.0, 9.0) == 9.0


# -- Retry-After -------------------------------------------------------------------------------

NOW = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        (" 7 ", 7.0),
        ("1.5", 1.5),
        ("-5", 0.0),
        ("99999999999", 99999999999.0),
    ],
)
def test_seconds_are_read(value, seconds):
    assert retry_after({"retry-after": value}, NOW) == seconds


@pytest.mark.parametrize(
    "date",
    [
        "Sun, 06 Nov 1994 08:50:37 GMT",  # IMF-fixdate
        "Sunday, 06-Nov-94 08:50:37 GMT",  # RFC 850
        "Sun Nov  6 08:50:37 1994",  # asctime
        "Sun, 06 Nov 1994 08:50:37 -0000",
        "Sun, 06 Nov 1994 08:50:37 +0000",
        "Sun, 06 Nov 1994 10:50:37 +0200",
        "06 Nov 1994 08:50:37 GMT",
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Tokyo"])
def test_an_http_date_is_read_whatever_its_form_and_the_local_zone(date, zone, monkeypatch):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert retry_after({"retry-after": date}, NOW) == 60.0
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_date_that_has_passed_is_now():
    assert retry_after({"retry-after": formatdate(NOW - 3600, usegmt=True)}, NOW) == 0.0


def test_a_date_is_seconds_from_now_with_their_fraction():
    assert retry_after({"retry-after": formatdate(NOW + 60, usegmt=True)}, NOW + 0.25) == 59.75


GARBAGE = [
    "", " ", "soon", "nan", "inf", "-inf", "Infinity", "1e400", "1,5", "2 minutes", "0x10", "Mon,",
    "Sun, 06 Nov", "Sun, 99 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 99999 08:49:37 GMT",
    "Sun, 06 Nov 1994 25:61:61 GMT", "Sun, 06 Nov 1994 08:49:37 +999999999999", "\x00", "é",
]  # fmt: skip


@pytest.mark.parametrize("value", GARBAGE)
@pytest.mark.parametrize("name", ["retry-after", "retry-after-ms"])
def test_what_cannot_be_read_says_nothing(name, value):
    assert retry_after({name: value}, NOW) is None


def test_no_header_says_nothing():
    assert retry_after({}, NOW) is None
    assert retry_after({"date": "Sun, 06 Nov 1994 08:49:37 GMT"}, NOW) is None


def test_milliseconds_win():
    assert retry_after({"retry-after-ms": "1500", "retry-after": "60"}, NOW) == 1.5
    assert retry_after({"retry-after-ms": "0", "retry-after": "60"}, NOW) == 0.0
    assert retry_after({"retry-after-ms": "12.5"}, NOW) == 0.0125
    assert retry_after({"retry-after-ms": "-1"}, NOW) == 0.0


@pytest.mark.parametrize("garbage", GARBAGE)
def test_milliseconds_that_cannot_be_read_leave_it_to_the_seconds(garbage):
    assert retry_after({"retry-after-ms": garbage, "retry-after": "60"}, NOW) == 60.0


WORDS = [
    "Sun,", "Sunday,", "Sun", "06", "6", "-Nov-", "Nov", "06-Nov-94", "1994", "94", "08:49:37",
    "8:49", "08.49.37", "GMT", "-0000", "+0200", "EST", "-", ",", ":", ".", "--", "0", "99",
    "12345", "(c)", "+999999999999",
]  # fmt: skip
dates = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)


@given(st.one_of(st.text(), dates, st.floats().map(str), st.integers().map(str)))
def test_whatever_a_server_sends_is_a_wait_or_nothing(value):
    for name in ("retry-after", "retry-after-ms"):
        seconds = retry_after({name: value}, NOW)
        assert seconds is None or 0 <= seconds < math.inf


# -- numbers larger than any float -------------------------------------------------------------


@pytest.mark.parametrize(
    ("initial", "multiplier", "longest", "delays"),
    [
        (1e-250, 1e200, 30.0, [1e-250, 1e-50, 30.0, 30.0]),
        (1e-300, 1e155, 1e300, [1e-300, 1e-145, 1e10, 1e165, 1e300, 1e300]),
    ],
)
def test_a_power_beyond_any_float_is_no_reason_to_crash(initial, multiplier, longest, delays):
    policy = attrs.evolve(
        EXACT, initial_interval=initial, multiplier=multiplier, max_interval=longest
    )
    assert first(policy, len(delays)) == pytest.approx(delays)


def test_delays_that_start_next_to_nothing_grow_through_all_powers():
    policy = attrs.evolve(EXACT, initial_interval=5e-324, multiplier=10)
    assert first(policy, 400)[-1] == 30.0


@pytest.mark.parametrize("value", [10**5000, -(10**5000)], ids=["large", "small"])
def test_a_number_too_long_to_be_written_is_refused(value):
    with pytest.raises(ConfigurationError, match=r"max_interval must be .* of 16610 bits"):
        RetryPolicy(max_interval=value)
