"""A TCP proxy between a client and a server, which goes wrong when a test wants it to.

It passes on what comes until it is told otherwise, and knows no TLS: with ``wss`` it breaks what is
below. There are three kinds of faults::

    proxy.reset()               on the connections that are open: reset, fin, inject, cut_after
    proxy.stall()               on these and on those to come, until resume(): stall, delay,
    proxy.resume()              slow_loris
    proxy.answer(503, times=2)  on those to come, until accept(), or on so many of them: refuse,
    proxy.accept()              answer, garbage, never_answer, flap, flap_after_upgrade

One thread does it all, and each call returns when it has done what it was asked for.
"""

import collections
import contextlib
import http
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any

DEADLINE = 10.0
MOST_PENDING = 1 << 18
MOST_HEAD = 1 << 16


class Conditions:
    """How bytes travel in one direction, on all connections."""

    def __init__(self) -> None:
        self.stalled = False
        self.delay = 0.0
        self.rate: float | None = None  # bytes per second, one at a time


class CutHere(Exception):
    """A connection has passed on as many bytes as it may."""


class Flow:
    """The bytes of one connection in one direction. Its sockets do not block.

    Attributes:
        head: What has come, up to its first empty line.
        has_head: Whether that has come.
        only_head: Whether nothing behind it is passed on.
        allowance: How many bytes may still be passed on; ``None``: all.
        ended: Whether the source has closed its side.
        finishing: Whether what is pending is the last that is passed on; what comes is dropped.
        finished: Whether the FIN was sent.
    """

    def __init__(
        self, source: socket.socket | None, sink: socket.socket | None, conditions: Conditions
    ) -> None:
        self.source = source
        self.sink = sink
        self.conditions = conditions
        self.head = bytearray()
        self.has_head = False
        self.only_head = False
        self.allowance: int | None = None
        self.ended = False
        self.finishing = False
        self.finished = False
        self._pending: collections.deque[tuple[float, bytes]] = collections.deque()
        self._size = 0
        self._not_before = 0.0

    @property
    def wants_read(self) -> bool:
        if self.source is None or self.ended or self.conditions.stalled:
            return False
        return self.finishing or self._size < MOST_PENDING

    def due_in(self, now: float) -> float | None:
        """The seconds until there is something to write; None if that is not for time to say."""
        if self.finished or self.conditions.stalled:
            return None
        if self._pending:
            return max(self._pending[0][0] - now, self._not_before - now, 0.0)
        return 0.0 if self.finishing else None

    def put(self, data: bytes, now: float) -> None:
        """Passes these bytes on behind what is pending."""
        if self.sink is not None and data:
            self._pending.append((now + self.conditions.delay, data))
            self._size += len(data)

    def finish(self) -> None:
        """Ends it, with a FIN behind what is pending."""
        self.finishing = True

    def read(self, now: float) -> None:
        if not self.wants_read:
            return
        assert self.source is not None
        try:
            data = self.source.recv(65536)
        except BlockingIOError:
            return
        if not data:
            self.ended = True
            self.finish()
        elif not self.finishing:
            self.put(self._look_at(data), now)

    def _look_at(self, data: bytes) -> bytes:
        """Looks for the end of the head; what of the bytes may be passed on."""
        if self.has_head or len(self.head) > MOST_HEAD:
            return data
        before = len(self.head)
        self.head += data
        end = self.head.find(b"\r\n\r\n")
        if end < 0:
            return data
        self.has_head = True
        del self.head[end + 4 :]
        if self.only_head:
            self.finish()
            return data[: end + 4 - before]
        return data

    def write(self, now: float) -> None:
        if self.allowance == 0:
            raise CutHere
        while self.due_in(now) == 0.0:
            if not self._pending:
                self.finished = True
                if self.sink is not None:
                    self.sink.shutdown(socket.SHUT_WR)
                return
            assert self.sink is not None
            at, data = self._pending[0]
            rate = self.conditions.rate
            size = 1 if rate else len(data)
            if self.allowance is not None:
                size = min(size, self.allowance)
            try:
                sent = self.sink.send(data[:size])
            except BlockingIOError:
                return
            self._size -= sent
            if sent < len(data):
                self._pending[0] = (at, data[sent:])
            else:
                self._pending.popleft()
            if rate:
                self._not_before = now + 1 / rate
            if self.allowance is not None:
                self.allowance -= sent
                if not self.allowance:
                    raise CutHere


class Link:
    """One connection of a client, with the one to the target if there is one."""

    def __init__(self, client: socket.socket, up: Conditions, down: Conditions) -> None:
        self.client = client
        self.target: socket.socket | None = None
        self.up = Flow(client, None, up)
        self.down = Flow(None, client, down)
        self.reply: tuple[bytes, bool] | None = None  # to the head; whether to close behind it

    def connect(self, port: int) -> None:
        self.target = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
        self.target.setblocking(False)
        self.target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.up.sink = self.down.source = self.target

    @property
    def is_over(self) -> bool:
        return all(
            flow.finished and (flow.ended or flow.source is None) for flow in (self.up, self.down)
        )

    def turn(self, now: float) -> None:
        """Passes on what can be."""
        self.up.read(now)
        self.down.read(now)
        if self.reply and self.up.has_head:
            data, closes = self.reply
            self.reply = None
            self.down.put(data, now)
            if closes:
                self.down.finish()
        if self.target is None and self.up.ended:
            self.down.finish()
        self.up.write(now)
        self.down.write(now)

    def finish(self) -> None:
        self.up.finish()
        self.down.finish()

    def close(self, *, reset: bool = False) -> None:
        for sock in filter(None, (self.client, self.target)):
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()


Welcome = Callable[[Link], None]


class FaultProxy:
    """A proxy to a port of 127.0.0.1, on a port of its own.

    Args:
        target_port: Where to.
        tls: Whether clients speak TLS with the target; for the ``url`` alone.

    Attributes:
        port: Where it listens; the same all the time.
        url: Its address for WebSockets, to put a path behind.
        connections: How many connections it has accepted so far.
        requests: The heads of the requests that came through them, as far as they can be read.
    """

    def __init__(self, target_port: int, *, tls: bool = False) -> None:
        self._target_port = target_port
        self._up, self._down = Conditions(), Conditions()
        self._welcome: Welcome = self._connect
        self._times: int | None = None
        self._next_cut: int | None = None
        self.connections = 0
        self.requests: list[bytes] = []
        self._links: list[Link] = []
        self._changed = threading.Condition()
        self._orders: collections.deque[tuple[Callable[[], Any], Future[Any]]] = collections.deque()
        self._stopping = False
        self._error: BaseException | None = None
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._listener = self._bind(0)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"ws{'s' * tls}://127.0.0.1:{self.port}"
        self._listener.listen(128)
        self._listens = True
        self._thread = threading.Thread(
            target=self._run, name=f"fault-proxy.{self.port}", daemon=True
        )
        self._thread.start()

    # -- what is open --------------------------------------------------------------------------

    def reset(self) -> None:
        """Breaks all connections, with a RST to both sides."""
        self._do(lambda: [self._drop(link) for link in list(self._links)])

    def fin(self) -> None:
        """Closes all connections, with a FIN to both sides behind what is on its way."""
        self._do(lambda: [link.finish() for link in self._links])

    def inject(self, data: bytes) -> None:
        """Sends bytes to the clients, in between those of the target."""
        self._do(lambda: [link.down.put(data, time.monotonic()) for link in self._links])

    def cut_after(self, n: int) -> None:
        """Passes ``n`` more bytes on to each client, then breaks the connection.

        Where none is open, this is for the next one.
        """

        def cut() -> None:
            for link in self._links:
                link.down.allowance = n
            self._next_cut = None if self._links else n

        self._do(cut)

    # -- what is open, and what comes ----------------------------------------------------------

    def stall(self, *, upstream: bool = True, downstream: bool = True) -> None:
        """Passes nothing on and closes nothing, as if the network were gone; both ways, or one.

        Who closes a connection meanwhile is noticed after :meth:`resume`, and :meth:`fin` waits for
        it too.
        """
        self._set(upstream, downstream, stalled=True)

    def delay(self, seconds: float) -> None:
        """Passes everything on so much later, in both directions."""
        self._set(True, True, delay=seconds)

    def slow_loris(self, bytes_per_second: float) -> None:
        """Passes single bytes on to the clients."""
        self._set(False, True, rate=bytes_per_second)

    def resume(self) -> None:
        """Ends :meth:`stall`, :meth:`delay` and :meth:`slow_loris`: nothing was lost."""
        self._set(True, True, stalled=False, delay=0.0, rate=None)

    def _set(self, upstream: bool, downstream: bool, **values: Any) -> None:
        def change() -> None:
            for wanted, conditions in ((upstream, self._up), (downstream, self._down)):
                if wanted:
                    vars(conditions).update(values)

        self._do(change)

    # -- what comes ----------------------------------------------------------------------------

    def accept(self) -> None:
        """Accepts connections and passes them on, as at first."""
        self._meet(self._connect)

    def refuse(self) -> None:
        """Refuses connections; those that are open stay open."""

        def close() -> None:
            if self._listens:
                self._selector.unregister(self._listener)
                self._listener.close()
                self._listener = self._bind(self.port)  # lest others take it
                self._listens = False

        self._do(close)

    def answer(
        self,
        status: int,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        times: int | None = None,
    ) -> None:
        """Answers requests itself, and closes."""
        lines = [f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
        self.garbage("\r\n".join(lines).encode("latin-1") + body, times=times)

    def garbage(self, data: bytes, *, close: bool = True, times: int | None = None) -> None:
        """Answers requests with these bytes, and closes or is silent then."""

        def promise(link: Link) -> None:
            link.reply = (data, close)

        self._meet(promise, times)

    def never_answer(self, *, times: int | None = None) -> None:
        """Accepts connections, reads, and is silent."""
        self._meet(lambda link: None, times)

    def flap(self, *, times: int | None = None) -> None:
        """Accepts connections, and closes them at once."""
        self._meet(lambda link: link.down.finish(), times)

    def flap_after_upgrade(self, *, times: int | None = None) -> None:
        """Passes requests and the heads of their answers on, and closes then. Not under TLS."""

        def promise(link: Link) -> None:
            self._connect(link)
            link.down.only_head = True

        self._meet(promise, times)

    def _meet(self, welcome: Welcome, times: int | None = None) -> None:
        def change() -> None:
            self._welcome, self._times = welcome, times
            if not self._listens:
                self._listen()

        self._do(change)

    def _connect(self, link: Link) -> None:
        link.connect(self._target_port)

    # -- what has come -------------------------------------------------------------------------

    @property
    def open(self) -> int:
        """How many connections of clients are open."""
        return len(self._links)

    def wait_until(self, condition: Callable[[], Any], timeout: float = DEADLINE) -> None:
        """Waits until something is so, looked at whenever a connection comes, asks or goes."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout), f"after {timeout} seconds: {self!r}"

    def wait_for_connections(self, n: int, timeout: float = DEADLINE) -> None:
        """Waits until so many connections were accepted since the start."""
        self.wait_until(lambda: self.connections >= n, timeout)

    # -- life ----------------------------------------------------------------------------------

    def stop(self) -> None:
        """Closes everything and joins the thread. May be called more than once."""
        self._stopping = True
        with contextlib.suppress(OSError):  # it is stopped
            self._wake_write.send(b"x")
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), "the fault proxy does not end"
        self._wake_write.close()
        if self._error is not None:
            error, self._error = self._error, None
            raise AssertionError("the fault proxy failed") from error

    def __enter__(self) -> "FaultProxy":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<FaultProxy {self.url} connections={self.connections} open={self.open}>"

    # -- its thread ----------------------------------------------------------------------------

    def _do(self, order: Callable[[], Any]) -> None:
        """Has the thread do something, and waits until it is done."""
        done: Future[Any] = Future()
        self._orders.append((order, done))
        self._wake_write.send(b"x")
        done.result(DEADLINE)

    @staticmethod
    def _bind(port: int) -> socket.socket:
        """A socket that has a port: as long as it does not listen, connections are refused."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.setblocking(False)
        return listener

    def _listen(self) -> None:
        self._listener.listen(128)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._listens = True

    def _run(self) -> None:
        try:
            with selectors.DefaultSelector() as self._selector:
                self._selector.register(self._wake_read, selectors.EVENT_READ)
                self._selector.register(self._listener, selectors.EVENT_READ)
                while not self._stopping:
                    self._turn()
        except BaseException as error:
            self._error = error
        finally:
            for link in self._links:
                link.close()
            self._links = []
            self._listener.close()
            self._wake_read.close()

    def _turn(self) -> None:
        """Waits until there is something to do, and does it."""
        ready = [key.fileobj for key, _ in self._selector.select(self._watch())]
        if self._wake_read in ready:
            self._wake_read.recv(4096)
        while self._orders:
            order, done = self._orders.popleft()
            try:
                done.set_result(order())
            except Exception as error:
                done.set_exception(error)
        if self._listener in ready and self._listens:
            self._take_one()
        for link in list(self._links):
            self._serve(link)

    def _serve(self, link: Link) -> None:
        asked = link.up.has_head
        try:
            link.turn(time.monotonic())
        except (OSError, CutHere):
            self._drop(link)
        else:
            if link.is_over:
                self._drop(link, reset=False)
        if link.up.has_head and not asked:
            with self._changed:
                self.requests.append(bytes(link.up.head))
                self._changed.notify_all()

    def _watch(self) -> float | None:
        """Watches the sockets of all connections for what they want; how long they can wait."""
        now, waits = time.monotonic(), []
        for link in self._links:
            for sock, into, out in (
                (link.client, link.up, link.down),
                (link.target, link.down, link.up),
            ):
                if sock is None:
                    continue
                wanted = selectors.EVENT_READ * into.wants_read
                wait = out.due_in(now)
                if wait == 0.0:
                    wanted |= selectors.EVENT_WRITE
                elif wait is not None:
                    waits.append(wait)
                self._watch_one(sock, wanted)
        return min(waits, default=None)

    def _watch_one(self, sock: socket.socket, wanted: int) -> None:
        key = self._selector.get_map().get(sock)
        if key is None:
            if wanted:
                self._selector.register(sock, wanted)
        elif not wanted:
            self._selector.unregister(sock)
        elif key.events != wanted:
            self._selector.modify(sock, wanted)

    def _take_one(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:  # it has gone already
            return
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = Link(client, self._up, self._down)
        link.down.allowance, self._next_cut = self._next_cut, None
        with self._changed:
            self.connections += 1
            self._links.append(link)
            self._changed.notify_all()
        if self._times == 0:
            self._welcome, self._times = self._connect, None
        elif self._times is not None:
            self._times -= 1
        try:
            self._welcome(link)
        except OSError:  # the target refuses
            self._drop(link)

    def _drop(self, link: Link, *, reset: bool = True) -> None:
        for sock in filter(None, (link.client, link.target)):
            self._watch_one(sock, 0)
        with self._changed:
            self._links.remove(link)
            self._changed.notify_all()
        link.close(reset=reset)
