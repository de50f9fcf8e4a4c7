"""Threads that are kept for the next function to run: many functions side by side, cheaply."""

import contextvars
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from reasoning_sdk._io.thread import BackgroundThread

__all__ = ["Workers", "start"]


def start(function: Callable[[], object]) -> None:
    """Run a function on a thread of its own, as :meth:`Workers.start` does."""
    workers = Workers()
    workers.start(function)
    workers.close()


class Workers:
    """Threads for functions that are to run side by side. Safe to use from any thread.

    There are as many as there are functions that run at the same time. One that has had nothing to
    do for a while ends.
    """

    def __init__(self) -> None:
        self._idle: deque[_Worker] = deque()
        self._closed = False

    def start(self, function: Callable[[], object]) -> None:
        """Run a function on another thread, with the caller's context variables.

        Where no thread can be started any more, at the interpreter's exit, it is run here and now.

        Args:
            function: What to run. It sees to its own exceptions.
        """
        try:
            worker = self._idle.pop()  # the one that was used last
        except IndexError:
            worker = _Worker(self._put_back)
        worker.run(function)

    def close(self) -> None:
        """End the threads that are idle now, and the others when they have run what they run."""
        self._closed = True
        with suppress(IndexError):  # it is empty, perhaps since just now
            while True:
                self._idle.pop().stop()

    def _put_back(self, worker: "_Worker") -> None:
        self._idle.append(worker)
        if self._closed:
            self.close()


class _Worker:
    """A thread that runs one function at a time, and is idle in between."""

    def __init__(self, put_back: Callable[["_Worker"], None]) -> None:
        self._put_back = put_back
        self._jobs: deque[Callable[[], object]] = deque()
        self._thread = BackgroundThread("worker", self._step)

    def run(self, function: Callable[[], object]) -> None:
        context = contextvars.copy_context()
        self._jobs.append(lambda: context.run(function))
        if not self._thread.wake():
            self._step()

    def stop(self) -> None:
        self._thread.stop(0)

    def _step(self) -> None:
        try:
            job = self._jobs.popleft()
        except IndexError:
            return
        job()
        del job  # and what it holds
        self._put_back(self)
