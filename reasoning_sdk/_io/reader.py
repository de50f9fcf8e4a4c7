"""The one shape of what blocks in a ``for`` loop and can be closed by another thread."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Generic, TypeVar

from reasoning_sdk.cancellation import Cancellation
from reasoning_sdk.errors import ConcurrencyError, ReasoningError

__all__ = ["BlockingReader", "Closing"]

_T = TypeVar("_T")
_Self = TypeVar("_Self", bound="BlockingReader")  # type: ignore[type-arg]


class Closing(threading.Event):
    """Is set for good when something is closed. Safe to set in signal handlers and finalisers.

    To set any other event takes a lock that the code interrupted may hold, and not only if that is
    setting it, too.
    """

    def __init__(self) -> None:
        super().__init__()
        self._told = Cancellation()

    def set(self) -> None:
        """Have it set, and wake whoever waits."""
        self._told.cancel()

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._told.canceled

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, so many seconds at the most; whether it is."""
        return self._told.wait(timeout)


class BlockingReader(ABC, Generic[_T]):
    """Gives what arrives in batches one by one, to one thread at a time.

    A subclass says how to wait for a batch and how to free what it holds. Once closed, from any
    thread, it gives no more, and nobody is told of the errors that this brings about.
    """

    def __init__(self) -> None:
        self._batch: Iterator[_T] = iter(())
        self._closing = Closing()
        self._ended = False
        self._turn = threading.Lock()

    def __iter__(self: _Self) -> _Self:
        return self

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it and free its connection. Safe to call from any thread, and more than once.

        Whoever waits wakes up, and every iteration ends.
        """
        self._closing.set()
        self._batch = iter(())
        self._free()

    def _fetch(self) -> None:
        """Wait for the next batch.

        Raises:
            StopIteration: There is none, or it was closed.
            ReasoningError: There is none, and there should be.
        """
        if not self._turn.acquire(blocking=False):
            raise self._told(ConcurrencyError(f"another thread iterates {self!r}"))
        try:
            if self._ended or self._closing.is_set():
                raise StopIteration
            self._batch = iter(self._next_batch())
            if self._closing.is_set():  # meanwhile
                self._batch = iter(())
                raise StopIteration
        except StopIteration:
            self._ended = True
            self._free()
            raise
        except ReasoningError as exc:
            self._ended = True
            self._free()
            if self._closing.is_set():
                raise StopIteration from exc
            raise self._told(exc)  # noqa: B904  # the same error
        except BaseException:  # the user's Ctrl-C, above all
            self.close()
            raise
        finally:
            self._turn.release()

    @abstractmethod
    def _next_batch(self) -> Sequence[_T]:
        """Wait for a batch that is not empty; ``StopIteration`` when there is none."""

    @abstractmethod
    def _free(self) -> None:
        """Free what is held, and wake whoever waits for it. Called from any thread."""

    def _told(self, error: ReasoningError) -> ReasoningError:
        """An error as the one who iterates is to get it."""
        return error
