"""The machine's clock, as far as a clock can be tested."""

import threading
import time

import pytest

from reasoning_sdk._io.clock import SYSTEM_CLOCK

pytestmark = pytest.mark.http


def test_it_tells_the_times_of_the_machine() -> None:
    assert abs(SYSTEM_CLOCK.time() - time.time()) < 5.0
    assert abs(SYSTEM_CLOCK.monotonic() - time.monotonic()) < 5.0
    assert SYSTEM_CLOCK.monotonic() <= SYSTEM_CLOCK.monotonic()


def test_a_wait_ends_at_once_when_the_event_is_set() -> None:
    event = threading.Event()
    event.set()
    assert SYSTEM_CLOCK.wait(event, 60.0) is True


@pytest.mark.parametrize("seconds", [0.0, 0.001])
def test_a_wait_ends_after_its_seconds(seconds: float) -> None:
    assert SYSTEM_CLOCK.wait(threading.Event(), seconds) is False


@pytest.mark.parametrize("seconds", [1e15, float("inf")])
def test_a_wait_longer_than_the_system_can_is_no_error(seconds: float) -> None:
    event, ended = threading.Event(), []
    waiting = threading.Thread(target=lambda: ended.append(SYSTEM_CLOCK.wait(event, seconds)))
    waiting.start()
    event.set()
    waiting.join(5.0)
    assert ended == [True]
