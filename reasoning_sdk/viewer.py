"""Publish the events of a run to a viewer: fire and forget, and nothing lost in silence."""

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, TypeVar

import attrs
import requests

from reasoning_sdk._core.outbox import Item, Loss, Outbox
from reasoning_sdk._io.http import check_headers, check_url
from reasoning_sdk._io.post import Poster
from reasoning_sdk._io.publisher import Destined, Publisher, ViewerStats
from reasoning_sdk._io.spool import Kept, Spool
from reasoning_sdk._io.translate import origin
from reasoning_sdk._version import __version__
from reasoning_sdk.arguments import check_kind, check_seconds, shown
from reasoning_sdk.encoding import as_object, encode_json, json_parser, parse_json
from reasoning_sdk.errors import (
    APIStatusError,
    ConfigurationError,
    InvalidEventError,
    ReasoningError,
    StateError,
)
from reasoning_sdk.events import ResponseEvent
from reasoning_sdk.retry import RetryPolicy

__all__ = ["LostEvent", "ViewerClient", "ViewerRun", "ViewerStats"]

_T = TypeVar("_T")
_NONE = type(None)
_AGENT = "/agent/completions"
_FUNCTION = "/functions/executions"
_NOWHERE = {
    path: Destined(url="", headers={}, destination="", label=b"") for path in (_AGENT, _FUNCTION)
}
_KEY = re.compile("[0-9a-f-]{36}")
_MOST_RECIPIENTS = 1000
_MOST_WORKERS = 256


@attrs.frozen(kw_only=True)
class LostEvent:
    """An event that was not delivered and will not be.

    Args:
        reason: Why: one of the reasons of :attr:`ViewerStats.dropped`.
        url: Where it was to go; empty when there was no address.
        id: The id of its completion or execution.
        body: What was to be sent; empty when it cannot be JSON.
    """

    reason: str
    url: str
    id: str
    body: bytes = attrs.field(repr=False)


class ViewerClient:
    """Sends events to a viewer in the background. Safe to use from any thread.

    ``send_*`` return at once. A daemon thread, started by the first of them, sends the events;
    those of one id arrive in their order. What fails is tried again, what is lost is counted.

    Args:
        address: Where the viewer is. Else the environment's ``VIEWER_ADDRESS``; ``""`` is none.
        signature: The secret that goes along to that address. Else the environment's
            ``VIEWER_SIGNATURE``; ``""`` is none.
        retry: When an event is tried again that met a transport error, 408, 425, 429 or 5xx.
            ``max_elapsed_time`` is the budget of one event, from its first try.
        max_queue: The most events that wait; ``None`` is no limit.
        max_queue_bytes: The most bytes of theirs; ``None`` is no limit.
        overflow: What happens when there are more: ``"drop_newest"`` refuses the new one,
            ``"drop_oldest"`` drops the one that has waited longest.
        workers: How many connections to one address are used side by side, each for other ids.
        timeout: Seconds for one try.
        spool: A directory that keeps the events until they are delivered: the next process sends
            what this one could not. Two processes may use the same.
        on_error: Called with a :class:`LostEvent` and an error for each loss, by a thread of its
            own.
        strict: Whether ``send_*`` raise :class:`InvalidEventError` and :class:`StateError`.
        exit_timeout: Seconds for which the interpreter's exit waits for what is left.
        session_factory: Makes the :class:`requests.Session` to send with, one for each thread, with
            its proxies, certificates and adapters. Ours are three times as fast.

    Attributes:
        default_address: The address in force, ``None`` without one.
        default_signature: The signature in force, ``None`` without one.

    Raises:
        ConfigurationError: An argument or variable cannot work.

    Example:
        >>> with ViewerClient("https://viewer.example") as viewer:      # doctest: +SKIP
        ...     viewer.send_agent_completion_begin("run-1", {"model": "gpt-5"})
    """

    def __init__(
        self,
        address: str | None = None,
        signature: str | None = None,
        *,
        retry: RetryPolicy | None = None,
        max_queue: int | None = 10_000,
        max_queue_bytes: int | None = 64 * 1024 * 1024,
        overflow: str = "drop_newest",
        workers: int = 1,
        timeout: float | None = 10.0,
        spool: str | os.PathLike[str] | None = None,
        on_error: Callable[[LostEvent, Exception], object] | None = None,
        strict: bool = False,
        exit_timeout: float = 2.0,
        session_factory: Callable[[], requests.Session] | None = None,
    ) -> None:
        check_kind("retry", retry, (RetryPolicy, _NONE), "a RetryPolicy")
        for name, bound in (("max_queue", max_queue), ("max_queue_bytes", max_queue_bytes)):
            if bound is not None:
                _check_count(name, bound)
        if overflow not in ("drop_newest", "drop_oldest"):
            raise ConfigurationError(
                f"overflow must be 'drop_newest' or 'drop_oldest', got {shown(overflow)}"
            )
        _check_count("workers", workers, at_most=_MOST_WORKERS)
        check_seconds("timeout", timeout)
        check_kind("spool", spool, (str, os.PathLike, _NONE), "a path")
        if spool == "":
            raise ConfigurationError("spool must be a path, got ''")
        for name, function in (("on_error", on_error), ("session_factory", session_factory)):
            if function is not None and not callable(function):
                raise ConfigurationError(f"{name} must be callable, got {shown(function)}")
        _check_wait("exit_timeout", exit_timeout)
        self.default_address = _setting("address", address, "VIEWER_ADDRESS", check_url)
        self.default_signature = _setting(
            "signature", signature, "VIEWER_SIGNATURE", _check_signature
        )
        self._retry = retry or RetryPolicy(max_elapsed_time=300.0)
        self._max_queue = max_queue
        self._max_queue_bytes = max_queue_bytes
        self._drop_oldest = overflow == "drop_oldest"
        self._n_workers = workers
        self._timeout = timeout
        self._spool = None if spool is None else Spool(spool)
        self._on_error = on_error
        self._strict = strict
        self._exit_timeout = exit_timeout
        self._session_factory = session_factory
        json_parser()  # it imports what a thread must not be importing while another one forks
        self._closed = False
        self._recipients: dict[tuple[str, str | None, str | None], Destined] = {}
        # What each process has of it, begun by the first use: after any fork, any patch of gevent.
        self._publishers: dict[int, Publisher] = {}

    def __repr__(self) -> str:
        where = "no address" if self.default_address is None else origin(self.default_address)
        stats, state = self.stats, " closed" if self._closed else ""
        lost = sum(stats.dropped.values())
        return (
            f"<ViewerClient {where}{state} queued={stats.queued} in_flight={stats.in_flight} "
            f"delivered={stats.delivered} dropped={lost}>"
        )

    def __reduce__(self) -> Any:
        raise TypeError("a ViewerClient cannot be pickled or copied: make one in each process")

    def __enter__(self) -> "ViewerClient":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- sending -------------------------------------------------------------------------------

    def send_agent_completion_begin(
        self, id: str, request: Any, *, address: str | None = None, signature: str | None = None
    ) -> bool:
        """An agent completion begins. Safe to call from any thread, signal handler and finaliser.

        Args:
            id: The id of the completion; what follows for it has the same.
            request: The parameters of the request, an object in JSON: a mapping, or an instance of
                an attrs class or a dataclass. It is written down at once: to change it afterwards
                changes nothing.
            address: Where to send it, in place of the default.
            signature: The secret to send along. Another address never gets the default one; ``""``
                has none sent.

        Returns:
            Whether it was queued. If not, the reason is counted in :attr:`stats`, logged once for
            each cause and given to ``on_error``.

        Raises:
            InvalidEventError: ``request`` cannot be JSON, or address or signature cannot be used,
                and ``strict`` is set.
            StateError: The client is closed, and ``strict`` is set.
        """
        return self._send(_AGENT, id, request, _begin_or_error, address, signature)

    def send_agent_completion_continue(
        self, chunk: Any, *, address: str | None = None, signature: str | None = None
    ) -> bool:
        """An agent completion goes on.

        ``chunk`` is an object in JSON that has its own ``id``. For the rest see
        :meth:`send_agent_completion_begin`.
        """
        return self._send(_AGENT, None, chunk, _continue, address, signature)

    def send_agent_completion_error(
        self, id: str, error: Any, *, address: str | None = None, signature: str | None = None
    ) -> bool:
        """An agent completion has failed.

        ``error`` is an object in JSON with ``code`` (int) and ``message`` (any JSON), or an
        exception. For the rest see :meth:`send_agent_completion_begin`.
        """
        return self._send(_AGENT, id, error, _begin_or_error, address, signature)

    def send_function_execution_begin(
        self, id: str, request: Any, *, address: str | None = None, signature: str | None = None
    ) -> bool:
        """A function execution begins; see :meth:`send_agent_completion_begin`."""
        return self._send(_FUNCTION, id, request, _begin_or_error, address, signature)

    def send_function_execution_continue(
        self, chunk: Any, *, address: str | None = None, signature: str | None = None
    ) -> bool:
        """A function execution goes on; see :meth:`send_agent_completion_continue`."""
        return self._send(_FUNCTION, None, chunk, _continue, address, signature)

    def send_function_execution_error(
        self, id: str, error: Any, *, address: str | None = None, signature: str | None = None
    ) -> bool:
        """A function execution has failed; see :meth:`send_agent_completion_error`."""
        return self._send(_FUNCTION, id, error, _begin_or_error, address, signature)

    def _send(
        self,
        path: str,
        id: Any,
        payload: Any,
        write: Callable[[Any, Any], tuple[str, bytes]],
        address: str | None,
        signature: str | None,
    ) -> bool:
        publisher = self._publisher()
        lane, body, recipient = id if type(id) is str else "", b"", _NOWHERE[path]
        try:
            if self._closed:
                raise StateError("the client is closed")
            lane, body = write(id, payload)
            recipient = self._recipient(path, address, signature)
        except Exception as exc:
            reason, error = _reason(exc)
            publisher.refuse(Item(body, lane, recipient), reason, error)
            if self._strict and isinstance(error, (InvalidEventError, StateError)):
                raise error from exc.__cause__
            return False
        return publisher.put(Item(body, lane, recipient))

    def _recipient(self, path: str, address: str | None, signature: str | None) -> Destined:
        """Where an event goes, and with which signature: another's address never gets ours."""
        key = path, _unless_empty(address), signature
        try:
            recipient = self._recipients.get(key)
        except TypeError:  # there is no hash of one, which is no str
            return self._make_recipient(*key)
        if recipient is None:
            if len(self._recipients) >= _MOST_RECIPIENTS:
                self._recipients.clear()
            recipient = self._recipients[key] = self._make_recipient(*key)
        return recipient

    def _make_recipient(self, path: str, address: str | None, signature: str | None) -> Destined:
        label = {"path": path}
        if address is not None:
            label["address"] = address = check_url("address", address)
        elif self.default_address is None:
            raise _NoAddressError("no address: give address, or set VIEWER_ADDRESS")
        else:
            address = self.default_address
        secret = signature
        if signature is not None:
            label["signature"] = _check_signature("signature", signature)
        elif "address" not in label:
            secret = self.default_signature
        headers = {
            "User-Agent": f"reasoning-sdk/{__version__}",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
        }
        if secret:
            headers["X-VIEWER-SIGNATURE"] = secret
        return Destined(
            url=address + path,
            headers=headers,
            destination=address,
            label=encode_json(label)[1:-1],
        )

    # -- runs ----------------------------------------------------------------------------------

    def agent_completion(
        self, id: str, request: Any, *, address: str | None = None, signature: str | None = None
    ) -> "ViewerRun":
        """Send the begin of an agent completion, what follows, and its error if there is one.

        Safe to call from any thread; what it returns is for one thread at a time.

        Args:
            id: The id of the completion.
            request: The parameters of the request, as for :meth:`send_agent_completion_begin`.
            address: The same.
            signature: The same.

        Returns:
            A context manager, which sends the begin when it is entered.

        Example:
            >>> with viewer.agent_completion("run-1", {"model": "gpt-5"}) as run:  # doctest: +SKIP
            ...     for chunk in chunks:
            ...         run.continue_(chunk)
        """
        return ViewerRun(self, id, request, address, signature, of_function=False)

    def function_execution(
        self, id: str, request: Any, *, address: str | None = None, signature: str | None = None
    ) -> "ViewerRun":
        """Send the begin of a function execution, what follows, and its error if there is one.

        Safe to call from any thread; what it returns is for one thread at a time.

        Args:
            id: The id of the execution.
            request: The parameters of the request, as for :meth:`send_agent_completion_begin`.
            address: The same.
            signature: The same.

        Returns:
            A context manager, as of :meth:`agent_completion`.
        """
        return ViewerRun(self, id, request, address, signature, of_function=True)

    def tee(
        self,
        id: str,
        request: Any,
        stream: Iterable[_T],
        *,
        address: str | None = None,
        signature: str | None = None,
    ) -> Iterator[_T]:
        """Publish a stream as an agent completion while it is iterated.

        Args:
            id: The id of the completion. Chunks that have none of their own get it, and the events
                of a :class:`ResponseStream` always.
            request: The parameters of the request.
            stream: A :class:`ResponseStream`, or any iterable of chunks.
            address: As for :meth:`send_agent_completion_begin`.
            signature: The same.

        Yields:
            What the stream gives. Whatever becomes of the publishing, this is not held up, unless
            ``strict`` has it raise.
        """
        with self.agent_completion(id, request, address=address, signature=signature) as run:
            for chunk in stream:
                run.continue_(chunk)
                yield chunk

    # -- state ---------------------------------------------------------------------------------

    @property
    def stats(self) -> ViewerStats:
        """Where the events are. Safe to call from any thread."""
        publisher = self._publishers.get(os.getpid())
        return ViewerStats() if publisher is None else publisher.stats()

    def flush(self, timeout: float | None = 10.0) -> bool:
        """Wait until what was sent before is delivered. Safe to call from any thread.

        Args:
            timeout: Seconds; ``None`` waits for ever, 0 not at all.

        Returns:
            Whether all of it was delivered in time, and nothing that had been accepted was lost
            since the last flush.
        """
        _check_wait("timeout", timeout, optional=True)
        publisher = self._publishers.get(os.getpid())
        if publisher is None and self._spool is None:
            return True
        return (publisher or self._publisher()).flush(timeout)

    def close(self, timeout: float | None = 10.0) -> bool:
        """Flush, then stop. Safe to call from any thread, and more than once.

        What is left then is lost, and counted as ``closed``; with a spool it is kept.

        Args:
            timeout: Seconds for the flush; ``None`` waits for ever, 0 not at all.

        Returns:
            What :meth:`flush` does.
        """
        _check_wait("timeout", timeout, optional=True)
        publisher = self._publishers.get(os.getpid())
        if publisher is None and self._spool is not None and not self._closed:
            publisher = self._publisher()
        self._closed = True
        return True if publisher is None else publisher.close(timeout)

    # -- behind it -----------------------------------------------------------------------------

    def _publisher(self) -> Publisher:
        """What this process has of the client; a forked child begins anew."""
        pid = os.getpid()
        publisher = self._publishers.get(pid)
        if publisher is None:
            for other in list(self._publishers):
                if other != pid:
                    self._publishers.pop(other, None)
            # One C call, so that of two threads both get the same.
            publisher = self._publishers.setdefault(pid, self._make_publisher())
        return publisher

    def _make_publisher(self) -> Publisher:
        return Publisher(
            outbox=Outbox(
                max_queue=self._max_queue,
                max_queue_bytes=self._max_queue_bytes,
                drop_oldest=self._drop_oldest,
                workers=self._n_workers,
                retry=self._retry,
            ),
            poster=Poster(session_factory=self._session_factory, timeout=self._timeout),
            workers=self._n_workers,
            spool=self._spool,
            revive=self._revive,
            on_loss=None if self._on_error is None else self._tell,
            exit_timeout=self._exit_timeout,
        )

    def _revive(self, kept: Kept) -> Item[Destined] | None:
        """An event that an ended process has left; ``None`` while it cannot be sent."""
        if kept.path not in _NOWHERE or not _KEY.fullmatch(kept.key):  # nothing of ours
            return None
        try:
            recipient = self._recipient(kept.path, kept.address, kept.signature)
            lane, _ = _continue(None, parse_json(kept.body))
        except (ReasoningError, ValueError):
            return None
        return Item(kept.body, lane, recipient)

    def _tell(self, loss: Loss[Destined]) -> None:
        item = loss.item
        event = LostEvent(reason=loss.reason, url=item.target.url, id=item.lane, body=item.body)
        assert self._on_error is not None  # else nobody asks
        self._on_error(event, loss.error)


class ViewerRun:
    """One completion or execution, published from its begin to its end. One thread at a time.

    A context manager: it sends the begin, and if an exception leaves it, the error. It swallows
    none.

    Attributes:
        id: The id of the completion or execution.
    """

    def __init__(
        self,
        viewer: ViewerClient,
        id: str,
        request: Any,
        address: str | None,
        signature: str | None,
        *,
        of_function: bool,
    ) -> None:
        self.id = id
        self._request = request
        if of_function:
            self._begin = viewer.send_function_execution_begin
            self._continue = viewer.send_function_execution_continue
            self._error = viewer.send_function_execution_error
        else:
            self._begin = viewer.send_agent_completion_begin
            self._continue = viewer.send_agent_completion_continue
            self._error = viewer.send_agent_completion_error
        self._options = {"address": address, "signature": signature}

    def __enter__(self) -> "ViewerRun":
        self._begin(self.id, self._request, **self._options)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and not isinstance(error, GeneratorExit):  # a loop that was left
            with suppress(InvalidEventError, StateError):  # a strict client's, in this one's place
                self._error(self.id, error, **self._options)

    def continue_(self, chunk: Any) -> bool:
        """Send a chunk; whether it was queued.

        Args:
            chunk: An object in JSON; it is given the run's id if it has none. An event of a
                :class:`ResponseStream` is sent as its data, with the run's id.
        """
        if isinstance(chunk, ResponseEvent):
            chunk = {**chunk.data, "id": self.id}
        else:
            with suppress(InvalidEventError):  # to be refused where all are
                members = as_object(chunk)
                if _unless_empty(members.get("id")) is None:
                    chunk = {"id": None} | members | {"id": self.id}
        sent: bool = self._continue(chunk, **self._options)
        return sent


class _NoAddressError(ConfigurationError):
    """Neither the client nor the call has an address."""


def _begin_or_error(id: Any, payload: Any) -> tuple[str, bytes]:
    """The lane and the body of an event that begins a run, or tells its error."""
    lane = _lane(id)
    if isinstance(payload, BaseException):
        payload = _error_of(payload)
    members = {"id": id}
    members.update(as_object(payload))
    members["id"] = id
    return lane, encode_json(members)


def _continue(_: Any, chunk: Any) -> tuple[str, bytes]:
    members = as_object(chunk)
    return _lane(members.get("id")), encode_json(members)


def _lane(id: Any) -> str:
    """The name of the lane in which an id's events stay in order."""
    if type(id) is str:
        return id
    if id is None:
        raise InvalidEventError("$.id is missing", path="$.id")
    try:
        return encode_json(id).decode().strip('"')
    except InvalidEventError as exc:
        raise InvalidEventError(f"$.id cannot be JSON: {exc}", path="$.id") from exc


def _error_of(error: BaseException) -> dict[str, Any]:
    code = error.status_code if isinstance(error, APIStatusError) else 500
    return {"code": code, "message": str(error) or type(error).__name__}


def _reason(error: Exception) -> tuple[str, Exception]:
    """The reason for which an event is refused, and the error to tell."""
    if isinstance(error, StateError):
        return "closed", error
    if isinstance(error, _NoAddressError):
        return "no_address", error
    if isinstance(error, InvalidEventError):
        return "invalid", error
    if isinstance(error, ConfigurationError):  # the call's address or signature
        return "invalid", InvalidEventError(str(error))
    return "internal", error


def _setting(
    name: str, given: str | None, variable: str, check: Callable[[str, Any], str]
) -> str | None:
    """An argument, else a variable of the environment; an empty one is none."""
    if given is None:
        name, given = variable, os.environ.get(variable)
    given = _unless_empty(given)
    return None if given is None else check(name, given)


def _unless_empty(value: Any) -> Any:
    return None if isinstance(value, str) and not value else value


def _check_signature(name: str, value: Any) -> str:
    check_kind(name, value, (str,), "a str")
    try:
        check_headers({"X-VIEWER-SIGNATURE": value})
    except ConfigurationError as exc:
        problem = f"{name} has characters that HTTP does not allow in a header"
        raise ConfigurationError(problem) from exc
    return str(value)


def _check_count(name: str, value: Any, *, at_most: int | None = None) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if not whole or (at_most is not None and value > at_most):
        limit = ">= 1" if at_most is None else f"from 1 to {at_most}"
        raise ConfigurationError(f"{name} must be a whole number {limit}, got {shown(value)}")


def _check_wait(name: str, value: Any, *, optional: bool = False) -> None:
    if value is None and optional:
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and 0 <= value <= threading.TIMEOUT_MAX):
        allowed = ">= 0 seconds or None" if optional else ">= 0 seconds"
        raise ConfigurationError(f"{name} must be {allowed}, got {shown(value)}")
