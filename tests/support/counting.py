"""A server that counts: which events have arrived, how often, and in which order."""

import contextlib
import json
import selectors
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import attrs

DEADLINE = 30.0


@attrs.define(eq=False)
class Post:
    """A POST that was read whole.

    Attributes:
        connection: The number of the connection that it came through.
        status: What it was answered with; ``None`` when it was not.
    """

    path: str
    headers: dict[str, str]
    body: bytes
    connection: int
    status: int | None = None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def key(self) -> str:
        return self.headers["idempotency-key"]

    @property
    def signature(self) -> str | None:
        return self.headers.get("x-viewer-signature")


class CountingServer:
    """Takes POSTs on a port of 127.0.0.1, each connection on a thread of its own.

    Attributes:
        url: Where it is.
        posts: Every POST so far, in the order in which they were read.
        delay: Seconds that each answer takes.
    """

    def __init__(self) -> None:
        self.posts: list[Post] = []
        self.delay = 0.0
        self._changed = threading.Condition()
        self._gate = threading.Event()
        self._gate.set()
        self._failures: list[int] = []
        self._status = 200
        self._stopped = threading.Event()
        self._port = 0
        self._listener: socket.socket | None = None
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._count = 0
        self.accept()
        self.url = f"http://127.0.0.1:{self._port}"

    # -- what it does ------------------------------------------------------------------------------

    def accept(self) -> None:
        """Accept connections, after a :meth:`refuse`."""
        assert self._listener is None
        self._listener = socket.create_server(("127.0.0.1", self._port), backlog=128)
        self._port = self._listener.getsockname()[1]
        self._start(self._serve, self._listener)

    def refuse(self) -> None:
        """Refuse connections, and break those that there are."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._changed:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def hold(self) -> None:
        """Read what comes, and answer nothing."""
        self._gate.clear()

    def release(self) -> None:
        """Answer what was held, where somebody still waits for it, and what comes."""
        self._gate.set()

    def answer(self, status: int) -> None:
        """Answer with a status from now on."""
        self._status = status

    def stop(self) -> None:
        """Stop; it may be called more than once."""
        self._stopped.set()
        self.refuse()
        self.release()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> "CountingServer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    # -- what has come -----------------------------------------------------------------------------

    @property
    def delivered(self) -> list[Post]:
        """The POSTs that were answered with 200."""
        with self._changed:
            return [post for post in self.posts if post.status == 200]

    @property
    def events(self) -> list[tuple[str, int]]:
        """The events that were delivered, by their id and number, in order."""
        return [(event["id"], event["n"]) for event in (post.json for post in self.delivered)]

    def numbers(self, id: str) -> list[int]:
        """The numbers of one id's events, in the order of their arrival."""
        return [number for name, number in self.events if name == id]

    def repeated(self) -> dict[Any, int]:
        """What was delivered more than once: by its path and body, and by its key."""
        posts = self.delivered
        counts: Counter[Any] = Counter((post.path, post.body) for post in posts)
        counts.update(post.key for post in posts)
        return {what: count for what, count in counts.items() if count > 1}

    def disordered(self) -> list[str]:
        """The ids whose events did not arrive in order."""
        last: dict[str, int] = {}
        found = []
        for id, number in self.events:
            if number < last.get(id, -1):
                found.append(id)
            last[id] = number
        return found

    def wait_until(self, condition: Callable[[], Any], timeout: float = DEADLINE) -> None:
        """Wait until something is so, looked at whenever something has come."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout), (
                f"after {timeout} seconds: {len(self.posts)} posts, {len(self.delivered)} delivered"
            )

    def wait_for(self, n: int, timeout: float = DEADLINE) -> None:
        """Wait until so many events were delivered."""
        self.wait_until(lambda: len(self.delivered) >= n, timeout)

    def wait_for_posts(self, n: int, timeout: float = DEADLINE) -> None:
        """Wait until so many POSTs were read."""
        self.wait_until(lambda: len(self.posts) >= n, timeout)

    # -- behind it ---------------------------------------------------------------------------------

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name="counting server")
        self._threads.append(thread)
        thread.start()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._changed:
                self._connections.add(connection)
                self._count += 1
                number = self._count
            if self._stopped.is_set() or self._listener is not listener:
                connection.close()
                return
            self._start(self._talk, connection, number)

    def _talk(self, connection: socket.socket, number: int) -> None:
        try:
            with connection, connection.makefile("rb") as file:
                while (post := _read(file, number)) is not None:
                    with self._changed:
                        self.posts.append(post)
                        self._changed.notify_all()
                    self._gate.wait()
                    if self._stopped.wait(self.delay) or not _is_open(connection):
                        return
                    with self._changed:
                        post.status = self._status
                        self._changed.notify_all()
                    connection.sendall(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % post.status)
        except OSError:
            pass
        finally:
            with self._changed:
                self._connections.discard(connection)


def _read(file: Any, connection: int) -> Post | None:
    start = file.readline().split()
    if len(start) != 3 or start[0] != b"POST":
        return None
    headers = {}
    while (line := file.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    length = int(headers.get("content-length", 0))
    body = file.read(length)
    if len(body) != length:
        return None
    return Post(start[1].decode(), headers, body, connection)


def _is_open(connection: socket.socket) -> bool:
    """Whether the other side still waits."""
    try:
        return bool(connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return True
    except OSError:
        return False


@contextlib.contextmanager
def blackhole() -> Iterator[str]:
    """The URL of a port where connecting takes for ever: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = listener.getsockname()[1]
        selector = stack.enter_context(selectors.DefaultSelector())
        for _ in range(16):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            selector.register(filler, selectors.EVENT_WRITE)
            if not selector.select(0.1):
                break
            selector.unregister(filler)
        yield f"http://127.0.0.1:{port}"
