"""When a WebSocket connects again: the states, what is final, the delays, and how it ends."""

import random
from typing import Any

import attrs
import pytest

from reasoning_sdk._core.reconnect import ConnectionState, End, Reconnection, Retry
from reasoning_sdk.errors import (
    APIStatusError,
    ConfigurationError,
    ConnectError,
    ConnectionLostError,
    ConnectTimeoutError,
    IdleTimeoutError,
    ProtocolError,
    ReasoningError,
    StateError,
)
from reasoning_sdk.retry import RetryPolicy

POLICY = RetryPolicy(
    initial_interval=1.0,
    multiplier=2.0,
    max_interval=30.0,
    max_attempts=10,
    randomization_factor=0.0,
)
REFUSED = ConnectError("refused")


def lost(code: int | None = 1006) -> ConnectionLostError:
    return ConnectionLostError("the connection was lost", close_code=code)


def status(code: int, **fields: Any) -> APIStatusError:
    return APIStatusError.for_status(code)(f"status {code}", status_code=code, **fields)


def connecting(**options: Any) -> Reconnection:
    should_reconnect = options.pop("should_reconnect", None)
    return Reconnection(attrs.evolve(POLICY, **options), should_reconnect)


def opened(**options: Any) -> Reconnection:
    """Open since 0."""
    life = connecting(**options)
    life.opened(0.0)
    return life


def reconnecting(**options: Any) -> Reconnection:
    """Lost at 0 after it had worked; the first attempt is due at 1."""
    life = opened(**options)
    life.message()
    assert life.lost(lost(), 0.0) == Retry(1.0, 1)
    return life


def closed(**options: Any) -> Reconnection:
    life = opened(**options)
    life.close()
    return life


def delays_of(life: Reconnection, count: int, error: ReasoningError = REFUSED) -> list[float]:
    """The delays after so many losses on end."""
    found = []
    for _ in range(count):
        action = life.lost(error, 0.0)
        assert isinstance(action, Retry)
        found.append(action.delay)
    return found


# -- the table ---------------------------------------------------------------------------------

INPUTS = {
    "opened": lambda life: life.opened(5.0),
    "message": lambda life: life.message(),
    "lost": lambda life: life.lost(lost(), 5.0),
    "lost for good": lambda life: life.lost(lost(1008), 5.0),
    "close": lambda life: life.close(),
}
TABLE = [
    (connecting, "opened", ConnectionState.OPEN, None),
    (connecting, "message", ConnectionState.CONNECTING, None),
    (connecting, "lost", ConnectionState.CLOSED, End),
    (connecting, "lost for good", ConnectionState.CLOSED, End),
    (connecting, "close", ConnectionState.CLOSED, None),
    (opened, "opened", ConnectionState.OPEN, None),
    (opened, "message", ConnectionState.OPEN, None),
    (opened, "lost", ConnectionState.RECONNECTING, Retry),
    (opened, "lost for good", ConnectionState.CLOSED, End),
    (opened, "close", ConnectionState.CLOSED, None),
    (reconnecting, "opened", ConnectionState.OPEN, None),
    (reconnecting, "message", ConnectionState.RECONNECTING, None),
    (reconnecting, "lost", ConnectionState.RECONNECTING, Retry),
    (reconnecting, "lost for good", ConnectionState.CLOSED, End),
    (reconnecting, "close", ConnectionState.CLOSED, None),
    (closed, "opened", ConnectionState.CLOSED, None),
    (closed, "message", ConnectionState.CLOSED, None),
    (closed, "lost", ConnectionState.CLOSED, End),
    (closed, "lost for good", ConnectionState.CLOSED, End),
    (closed, "close", ConnectionState.CLOSED, None),
]


@pytest.mark.parametrize(("state", "input", "after", "action"), TABLE)
def test_an_input_leads_from_a_state_to_a_state(state, input, after, action):
    life = state()
    answer = INPUTS[input](life)
    assert life.state is after
    assert answer is None if action is None else type(answer) is action


def test_the_table_is_whole():
    assert len({(state, input) for state, input, *_ in TABLE}) == len(ConnectionState) * len(INPUTS)


def test_a_new_one_connects_and_has_no_error():
    life = connecting()
    assert (life.state, life.attempts, life.error) == (ConnectionState.CONNECTING, 0, None)


@pytest.mark.parametrize("error", [REFUSED, lost(), status(401), status(503, retry_after=1.0)])
def test_a_failure_of_the_first_connect_ends_it_with_that_very_error(error):
    asked = []
    life = connecting(should_reconnect=lambda error: asked.append(error) or True)
    action = life.lost(error, 0.0)
    assert isinstance(action, End)
    assert action.error is error
    assert (life.error, life.attempts, asked) == (error, 0, [])


def test_one_that_we_closed_has_no_error():
    life = reconnecting()
    life.close()
    assert life.error is None
    assert life.lost(lost(), 1.0) == End(None)
    assert life.error is None


def test_the_first_reason_for_the_end_stays():
    life = opened()
    error = lost(1008)
    life.lost(error, 0.0)
    assert life.lost(REFUSED, 1.0) == End(None)
    life.close()
    life.opened(2.0)
    assert life.error is error
    assert life.state is ConnectionState.CLOSED


# -- what is final -----------------------------------------------------------------------------

FINAL = [
    *(status(code) for code in (400, 403, 404)),
    *(lost(code) for code in (1008, 4001, 4003)),
    ConfigurationError("headers must be a mapping, got 1"),
]
PASSING = [
    *(status(code, body="x") for code in (402, 409, 410, 422, 429, 500, 502, 503, 504)),
    *(lost(code) for code in (None, 1000, 1001, 1002, 1006, 1009, 1011, 1012, 1013, 4000, 4002)),
    REFUSED,
    ConnectTimeoutError("no connection within 10 seconds"),
    IdleTimeoutError("no message for 10 seconds"),
    ProtocolError("a bad frame"),
    StateError("odd"),
]


@pytest.mark.parametrize("error", FINAL, ids=repr)
@pytest.mark.parametrize("state", [opened, reconnecting])
def test_an_error_that_another_try_would_not_change_ends_it(state, error):
    life = state()
    action = life.lost(error, 0.0)
    assert action == End(error)
    assert life.error is error


@pytest.mark.parametrize("error", PASSING, ids=repr)
@pytest.mark.parametrize("state", [opened, reconnecting])
def test_any_other_error_is_worth_another_try(state, error):
    life = state()
    assert isinstance(life.lost(error, 0.0), Retry)
    assert life.error is None


def test_an_error_that_is_said_to_be_final_ends_it_without_a_question():
    asked = []
    life = opened(should_reconnect=lambda error: asked.append(error) or True)
    error = ProtocolError("a message of 17 MiB is larger than max_size")
    assert life.lost(error, 0.0, final=True) == End(error)
    assert (life.error, asked) == (error, [])


@pytest.mark.parametrize("error", [*FINAL, *PASSING, status(401)], ids=repr)
@pytest.mark.parametrize("answer", [True, False])
def test_should_reconnect_decides_instead(error, answer):
    asked = []
    life = reconnecting()
    life._should_reconnect = lambda error: asked.append(error) or answer
    action = life.lost(error, 0.0)
    assert action == End(error) if not answer else isinstance(action, Retry)
    assert asked == [error]


def test_should_reconnect_does_not_lift_the_limit():
    life = opened(should_reconnect=lambda error: True, max_attempts=2)
    assert delays_of(life, 2, lost(1008)) == [1.0, 2.0]
    assert isinstance(life.lost(lost(1008), 0.0), End)


@pytest.mark.parametrize("answer", [True, False])
def test_should_reconnect_may_close_it(answer):
    life = opened(should_reconnect=lambda error: life.close() or answer)
    assert life.lost(lost(), 0.0) == End(None)
    assert (life.state, life.error) == (ConnectionState.CLOSED, None)


def test_what_should_reconnect_raises_comes_through_and_changes_nothing():
    def fail(error: ReasoningError) -> bool:
        raise ZeroDivisionError

    life = opened(should_reconnect=fail)
    with pytest.raises(ZeroDivisionError):
        life.lost(lost(), 0.0)
    assert (life.state, life.attempts, life.error) == (ConnectionState.OPEN, 0, None)


# -- 401 ---------------------------------------------------------------------------------------


def test_a_401_is_tried_again_at_once_with_fresh_credentials():
    life = reconnecting()
    assert life.lost(status(401, retry_after=9.0), 1.0) == Retry(0.0, 2)
    assert life.attempts == 1


def test_a_second_401_ends_it():
    life = reconnecting()
    life.lost(status(401), 1.0)
    error = status(401)
    assert life.lost(error, 1.0) == End(error)


def test_a_401_after_other_failures_than_an_open_connection_is_the_second():
    life = reconnecting()
    life.lost(status(401), 1.0)
    life.lost(REFUSED, 1.0)
    error = status(401)
    assert life.lost(error, 5.0) == End(error)


def test_credentials_may_be_refreshed_again_after_a_connection():
    life = reconnecting()
    for attempt in (2, 4, 6):
        assert life.lost(status(401), 1.0) == Retry(0.0, attempt)
        life.opened(1.0)
        assert life.lost(lost(), 1.0).attempt == attempt + 1


def test_a_401_is_refreshed_though_the_attempts_are_used_up():
    life = reconnecting(max_attempts=1)
    assert life.lost(status(401), 1.0) == Retry(0.0, 2)
    error = status(401)
    assert life.lost(error, 2.0) == End(error)
    life = reconnecting(max_attempts=1)
    life.lost(status(401), 1.0)
    action = life.lost(REFUSED, 2.0)
    assert isinstance(action.error, ConnectionLostError)
    assert action.error.attempts == 2


def test_a_401_for_which_should_reconnect_stands_up_is_at_once_only_the_first_time():
    life = reconnecting(should_reconnect=lambda error: True)
    assert delays_of(life, 3, status(401)) == [0.0, 2.0, 4.0]


# -- delays ------------------------------------------------------------------------------------


def test_delays_grow_up_to_the_longest():
    assert delays_of(opened(), 8) == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_attempts_are_numbered_from_one_and_count_when_they_have_failed():
    life = opened()
    for number in range(1, 5):
        action = life.lost(REFUSED, 0.0)
        assert (action.attempt, life.attempts) == (number, number - 1)


def test_delays_are_spread_around_themselves():
    life = opened(randomization_factor=0.5, max_attempts=None, multiplier=1.0)
    random.seed(7)
    delays = delays_of(life, 500)
    assert 0.5 <= min(delays) < 0.6
    assert 1.4 < max(delays) <= 1.5


@pytest.mark.parametrize(
    ("error", "delay"),
    [
        (status(503, retry_after=7.0), 7.0),
        (status(429, retry_after=0.0), 0.0),
        (status(503, retry_after=1e6), 120.0),
        (status(503), 1.0),
        (REFUSED, 1.0),
    ],
)
def test_what_the_server_asks_for_takes_the_place_of_the_delay(error, delay):
    assert opened().lost(error, 0.0) == Retry(delay, 1)


# -- when the count starts again ---------------------------------------------------------------


def test_the_count_and_the_delays_start_again_with_a_message():
    life = opened()
    assert delays_of(life, 4) == [1.0, 2.0, 4.0, 8.0]
    life.opened(0.0)
    assert life.attempts == 3
    life.message()
    life.message()
    assert life.attempts == 0
    assert life.lost(lost(), 0.5) == Retry(1.0, 1)
    assert life.attempts == 0


def test_a_message_of_one_connection_does_not_count_for_the_next():
    life = opened()
    life.message()
    life.lost(lost(), 0.0)
    life.opened(1.0)
    assert life.lost(lost(), 1.0) == Retry(2.0, 2)


def test_a_message_between_two_connections_is_ignored():
    life = opened()
    delays_of(life, 3)
    life.message()
    assert life.attempts == 2
    assert life.lost(REFUSED, 0.0) == Retry(8.0, 4)


@pytest.mark.parametrize(
    ("seconds", "action"), [(59.9, Retry(8.0, 4)), (60.0, Retry(1.0, 1)), (3600.0, Retry(1.0, 1))]
)
def test_the_count_starts_again_after_a_connection_of_60_seconds(seconds, action):
    life = opened()
    delays_of(life, 3)
    life.opened(1000.0)
    assert life.lost(lost(), 1000.0 + seconds) == action
    assert life.attempts == action.attempt - 1


def test_60_seconds_of_attempts_do_not_count_as_a_connection():
    life = opened()
    life.lost(lost(), 0.0)
    assert life.lost(REFUSED, 100.0) == Retry(2.0, 2)


def test_a_server_that_accepts_and_closes_sees_growing_delays_and_the_end():
    life, now, delays = opened(max_attempts=6), 0.0, []
    while isinstance(action := life.lost(lost(1000), now), Retry):
        delays.append(action.delay)
        now += action.delay
        life.opened(now)
    assert delays == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0]
    assert action.error.attempts == 6


# -- used up -----------------------------------------------------------------------------------


def test_it_ends_after_so_many_attempts_with_what_the_last_one_failed_with():
    life = opened(max_attempts=3)
    delays_of(life, 3)
    action = life.lost(REFUSED, 0.0)
    assert isinstance(action, End)
    error = action.error
    assert type(error) is ConnectionLostError
    assert str(error) == "no connection after 3 attempts: refused"
    assert (error.attempts, error.close_code, error.last_error) == (3, None, REFUSED)
    assert error.__cause__ is REFUSED
    assert life.error is error
    assert (life.state, life.attempts) == (ConnectionState.CLOSED, 3)


def test_the_close_code_of_the_last_error_is_kept():
    life = opened(max_attempts=0)
    assert life.lost(lost(1001), 0.0).error.close_code == 1001


def test_it_is_not_connected_again_where_no_attempt_is_allowed():
    life = opened(max_attempts=0)
    life.message()
    error = life.lost(lost(), 0.0).error
    assert str(error) == "no connection after 0 attempts: the connection was lost"
    assert error.attempts == 0


def test_without_a_limit_it_goes_on():
    life = opened(max_attempts=None)
    assert set(delays_of(life, 2000)[5:]) == {30.0}
    assert life.attempts == 1999


def test_the_time_allowed_counts_from_the_loss():
    life = connecting(max_elapsed_time=10.0)
    life.opened(100.0)
    life.message()
    for now, action in ((130.0, Retry(1.0, 1)), (131.0, Retry(2.0, 2)), (133.0, Retry(4.0, 3))):
        assert life.lost(REFUSED, now) == action
    assert isinstance(life.lost(REFUSED, 137.0), End)


def test_a_connection_that_worked_gives_the_time_back():
    life = opened(max_elapsed_time=10.0)
    life.lost(REFUSED, 0.0)
    life.opened(9.0)
    life.message()
    assert life.lost(lost(), 20.0) == Retry(1.0, 1)


def test_a_retry_after_beyond_the_time_allowed_ends_it():
    life = opened(max_elapsed_time=10.0)
    assert isinstance(life.lost(status(503, retry_after=11.0), 0.0), End)
