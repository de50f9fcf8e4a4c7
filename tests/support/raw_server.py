"""A server that is nothing but sockets: a function of the test's talks on each connection."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

from tests.support.scripted import certificate_authority

Talk = Callable[[socket.socket], object]


class RawServer:
    """Accepts connections on loopback, and has a function talk on each, in a thread of its own.

    Args:
        talks: What to do with each connection, in order; the last one also with all further ones.
        context: For TLS, which is there before the function is called. A client that does not like
            it is no error.
        host: The address to listen on.

    ``errors`` are the exceptions of those functions, but for what a client that goes away causes.
    ``accepted`` counts the connections.
    """

    def __init__(
        self, *talks: Talk, context: ssl.SSLContext | None = None, host: str = "127.0.0.1"
    ) -> None:
        self.errors: list[BaseException] = []
        self.accepted = 0
        self._talks = talks
        self._context = context
        self._stopping = threading.Event()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(
            (host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=128
        )
        self.host = host
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, name=f"raw-server.{self.port}")]
        self._threads[0].start()

    def pause(self, seconds: float) -> None:
        """Lets time pass; raises ``ConnectionError`` when the server is stopped."""
        if self._stopping.wait(seconds):
            raise ConnectionAbortedError

    def drip(self, sock: socket.socket, data: bytes, every: float = 0.01) -> None:
        """Sends byte after byte."""
        for at in range(len(data)):
            sock.sendall(data[at : at + 1])
            self.pause(every)

    def stop(self) -> None:
        """Ends all connections and joins all threads."""
        self._stopping.set()
        with contextlib.suppress(OSError):  # wakes who accepts
            socket.create_connection(("127.0.0.1" if self.host == "127.0.0.1" else self.host,
                                      self.port), timeout=1.0).close()  # fmt: skip
        self._threads[0].join(5.0)
        self._listener.close()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5.0)
        for sock in self._sockets:
            sock.close()
        if self.errors:
            raise AssertionError("the server's side has failed") from self.errors[0]

    def wait_idle(self, timeout: float = 5.0) -> None:
        """Waits until the threads of all connections have ended."""
        for thread in self._threads[1:]:
            thread.join(timeout)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            if self._stopping.is_set():
                sock.close()
                return
            sock.settimeout(10.0)
            talk = self._talks[min(self.accepted, len(self._talks) - 1)]
            self.accepted += 1
            self._sockets.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock, talk))
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, talk: Talk) -> None:
        try:
            if self._context is not None:
                plain = sock
                try:
                    sock = self._context.wrap_socket(sock, server_side=True)
                except (OSError, ssl.SSLError):
                    plain.close()
                    return
                self._sockets.append(sock)
            talk(sock)
        except (ConnectionError, ssl.SSLError):
            pass  # the client, or the test, has gone
        except BaseException as error:
            if not self._stopping.is_set():
                self.errors.append(error)
        finally:
            sock.close()


@contextlib.contextmanager
def raw_server(
    *talks: Talk, context: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> Iterator[RawServer]:
    server = RawServer(*talks, context=context, host=host)
    try:
        yield server
    finally:
        server.stop()


def read_head(sock: socket.socket) -> bytes:
    """The head of a request; byte by byte, so that nothing behind it is lost."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        part = sock.recv(1)
        if not part:
            raise ConnectionResetError("the client has gone")
        head += part
    return head


def read_exactly(sock: socket.socket, size: int) -> bytes:
    parts, left = [], size
    while left:
        part = sock.recv(min(left, 1 << 16))
        if not part:
            raise ConnectionResetError("the client has gone")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def hold(sock: socket.socket) -> None:
    """Reads until the client ends it, and says nothing."""
    while sock.recv(1 << 16):
        pass


def server_context(*names: str, **options: object) -> ssl.SSLContext:
    """A context for a server with a certificate of the tests' authority for these names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate_authority().issue_cert(*names, **options).configure_cert(context)  # type: ignore[arg-type]
    return context


def serve_tls(sock: socket.socket, context: ssl.SSLContext) -> tuple[ssl.MemoryBIO, ssl.SSLObject]:
    """A server's TLS by hand: the records that it writes are for the caller to send."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_side=True)
    while True:
        try:
            session.do_handshake()
        except ssl.SSLWantReadError:
            sock.sendall(outgoing.read())
            incoming.write(sock.recv(1 << 16))
        else:
            sock.sendall(outgoing.read())
            return outgoing, session
