"""A wish that work under way should stop, given by one thread and seen by others."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Cancellation"]

log = logging.getLogger("reasoning_sdk.loop")


class Cancellation:
    """Tells work to stop. Safe to use from any thread, in signal handlers and in finalisers.

    It takes no lock that the code a signal has interrupted could hold.

    Example:
        >>> cancellation = Cancellation()
        >>> cancellation.canceled
        False
        >>> cancellation.cancel()
        >>> cancellation.canceled
        True
    """

    def __init__(self) -> None:
        self._canceled = False
        # One C call adds to it, takes from it or copies it.
        self._callbacks: dict[object, Callable[[], object]] = {}

    def __repr__(self) -> str:
        return f"<Cancellation {'CANCELED' if self._canceled else 'NOT CANCELED'}>"

    @property
    def canceled(self) -> bool:
        """Whether :meth:`cancel` was called."""
        return self._canceled

    def cancel(self) -> None:
        """Tell everybody who listens to stop. A second call does nothing."""
        self._canceled = True
        while self._callbacks:
            try:
                callback = self._callbacks.popitem()[1]
            except KeyError:  # somebody was faster
                return
            try:
                callback()
            except Exception:  # the others have to be told all the same
                log.exception("what was to be called on cancellation has failed")

    @contextmanager
    def calling(self, callback: Callable[[], object]) -> Iterator[None]:
        """Have a function called, in the thread that cancels, for as long as this lasts.

        It is called at once if :meth:`cancel` was called before, and never twice.
        """
        key = object()  # the same function may be given twice
        self._callbacks[key] = callback
        try:
            if self._canceled and self._callbacks.pop(key, None) is not None:
                callback()
            yield
        finally:
            self._callbacks.pop(key, None)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is canceled, so many seconds at the most; whether it is."""
        lock = threading.Lock()
        lock.acquire()
        deadline = None if timeout is None else time.monotonic() + timeout
        with self.calling(lock.release):
            if deadline is None:
                lock.acquire()
            else:
                lock.acquire(
                    timeout=min(max(deadline - time.monotonic(), 0), threading.TIMEOUT_MAX)
                )
        return self._canceled
