"""Sends what is put into it, in the background, and never holds up whoever puts it in.

Whoever puts an event in takes no lock, for a signal handler may interrupt it, a finaliser run in
the middle of it and a fork leave it behind: the event is appended to the inbox, which is one call.
The outbox, which decides what is sent next, belongs to the threads that send; whoever has its lock
first takes in what is in the inbox.
"""

import functools
import itertools
import logging
import os
import sys
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import attrs

from reasoning_sdk._core.outbox import Item, Loss, Mark, Outbox
from reasoning_sdk._io.http import RETRIED_STATUSES, is_passing
from reasoning_sdk._io.post import Poster, Recipient
from reasoning_sdk._io.spool import Kept, Spool
from reasoning_sdk._io.thread import BackgroundThread, Signal
from reasoning_sdk.encoding import parse_json
from reasoning_sdk.errors import (
    APIStatusError,
    ConnectError,
    InvalidEventError,
    ProtocolError,
    ReasoningError,
    StateError,
    TransportError,
)

__all__ = ["Destined", "Publisher", "ViewerStats"]

log = logging.getLogger("reasoning_sdk.viewer")

_R = TypeVar("_R")
_RETRIED_STATUSES = RETRIED_STATUSES | {425}
_MORE_WORKERS = 31  # beside a destination's own: for others, while it hangs
_MOST_IN_INBOX = 1000
_MOST_BYTES_IN_INBOX = 1024 * 1024
_MOST_LOSSES = 1000
_MOST_CAUSES = 100
_LOOK_AGAIN = 1.0
_STOP_SECONDS = 1.0
_TELL_SECONDS = 0.5  # how long a flush waits for losses to be told


@attrs.frozen(kw_only=True, eq=False)
class Destined(Recipient):
    """Who gets events.

    Args:
        destination: What fails as a whole, if it does.
        label: What the spool keeps of it: members of a JSON object.
    """

    destination: str
    label: bytes = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class ViewerStats:
    """Where a client's events are, all at one moment.

    Args:
        queued: How many wait.
        queued_bytes: The bytes of these.
        in_flight: How many are being sent.
        delivered: How many have arrived.
        retries: How many tries were not the first of their event.
        dropped: How many were lost or refused, by reason; 0 for any other reason.
    """

    queued: int = 0
    queued_bytes: int = 0
    in_flight: int = 0
    delivered: int = 0
    retries: int = 0
    dropped: Counter[str] = attrs.field(factory=Counter)

    @property
    def submitted(self) -> int:
        """How many events were sent, or refused."""
        return self.delivered + sum(self.dropped.values()) + self.queued + self.in_flight


class Publisher:
    """A queue of events, and the threads that send them. Safe to use from any thread.

    Args:
        outbox: Decides what is sent next.
        poster: Sends it.
        workers: How many threads one destination may keep busy.
        spool: Where the events are kept until they are settled.
        revive: Makes an item of what the spool has kept for longer than its process lived; gives
            ``None`` to leave it there.
        on_loss: Told of every event that is lost or refused, by a thread of its own.
        exit_timeout: Seconds for what is left when the interpreter exits.
    """

    def __init__(
        self,
        *,
        outbox: Outbox[Destined],
        poster: Poster,
        workers: int,
        spool: Spool | None,
        revive: Callable[[Kept], Item[Destined] | None],
        on_loss: Callable[[Loss[Destined]], None] | None,
        exit_timeout: float,
    ) -> None:
        self._outbox = outbox
        self._poster = poster
        self._spool = spool
        self._revive = revive
        self._on_loss = on_loss
        self._exit_timeout = exit_timeout
        self._pid = os.getpid()
        self._lock: Any = threading.RLock()  # lest whoever holds it waits for itself, in a handler
        self._losing = threading.Lock()  # held by whoever sees to what was lost
        self._inbox: deque[Item[Destined]] = deque()
        self._inbox_bytes = 0
        self._refused: deque[str] = deque()  # the reasons
        self._flushes: list[tuple[Mark, Signal]] = []
        self._lost_before = 0
        self._exit_deadline: float | None = None
        self._closed = False
        self._adopting = threading.Lock()
        self._has_orphans = spool is not None
        self._spool_failed = False
        self._left_alone = 0  # events in the spool that cannot be sent
        self._key = str(uuid.uuid4())[:-12]
        self._kept_key = str(uuid.uuid4())[:-12]
        self._kept = itertools.count()
        self._clerk = _Clerk()
        self._teller = _Teller(on_loss, None if spool is None else spool.abandon)
        self._workers = [_Worker(self._work, on_exit=self._finish_at_exit)]
        self._workers += [_Worker(self._work) for _ in range(1, workers)]
        self._most_workers = workers + _MORE_WORKERS
        self._inline = _Worker(self._work)  # for where no thread can be started
        self._failing: set[str] = set()

    # -- in: without a lock --------------------------------------------------------------------

    def put(self, item: Item[Destined]) -> bool:
        """Take an event in, at once; whether it was. Safe in signal handlers and finalisers."""
        if self._exit_deadline is not None and not self._is_in_time():
            self.refuse(item, "closed", StateError("the interpreter exits"))
            return False
        size = len(item.body)
        if not self._outbox.has_room(size, len(self._inbox), self._inbox_bytes):
            self.refuse(item, "queue_full", ReasoningError("the queue is full"))
            return False
        if self._spool is not None:
            self._keep(item, self._spool)
        self._inbox_bytes += size
        self._inbox.append(item)
        if self._outbox.wants(item):
            self._rouse()
        if len(self._inbox) > _MOST_IN_INBOX or self._inbox_bytes > _MOST_BYTES_IN_INBOX:
            self._clerk.begin(self._do_nothing)  # the others may all be busy
        if self._exit_deadline is not None:  # nobody would wait for a thread
            self.flush(max(self._exit_deadline - time.monotonic(), 0.0))
        return True

    def _is_in_time(self) -> bool:
        """Whether an event can still be sent, after the flush at the interpreter's exit."""
        assert self._exit_deadline is not None  # it exits
        return time.monotonic() < self._exit_deadline and not sys.is_finalizing()

    def refuse(self, item: Item[Destined], reason: str, error: Exception) -> None:
        """Count an event that cannot be taken in. Safe in signal handlers and finalisers."""
        self._refused.append(reason)
        if self._on_loss is None:
            item.body = b""
        self._teller.tell(Loss(item=item, reason=reason, error=error))
        if len(self._refused) > _MOST_IN_INBOX:
            self._clerk.begin(self._do_nothing)

    def _keep(self, item: Item[Destined], spool: Spool) -> None:
        key = f"{self._kept_key}{next(self._kept):012x}"
        segment = spool.add(key, item.target.label, item.body)
        if segment is not None:
            item.keeper = segment, key

    # -- the outbox ----------------------------------------------------------------------------

    def _do(self, action: Callable[..., _R], *args: Any, **options: Any) -> _R:
        """Do something with the outbox, alone; then see to what has come of it.

        Raises:
            StateError: A signal handler interrupted this very thread while it did.
        """
        self._check_outside()
        with self._lock:
            self._take_in()
            result = action(*args, **options)
        self._see_to_losses()
        for mark, signal in tuple(self._flushes):
            if not mark.left:
                signal.give()
        return result

    def _see_to_losses(self) -> None:
        """One thread at a time, so that the dead letters of an id are in its order."""
        while self._outbox.losses and self._losing.acquire(blocking=False):
            try:
                with suppress(IndexError):
                    while True:
                        self._lose(self._outbox.losses.popleft())
            finally:
                self._losing.release()

    def _do_nothing(self) -> None:
        """Have the outbox take in what is there."""
        self._do(self._count)
        self._rouse_for_more()

    def _rouse_for_more(self) -> None:
        """Have a thread see to what was taken in by what is no thread that sends."""
        if self._outbox.can_give:
            self._rouse()

    def _check_outside(self) -> None:
        if self._lock._is_owned():  # nobody else would get it before the handler returns
            raise StateError("called by a signal handler that interrupted the same client")

    def _apart(self, function: Callable[..., _R], *args: Any) -> _R:
        """Do what changes the outbox where neither a Ctrl-C nor a signal handler interrupts it."""
        self._check_outside()
        if threading.current_thread() is threading.main_thread():
            result = self._clerk.do(functools.partial(function, *args))
        else:
            result = function(*args)
        self._rouse_for_more()
        return result

    def _take_in(self) -> None:
        outbox = self._outbox
        for _ in range(len(self._refused)):  # not what comes meanwhile, or there is no end
            outbox.refuse(self._refused.popleft())
        for _ in range(len(self._inbox)):
            item = self._inbox.popleft()
            self._inbox_bytes -= len(item.body)
            outbox.put(item, anyway=self._closed or not outbox.drop_oldest)
        if not self._inbox:
            self._inbox_bytes = 0  # also of what a Ctrl-C has kept out
        if self._closed:
            outbox.drop_queued("closed", StateError("the client was closed before"))

    def stats(self) -> ViewerStats:
        """How many events are where, all at one moment."""
        if self._inbox or self._refused:
            with suppress(StateError):
                counts: ViewerStats = self._apart(self._do, self._count)
                return counts
        with self._lock:
            return self._count()

    def _count(self) -> ViewerStats:
        outbox = self._outbox
        return ViewerStats(
            queued=outbox.queued,
            queued_bytes=outbox.queued_bytes,
            in_flight=outbox.in_flight,
            delivered=outbox.delivered,
            retries=outbox.retries,
            dropped=Counter(outbox.dropped),
        )

    # -- out -----------------------------------------------------------------------------------

    def _rouse(self) -> bool:
        """Have a thread that is not busy look for work; whether there is one."""
        if self._closed:
            return False
        for worker in self._workers:
            if not worker.is_busy and worker.thread.wake():
                return True
        if len(self._workers) < self._most_workers:
            self._workers.append(_Worker(self._work))
            return self._workers[-1].thread.wake()
        return any(worker.thread.runs for worker in self._workers)

    def _work(self, worker: "_Worker", timeout: float | None = None) -> float | None:
        """Send an event; the seconds until there may be another, ``None`` when there is none."""
        worker.is_busy = True  # from here on others are roused for what comes in
        try:
            if self._spool is not None:
                self._look_after(self._spool)
            now = time.monotonic()
            item = self._do(self._outbox.take, now)
            at = self._outbox.next_at()
            if item is None:
                worker.is_busy = False
                if self._inbox:  # by somebody who found all of us busy
                    return 0.0
                return None if at is None else max(at - now, 0.0)
            if at is not None or self._outbox.can_give:
                self._rouse()
            self._send(item, timeout)
        finally:
            worker.is_busy = False
        return 0.0

    def _send(self, item: Item[Destined], timeout: float | None) -> None:
        key = item.keeper[1] if item.keeper else f"{self._key}{item.number:012x}"
        try:
            self._poster.post(item.target, key, item.body, timeout=timeout)
        except Exception as exc:
            self._see_to(item, exc)
        except BaseException:  # something wants this thread to end
            error = ReasoningError("the thread that sent it was ended")
            self._do(self._outbox.give_up, item, "internal", error)
            raise
        else:
            if item.keeper is not None and self._spool is not None:
                self._spool.settle(*item.keeper)  # before a flush returns that waits for it
            self._do(self._outbox.deliver, item)
            if self._failing:
                self._tell_recovery(item.target.destination)

    def _see_to(self, item: Item[Destined], error: Exception) -> None:
        """Have an event that could not be sent tried again, or given up."""
        reason = _final_reason(error)
        if reason == "closed" and item.keeper is not None:  # it is the next process's
            self._do(self._outbox.put_back, item)
            return
        if reason is not None:
            self._do(self._outbox.give_up, item, reason, error)
            return
        self._do(
            self._outbox.fail,
            item,
            time.monotonic(),
            error,
            retry_after=getattr(error, "retry_after", None) or None,  # 0 says nothing
            everywhere=isinstance(error, ConnectError),
        )
        self._tell_failure(item.target.destination, error)

    def _tell_failure(self, destination: str, error: Exception) -> None:
        if destination not in self._failing and len(self._failing) < _MOST_CAUSES:
            self._failing.add(destination)
            log.warning("%s fails, events are tried again: %s", destination, error)

    def _tell_recovery(self, destination: str) -> None:
        if destination in self._failing:
            self._failing.discard(destination)
            log.info("%s works again", destination)

    # -- the spool -----------------------------------------------------------------------------

    def _look_after(self, spool: Spool) -> None:
        failed = spool.failure is not None
        if failed and not self._spool_failed:
            log.warning("events are not kept in %r: %s", spool, spool.failure)
        self._spool_failed = failed
        if self._has_orphans and self._outbox.has_space and self._adopting.acquire(blocking=False):
            try:
                self._has_orphans = self._adopt(spool)
            finally:
                self._adopting.release()
            self._wake_flushes()

    def _adopt(self, spool: Spool) -> bool:
        """Take over what ended processes have left in the spool; whether there may be more."""
        for segment, found in spool.orphans():
            for kept in found:
                item = self._revive(kept)
                if item is None:
                    self._leave_alone(spool)
                else:
                    item.keeper = segment, kept.key
                    self._do(self._outbox.put, item, anyway=True)
            if not self._outbox.has_space:
                return True
        return False

    def _leave_alone(self, spool: Spool) -> None:
        if not self._left_alone:
            log.warning("events in %r stay there: no address for them, or they are not ours", spool)
        self._left_alone += 1

    def _lose(self, loss: Loss[Destined]) -> None:
        """See to what was lost after it had been accepted."""
        if loss.item.keeper is not None and self._spool is not None:
            self._bury(loss, self._spool)
        self._teller.tell(loss)

    def _bury(self, loss: Loss[Destined], spool: Spool) -> None:
        item = loss.item
        target = parse_json(b"{%s}" % item.target.label)
        target.pop("signature", None)
        letter = {
            "reason": loss.reason,
            "error": str(loss.error).encode("utf-8", "replace").decode(),  # it may be the server's
            "at": time.time(),
            "key": item.keeper[1],
            **target,
            "body": _members(item.body),
        }
        try:
            spool.bury(letter)
        except (OSError, InvalidEventError) as exc:
            log.warning("cannot write to the dead letters of %r: %s", spool, exc)
        else:
            spool.settle(*item.keeper)

    # -- ends ----------------------------------------------------------------------------------

    def flush(self, timeout: float | None) -> bool:
        """Wait until every event is settled that was put in before.

        Args:
            timeout: Seconds; ``None`` is no limit.

        Returns:
            Whether they were all delivered, and none was lost since the last time.
        """
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        lost_before = self._lost_before  # of two flushes at a time, both tell
        try:
            if self._spool is not None:
                self._has_orphans = True
                if timeout == 0:  # else a thread does
                    self._apart(self._look_after, self._spool)
            done = self._is_empty() or self._wait_for_all(deadline)
        except StateError as exc:
            log.warning("cannot flush: %s", exc)
            return False
        with self._lock:
            self._lost_before = lost = self._outbox.lost
        self._teller.wait(min(deadline, time.monotonic() + _TELL_SECONDS))
        return done and lost == lost_before and not self._left_alone

    def _is_empty(self) -> bool:
        with self._lock:
            outbox = self._outbox
            return not (outbox.queued or outbox.in_flight or self._inbox or self._has_orphans)

    def _wait_for_all(self, deadline: float) -> bool:
        signal = Signal()
        while True:
            had_orphans, mark = self._has_orphans, self._apart(self._do, self._outbox.mark)
            self._flushes.append((mark, signal))
            try:
                while mark.left or (had_orphans and self._has_orphans):
                    remaining = deadline - time.monotonic()
                    if remaining <= 0 or self._closed:
                        return False
                    seconds: float | None = None
                    if not self._somebody_works():
                        seconds = self._inline.step(remaining)
                    signal.take(min(remaining, _LOOK_AGAIN if seconds is None else seconds))
            finally:
                self._flushes.remove((mark, signal))
                if mark.left:
                    self._apart(self._do, self._outbox.unmark, mark)
            if not had_orphans:
                return True

    def _wake_flushes(self) -> None:
        for _, signal in tuple(self._flushes):
            signal.give()

    def _somebody_works(self) -> bool:
        """Whether threads see to what there is; none can be started as the interpreter exits."""
        runs = any(worker.thread.runs for worker in self._workers)
        return (runs and not self._outbox.can_give and not self._has_orphans) or self._rouse()

    def close(self, timeout: float | None) -> bool:
        """Flush, then end the threads and what they do; what is left is lost, unless it is kept.

        Args:
            timeout: Seconds for the flush; ``None`` is no limit.

        Returns:
            What :meth:`flush` does.
        """
        flushed = self.flush(timeout)
        self._closed = True
        if self._outbox.in_flight:
            self._poster.close()  # which ends their waiting
        self._wake_flushes()
        for worker in self._workers:
            worker.thread.stop(0.0)
        deadline = time.monotonic() + _STOP_SECONDS
        for worker in self._workers:
            worker.thread.join(deadline - time.monotonic())
        self._poster.close()
        with suppress(StateError):
            self._apart(self._do, self._count)
        self._teller.finish(_STOP_SECONDS)
        self._clerk.finish(_STOP_SECONDS)
        if self._spool is not None:
            self._spool.close()
        return flushed

    def _finish_at_exit(self, began_at: float) -> None:
        """Deliver what is left, within the time that there is."""
        if self._closed or self._pid != os.getpid():  # a fork has made this
            return
        deadline = began_at + self._exit_timeout
        done = self.flush(max(deadline - time.monotonic(), 0.0))
        counts = self.stats()
        left = counts.queued + counts.in_flight
        if left:
            fate = "lost" if self._spool is None else "kept for the next process"
            log.warning("%d events were not delivered before the exit: %s", left, fate)
        self._teller.step()
        self._exit_deadline = deadline
        if done and self._spool is not None:
            self._spool.close()


def _final_reason(error: Exception) -> str | None:
    """Why an event is lost that failed like this; ``None`` when it is to be tried again."""
    if isinstance(error, StateError):  # the poster's
        return "closed"
    if isinstance(error, TransportError):
        return None
    if isinstance(error, (APIStatusError, ProtocolError)):
        return None if is_passing(error, _RETRIED_STATUSES) else "rejected"
    return "internal"


def _cause(loss: Loss[Destined]) -> tuple[str, str, str]:
    """What a loss has in common with others that need not be logged as well."""
    error = loss.error
    if isinstance(error, InvalidEventError):
        return loss.reason, "", str(error)
    what = str(getattr(error, "status_code", type(error).__name__))
    return loss.reason, loss.item.target.destination, what


def _members(body: bytes) -> Any:
    try:
        return parse_json(body)
    except ValueError:  # it is nested too deeply for this thread, or none of ours
        return body.decode("utf-8", "replace")


class _Worker:
    """A thread that sends, and whether it is busy with that."""

    def __init__(
        self,
        work: "Callable[[_Worker, float | None], float | None]",
        on_exit: Callable[[float], None] | None = None,
    ) -> None:
        self._work = work
        self.is_busy = False
        self.thread = BackgroundThread("viewer", self.step, on_exit=on_exit)

    def step(self, timeout: float | None = None) -> float | None:
        try:
            return self._work(self, timeout)
        except StateError:
            raise
        except Exception:  # a fault of ours: no reason to send nothing any more
            log.exception("the publisher has failed")
            return _LOOK_AGAIN


class _Clerk:
    """Does on a thread of its own what must not be interrupted: a Ctrl-C is the main thread's."""

    def __init__(self) -> None:
        self._tasks: deque[_Task] = deque()
        self._thread = BackgroundThread("viewer.clerk", self.step)

    def begin(self, function: Callable[[], object]) -> None:
        """Have something done soon, if nothing is to be done already."""
        if not self._tasks:
            self._tasks.append(_Task(function))
        self._thread.wake()

    def do(self, function: Callable[[], _R]) -> _R:
        task = _Task(function)
        self._tasks.append(task)
        while not task.done:
            if not self._thread.wake():  # the interpreter exits, above all
                self.step()
            task.signal.take(_LOOK_AGAIN)
        if task.error is not None:
            raise task.error
        result: _R = task.result
        return result

    def step(self) -> None:
        while self._tasks:
            with suppress(IndexError):  # another thread took it
                self._tasks.popleft().run()

    def finish(self, timeout: float) -> None:
        """End the thread; another one ends as soon as it has done what it was started for."""
        self._thread.linger = 0.0
        self._thread.wake()
        self._thread.join(timeout)


class _Task:
    """Something to be done by another thread, and what came of it."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self.signal = Signal()
        self.done = False
        self.result: Any = None
        self.error: Exception | None = StateError("the thread that did it was ended")

    def run(self) -> None:
        try:
            self.result = self._function()
            self.error = None
        except Exception as exc:  # to be raised where it is waited for
            self.error = exc
        finally:  # also when something wants this thread to end: who waits must not do so for ever
            self.done = True
            self.signal.give()


class _Teller:
    """Tells losses, on a thread of its own: to lose an event must not wait for a log or a file."""

    def __init__(
        self, on_loss: Callable[[Loss[Destined]], None] | None, on_fork: Callable[[], None] | None
    ) -> None:
        self._on_loss = on_loss
        self._losses: deque[Loss[Destined]] = deque()
        self._untold = 0
        self._is_telling = False
        self._waiting: list[Signal] = []
        self._causes: set[tuple[str, str, str]] = set()
        self._thread = BackgroundThread("viewer.losses", self.step, on_fork=on_fork)

    def tell(self, loss: Loss[Destined]) -> None:
        if self._on_loss is None and self._is_known(loss):
            return  # that nobody asks for is worth no thread
        if len(self._losses) < _MOST_LOSSES:
            self._losses.append(loss)
        else:
            self._untold += 1
        self._thread.wake()

    def step(self) -> None:
        self._is_telling = True
        while self._losses:
            with suppress(IndexError):  # another thread took it
                self._tell(self._losses.popleft())
        if self._untold:
            untold, self._untold = self._untold, 0
            log.warning("%d more events were lost, faster than that could be told", untold)
        self._is_telling = False
        for signal in tuple(self._waiting):
            signal.give()

    def wait(self, deadline: float) -> None:
        """Wait until what was lost is told; not in a callback that is being told."""
        signal = Signal()
        self._waiting.append(signal)
        try:
            while self._losses or self._is_telling:
                remaining = deadline - time.monotonic()
                if remaining <= 0 or self._thread.is_current():
                    return
                if self._losses and not self._thread.wake():
                    self.step()
                signal.take(min(remaining, _LOOK_AGAIN))
        finally:
            self._waiting.remove(signal)

    def finish(self, timeout: float) -> None:
        """Tell what is left; end the thread, and any later one as soon as it has told."""
        self._thread.linger = 0.0
        if not self._thread.wake():
            self.step()
        self._thread.join(timeout)

    def _tell(self, loss: Loss[Destined]) -> None:
        self._log(loss)
        if self._on_loss is not None:
            try:
                self._on_loss(loss)
            except BaseException:  # the caller's code, of which nobody waits for the outcome
                log.exception("on_error failed")

    def _is_known(self, loss: Loss[Destined]) -> bool:
        return len(self._causes) >= _MOST_CAUSES or _cause(loss) in self._causes

    def _log(self, loss: Loss[Destined]) -> None:
        if self._is_known(loss):
            return
        self._causes.add(_cause(loss))
        log.warning(
            "an event for %s was lost (%s): %s; others lost like this are counted",
            loss.item.target.url or "a viewer",
            loss.reason,
            loss.error,
            exc_info=loss.error if loss.reason == "internal" else None,
        )
