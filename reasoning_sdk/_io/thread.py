"""The one lifecycle of all background threads.

A thread repeats a step until it is stopped or has had nothing to do for a while. In between it
waits for its wake signal and nothing else, so that stopping takes no longer than a step. The module
sees to what no thread survives: a fork, after which the child has no such thread, and locks that
nobody will open; and the interpreter's exit, which freezes daemon threads in whatever they do.
"""

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import Any
from weakref import WeakValueDictionary

__all__ = ["BackgroundThread", "Signal", "ThreadState"]

log = logging.getLogger("reasoning_sdk.thread")

_LINGER = 5.0
_TURN = "turn"


class ThreadState(Enum):
    """Where a background thread is in its life."""

    NEW = "NEW"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    STOPPED = "STOPPED"


class Signal:
    """Wakes one waiting thread. Safe to give in signal handlers, in finalisers and from any thread.

    A :class:`threading.Event` is not: to set it takes a lock that the code interrupted may hold.
    This is a bare lock, closed while there is no signal, and to open it is one call.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def is_given(self) -> bool:
        """Whether it was given and not yet taken."""
        return not self._lock.locked()

    def give(self) -> None:
        """Wake the thread that waits, or have the next one not wait."""
        if self._lock.locked():
            with suppress(RuntimeError):  # somebody was faster
                self._lock.release()

    def take(self, seconds: float | None) -> bool:
        """Wait for the signal, so many seconds at the most; whether it came."""
        if seconds is None:
            return self._lock.acquire()
        if seconds <= 0:
            return self._lock.acquire(blocking=False)
        return self._lock.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))


class BackgroundThread:
    """A daemon thread that repeats a step. Safe to use from any thread.

    It starts when it is first woken, never before, and ends when there was nothing to do for a
    while; the next wake starts it again. After a fork, in the child, it is new.

    Args:
        role: What it is for; the thread's name is ``reasoning-sdk.<role>``.
        step: Does what there is to do and gives the seconds to wait before the next step, or
            ``None`` to wait until woken. An exception ends the thread for good: it is logged, and
            kept in :attr:`error`.
        linger: Seconds that a thread with nothing to do is kept.
        on_fork: Called in a forked child, before anything else uses the thread there.
        on_exit: Called when the interpreter exits, or a child of :mod:`multiprocessing` ends, with
            the monotonic time at which that began: to finish what is left, here and now.

    Attributes:
        linger: As given; it may be changed.
        error: What ended it, if a step raised.
    """

    def __init__(
        self,
        role: str,
        step: Callable[[], float | None],
        *,
        linger: float = _LINGER,
        on_fork: Callable[[], None] | None = None,
        on_exit: Callable[[float], None] | None = None,
    ) -> None:
        self.role = role
        self.error: BaseException | None = None
        self._step = step
        self.linger = linger
        self._on_fork = on_fork
        self._on_exit = on_exit
        self._renew()
        _all[id(self)] = self

    def __repr__(self) -> str:
        return f"<BackgroundThread {self.role} {self.state.value}>"

    def _renew(self) -> None:
        self._pid = os.getpid()
        self._stopped = False  # never taken back
        self._signal = Signal()
        # Whose turn it is to step. A thread is put here and taken out in one C call each, which
        # takes the place of a lock: none can be left locked by an interruption, or be waited for.
        self._turn: dict[str, threading.Thread] = {}
        self._thread: threading.Thread | None = None  # the last one whose turn it was
        self._starting: set[int] = set()  # who is in the middle of starting one

    @property
    def state(self) -> ThreadState:
        """Where it is in its life."""
        if self._pid == os.getpid():
            if _TURN in self._turn:
                return ThreadState.STOPPING if self._stopped else ThreadState.RUNNING
            if self._stopped:
                return ThreadState.STOPPED
        return ThreadState.NEW

    @property
    def runs(self) -> bool:
        """Whether there is a thread that repeats the step."""
        return self._pid == os.getpid() and self._thread is not None and self._thread.is_alive()

    def is_current(self) -> bool:
        """Whether it is the thread that asks."""
        return self._thread is threading.current_thread()

    def wake(self) -> bool:
        """Have the next step begin now, on a thread that is started if need be.

        It waits for no lock, so it may be called in signal handlers and finalisers.

        Returns:
            Whether a thread does so; none does after :meth:`stop`, and where none can be started:
            there are too many, the interpreter exits (which some versions allow), or a signal
            handler calls it that has interrupted the start.
        """
        self._notice_fork()
        _register_end_of_child()
        _register_end_of_celery_child()
        if self._stopped:
            return False
        self._signal.give()
        if _TURN in self._turn:  # it looks at the signal again after its turn, if it gets to run
            return threading.get_ident() not in self._starting or self.runs
        return self._start()

    def _start(self) -> bool:
        name, unused = f"reasoning-sdk.{self.role}", threading.Lock()
        thread = threading.Thread(target=self._run, args=(unused,), name=name, daemon=True)
        started, me = False, threading.get_ident()
        try:
            self._starting.add(me)
            if self._turn.setdefault(_TURN, thread) is not thread:
                return True  # somebody was faster
            # Once the interpreter is finalised a thread never gets to run, and to start it hangs.
            if not (self._stopped or sys.is_finalizing()):
                self._thread = thread
                thread.start()
                started = True
        except RuntimeError as exc:  # the interpreter exits, or there are too many threads
            log.debug("%s cannot start: %s", name, exc)
        finally:  # also when Ctrl-C interrupts it, with the thread begun or not
            self._starting.discard(me)
            if not started and self._has_turn(thread) and unused.acquire(blocking=False):
                del self._turn[_TURN]
        return started

    def _has_turn(self, thread: threading.Thread) -> bool:
        return self._turn.get(_TURN) is thread

    def _run(self, unused: threading.Lock) -> None:
        if not unused.acquire(blocking=False):
            return  # its start was interrupted: another thread may have the turn
        me, signal = threading.current_thread(), self._signal
        try:
            while True:
                signal.take(0)  # what was asked for until now is what this step does
                if self._stopped:
                    break
                seconds = self._step()
                if not self._has_turn(me):
                    return  # the step has forked, and this is the child
                if signal.take(self.linger if seconds is None else seconds) or seconds is not None:
                    continue
                del self._turn[_TURN]
                # It may have been woken by somebody who still saw it run.
                if not signal.is_given() or self._turn.setdefault(_TURN, me) is not me:
                    return
                self._thread = me
            del self._turn[_TURN]
        except BaseException as exc:
            if self._has_turn(me):
                self.error = exc
                self._stopped = True
                del self._turn[_TURN]
            log.exception("%s has ended", self.role)

    def stop(self, timeout: float | None) -> bool:
        """End it for good after the step under way.

        Args:
            timeout: Seconds to wait for that step.

        Returns:
            Whether no step is under way. None will be: a thread that another is only just starting
            ends without one, and is not waited for.
        """
        self._notice_fork()
        self._stopped = True
        self._signal.give()
        return self.join(timeout)

    def join(self, timeout: float | None) -> bool:
        """Wait for the thread that runs now to end, so many seconds; whether it has ended."""
        thread = self._thread
        if thread is None or not self.runs:
            return True
        if thread is threading.current_thread():
            return False
        thread.join(None if timeout is None else max(timeout, 0.0))
        return not thread.is_alive()

    def _notice_fork(self) -> None:
        if self._pid != os.getpid():  # forked by code that does not tell Python
            self._renew()
            self._call(self._on_fork)

    def _call(self, hook: Callable[..., None] | None, *args: float) -> None:
        if hook is not None:
            try:
                hook(*args)
            except Exception:  # the hooks of others have to be called all the same
                log.exception("a hook of %s has failed", self.role)


# One C call reads it, whatever other threads add meanwhile.
_all: "WeakValueDictionary[int, BackgroundThread]" = WeakValueDictionary()


def _alive() -> list[BackgroundThread]:
    return [thread for ref in _all.valuerefs() if (thread := ref()) is not None]


def _after_fork_in_child() -> None:
    threads = _alive()
    for thread in threads:
        thread._renew()
    for thread in threads:
        thread._call(thread._on_fork)


_exited: int | None = None  # the process that has


def _at_exit() -> None:
    global _exited
    if _exited == os.getpid():
        return  # a spawned child of multiprocessing comes here twice
    _exited = os.getpid()
    began_at = time.monotonic()
    for thread in _alive():
        thread._call(thread._on_exit, began_at)


_end_of_child: tuple[int, Any] | None = None  # the process, and what is registered there


def _register_end_of_child() -> None:
    """Have a child of :mod:`multiprocessing`, which ends without :mod:`atexit`, run the hook too.

    Its registry is emptied when the child begins, after the hooks of the fork.
    """
    global _end_of_child
    process = sys.modules.get("multiprocessing.process")
    if process is None or process.parent_process() is None or _exited == os.getpid():
        return
    if _end_of_child is not None:
        pid, finalizer = _end_of_child
        if pid == os.getpid() and finalizer.still_active():
            return
    from multiprocessing.util import Finalize  # noqa: PLC0415  # a child has loaded it

    _end_of_child = os.getpid(), Finalize(None, _at_exit, exitpriority=10)


_celery_signal: Any = None


def _register_end_of_celery_child() -> None:
    """Have a child of Celery's prefork pool, which leaves with ``os._exit``, run the hook too."""
    global _celery_signal
    signals = sys.modules.get("celery.signals")
    if signals is None or _celery_signal is not None:
        return
    ending = signals.worker_process_shutdown
    # Whoever this interrupts may hold the lock that it takes to connect: then the next wake does.
    if not ending.lock.locked():
        _celery_signal = ending
        ending.connect(_at_end_of_celery_child, weak=False)


def _at_end_of_celery_child(**_: Any) -> None:
    _at_exit()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
