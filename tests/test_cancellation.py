"""A cancellation: seen by everybody, told once, and by any thread."""

import logging
import threading
import time

import pytest

from reasoning_sdk.cancellation import Cancellation
from tests.support.threads import InThread


def test_it_is_canceled_for_good():
    cancellation = Cancellation()
    assert not cancellation.canceled
    assert repr(cancellation) == "<Cancellation NOT CANCELED>"
    cancellation.cancel()
    cancellation.cancel()
    assert cancellation.canceled
    assert repr(cancellation) == "<Cancellation CANCELED>"


def test_whoever_listens_is_told_once():
    told, cancellation = [], Cancellation()
    with cancellation.calling(lambda: told.append(1)), cancellation.calling(lambda: told.append(2)):
        cancellation.cancel()
        cancellation.cancel()
    assert sorted(told) == [1, 2]


def test_whoever_comes_later_is_told_at_once():
    told, cancellation = [], Cancellation()
    cancellation.cancel()
    with cancellation.calling(lambda: told.append(1)):
        assert told == [1]
    assert told == [1]


def test_whoever_has_left_is_not_told():
    told, cancellation = [], Cancellation()
    with cancellation.calling(lambda: told.append(1)):
        pass
    cancellation.cancel()
    assert told == []


def test_whoever_leaves_by_an_error_is_not_told():
    told, cancellation = [], Cancellation()
    with pytest.raises(ValueError, match="x"), cancellation.calling(lambda: told.append(1)):
        raise ValueError("x")
    cancellation.cancel()
    assert told == []


def test_the_same_function_may_listen_twice_and_leave_once():
    told, cancellation = [], Cancellation()

    def tell() -> None:
        told.append(1)

    with cancellation.calling(tell):
        with cancellation.calling(tell):
            pass
        cancellation.cancel()
    assert told == [1]


def test_one_that_fails_keeps_nobody_from_being_told(caplog):
    told, cancellation = [], Cancellation()

    def fail() -> None:
        raise ValueError("no")

    with (
        caplog.at_level(logging.ERROR),
        cancellation.calling(lambda: told.append(1)),
        cancellation.calling(fail),
        cancellation.calling(lambda: told.append(2)),
    ):
        cancellation.cancel()
    assert sorted(told) == [1, 2]
    assert len(caplog.records) == 1


def test_one_may_cancel_another_and_itself():
    one, other = Cancellation(), Cancellation()
    with one.calling(other.cancel), other.calling(one.cancel):
        one.cancel()
    assert other.canceled


def test_it_is_told_in_the_thread_that_cancels():
    where, cancellation = [], Cancellation()
    with cancellation.calling(lambda: where.append(threading.get_ident())):
        thread = InThread(cancellation.cancel)
        thread.wait()
    assert where == [thread.ident]


def test_a_wait_ends_when_it_is_canceled():
    cancellation = Cancellation()
    threads = [InThread(cancellation.wait) for _ in range(3)]
    cancellation.cancel()
    assert [thread.ends() for thread in threads] == [True] * 3


@pytest.mark.parametrize("timeout", [0, -1, 0.01])
def test_a_wait_ends_in_time(timeout):
    begun = time.monotonic()
    assert not Cancellation().wait(timeout)
    assert time.monotonic() - begun < 1


def test_a_wait_for_longer_than_the_system_can_is_a_wait():
    cancellation = Cancellation()
    thread = InThread(lambda: cancellation.wait(1e300))
    cancellation.cancel()
    assert thread.ends() is True


@pytest.mark.parametrize("timeout", [None, 0, 5])
def test_there_is_no_wait_after_it_was_canceled(timeout):
    cancellation = Cancellation()
    cancellation.cancel()
    assert cancellation.wait(timeout)


def test_many_who_come_and_go_while_it_is_canceled_are_told_at_most_once():
    for _ in range(50):
        cancellation, barrier = Cancellation(), threading.Barrier(3)
        counts: list[int] = []

        def listen(
            cancellation: Cancellation = cancellation,
            barrier: threading.Barrier = barrier,
            counts: list[int] = counts,
        ) -> None:
            told: list[int] = []
            barrier.wait(5)
            with cancellation.calling(lambda: told.append(1)):
                cancellation.wait(5)
            counts.append(len(told))

        threads = [InThread(listen) for _ in range(2)]
        barrier.wait(5)
        cancellation.cancel()
        for thread in threads:
            thread.ends(5)
        assert all(count <= 1 for count in counts)
