"""The blocking reader: one thread at a time, closed from any."""

import sys
import threading
from collections.abc import Callable, Sequence

import pytest

from reasoning_sdk import ConcurrencyError, ConnectError, ReasoningError
from reasoning_sdk._io.reader import BlockingReader, Closing
from tests.support.threads import InThread

pytestmark = pytest.mark.http


class Reader(BlockingReader[int]):
    """Reads batches that functions make."""

    def __init__(self, *batches: Callable[["Reader"], Sequence[int]]) -> None:
        super().__init__()
        self.batches = list(batches)
        self.freed = 0
        self.woken = Closing()

    def __next__(self) -> int:
        while True:
            for value in self._batch:
                return value
            self._fetch()

    def _next_batch(self) -> Sequence[int]:
        if not self.batches:
            raise StopIteration
        return self.batches.pop(0)(self)

    def _free(self) -> None:
        self.freed += 1
        self.woken.set()


def give(*values: int) -> Callable[[Reader], Sequence[int]]:
    return lambda reader: values


def fail(error: BaseException) -> Callable[[Reader], Sequence[int]]:
    def batch(reader: Reader) -> Sequence[int]:
        raise error

    return batch


def wait(reader: Reader) -> Sequence[int]:
    assert reader.woken.wait(10.0)
    raise ConnectError("as the close brings about")


def test_batches_come_one_by_one_and_then_it_ends_for_good() -> None:
    reader = Reader(give(1, 2), give(3))
    assert list(reader) == [1, 2, 3]
    assert list(reader) == []
    assert reader.freed


def test_an_error_is_raised_once_and_frees_what_is_held() -> None:
    reader = Reader(give(1), fail(ConnectError("refused")), give(2))
    assert next(reader) == 1
    with pytest.raises(ConnectError, match="refused"):
        next(reader)
    assert reader.freed == 1
    assert list(reader) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), ZeroDivisionError()])
def test_an_interruption_closes_it(error: BaseException) -> None:
    reader = Reader(fail(error), give(1))
    with pytest.raises(type(error)):
        next(reader)
    assert reader.freed == 1
    assert list(reader) == []


def test_a_with_block_closes_it() -> None:
    with Reader(give(1, 2)) as reader:
        assert next(reader) == 1
    assert reader.freed == 1
    assert list(reader) == []


def test_to_close_twice_is_fine() -> None:
    reader = Reader(give(1))
    reader.close()
    reader.close()
    assert list(reader) == []


def test_nobody_is_told_of_the_errors_that_a_close_brings_about() -> None:
    reader, found = Reader(wait), []
    thread = threading.Thread(target=lambda: found.extend(reader))
    thread.start()
    reader.close()
    thread.join(5.0)
    assert not thread.is_alive()
    assert found == []


def test_a_batch_that_arrives_while_it_is_closed_is_not_given() -> None:
    def closes_meanwhile(reader: Reader) -> Sequence[int]:
        reader.close()
        return [1, 2, 3]

    assert list(Reader(closes_meanwhile)) == []


def test_what_is_left_of_a_batch_is_not_given_after_a_close() -> None:
    reader = Reader(give(1, 2, 3))
    assert next(reader) == 1
    reader.close()
    assert list(reader) == []


def test_a_second_thread_is_refused_and_the_first_goes_on() -> None:
    inside, go = threading.Event(), threading.Event()

    def slow(reader: Reader) -> Sequence[int]:
        inside.set()
        assert go.wait(10.0)
        return [1]

    reader, found = Reader(slow), []
    thread = threading.Thread(target=lambda: found.extend(reader))
    thread.start()
    assert inside.wait(10.0)
    with pytest.raises(ConcurrencyError, match="another thread iterates"):
        next(reader)
    go.set()
    thread.join(5.0)
    assert found == [1]


def test_a_subclass_may_say_more_in_an_error() -> None:
    class Telling(Reader):
        def _told(self, error: ReasoningError) -> ReasoningError:
            error.text = "what had arrived"
            return error

    with pytest.raises(ConnectError) as caught:
        next(Telling(fail(ConnectError("refused"))))
    assert caught.value.text == "what had arrived"


def test_a_signal_handler_may_close_what_it_interrupts_closing() -> None:
    """As if a signal came at every call and return of the first close."""
    reader, closes = Reader(), 0

    def close_again(*_: object) -> None:
        nonlocal closes
        closes += 1
        reader.close()

    closing = InThread(lambda: (sys.setprofile(close_again), reader.close()))
    assert closing.raises(5.0) is None
    assert closes
    assert list(reader) == []


def test_all_who_wait_for_a_close_are_told_of_it() -> None:
    closing = Closing()
    threads = [InThread(lambda: closing.wait(10.0)) for _ in range(3)]
    assert not closing.wait(0.0)
    closing.set()
    assert [thread.ends() for thread in threads] == [True] * 3
    assert closing.is_set()
    assert closing.wait()
