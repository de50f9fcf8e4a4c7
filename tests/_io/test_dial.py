"""Connections that one deadline bounds and any thread can stop, whatever they wait for."""

import base64
import contextlib
import datetime
import errno
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reasoning_sdk._io import dial as module
from reasoning_sdk._io.dial import TLS, Dialing, Pipe, Route, route
from reasoning_sdk.errors import ConfigurationError, ConnectError
from tests.support.raw_server import (
    RawServer,
    Talk,
    hold,
    raw_server,
    read_exactly,
    read_head,
    serve_tls,
    server_context,
)
from tests.support.scripted import ca_file, certificate_authority, tls_context
from tests.support.threads import InThread

Serve = Callable[..., RawServer]
LINUX = os.path.isdir("/proc/self/fd")
pytestmark = pytest.mark.http
USER, PASSWORD = "proxy user", "p%/ß@:secret"
QUOTED = "proxy%20user:p%25%2F%C3%9F%40%3Asecret"


@pytest.fixture
def serve() -> Iterator[Serve]:
    with contextlib.ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(raw_server(*args, **kwargs))


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_file())


def wait_a_bit(seconds: float = 0.05) -> None:
    """For another thread to come to wait: whatever it does by then, the test must hold."""
    threading.Event().wait(seconds)


def connect(where: Route, timeout: float | None = 5.0) -> Pipe:
    return Dialing(timeout).connect(where)


def receive(pipe: Pipe) -> bytes:
    pipe.sock.settimeout(5.0)
    while (data := pipe.receive(1 << 16)) is None:
        pass
    return data


def echo(sock: socket.socket) -> None:
    while data := sock.recv(1 << 16):
        sock.sendall(data)


def echoes(pipe: Pipe) -> bool:
    """Whether the bytes of a connection come back; closes it."""
    try:
        pipe.send_all(b"hello")
        return receive(pipe) == b"hello"
    finally:
        pipe.sock.close()


def end(sock: socket.socket) -> None:
    """Ends it, but goes on reading: what is sent is not to be lost."""
    with contextlib.suppress(OSError):  # the client was faster
        sock.shutdown(socket.SHUT_WR)
    hold(sock)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


# -- TCP ---------------------------------------------------------------------------------------


def test_a_connection_is_made_by_name_and_by_address(serve: Serve) -> None:
    server = serve(echo)
    for host in ("127.0.0.1", "localhost", "some.localhost"):
        assert echoes(connect(Route(host, server.port)))
    assert echoes(connect(Route("localhost", server.port), timeout=None))


def test_a_connection_is_made_to_an_ipv6_address(serve: Serve) -> None:
    server = serve(echo, host="::1")
    assert echoes(connect(Route("::1", server.port)))


def test_small_messages_are_sent_at_once(serve: Serve) -> None:
    pipe = connect(Route("127.0.0.1", serve(hold).port))
    assert pipe.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    pipe.sock.close()


def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(socket.gaierror):
        connect(Route("nowhere.invalid", 80))


@pytest.mark.parametrize("host", ["a..b", "x" * 64])
def test_what_cannot_be_a_name_is_an_error_of_the_connection(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the rule that nothing outside is looked up: this never gets that far
    with pytest.raises(OSError, match="name"):
        connect(Route(host, 80))


def test_a_look_up_that_fails_in_its_own_way_ends_the_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(host: str, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "not an address")
        raise RuntimeError("this resolver is broken")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(OSError, match="cannot be looked up"):
        connect(Route("some.localhost", 80), timeout=None)


def test_a_refused_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        connect(Route("127.0.0.1", port))


def addresses(monkeypatch: pytest.MonkeyPatch, *found: Any) -> None:
    def look_up(host: str, port: int, *args: Any, flags: int = 0, **kwargs: Any) -> Any:
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "not an address")
        return [(family, socket.SOCK_STREAM, 6, "", address) for family, address in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


def refused() -> tuple[int, Any]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return socket.AF_INET, listener.getsockname()


def test_the_next_address_is_tried_when_one_refuses(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(echo)
    addresses(monkeypatch, refused(), (socket.AF_INET, ("127.0.0.1", server.port)))
    assert echoes(connect(Route("two.localhost", server.port)))


def test_the_next_address_is_tried_when_one_is_of_a_kind_that_this_machine_has_not(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(echo)
    make = socket.socket

    def only_ipv4(family: int = -1, *args: Any, **kwargs: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return make(family, *args, **kwargs)

    addresses(
        monkeypatch,
        (socket.AF_INET6, ("::1", server.port, 0, 0)),
        (socket.AF_INET, ("127.0.0.1", server.port)),
    )
    monkeypatch.setattr(module.socket, "socket", only_ipv4)
    pipe = connect(Route("two.localhost", server.port))
    monkeypatch.setattr(module.socket, "socket", make)
    assert echoes(pipe)


def test_the_last_error_is_told_when_no_address_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses(monkeypatch, refused(), refused())
    with pytest.raises(ConnectionRefusedError):
        connect(Route("two.localhost", 1))


@pytest.fixture
def full() -> Iterator[tuple[str, int]]:
    """An address that never answers: who listens there has no room for more connections."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()


@pytest.mark.skipif(not LINUX, reason="elsewhere a full listener refuses")
def test_an_address_that_does_not_answer_leaves_time_for_the_next(
    serve: Serve, full: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(echo)
    addresses(monkeypatch, (socket.AF_INET, full), (socket.AF_INET, ("127.0.0.1", server.port)))
    assert echoes(connect(Route("two.localhost", 1), timeout=0.4))


# -- every wait has an end ---------------------------------------------------------------------


class Stuck:
    """An attempt that comes to wait for ever."""

    def __init__(self, serve: Serve, full: tuple[str, int], patch: pytest.MonkeyPatch) -> None:
        self._serve = serve
        self._full = full
        self._patch = patch
        self.release = threading.Event()

    def look_up(self) -> Route:
        look_up = socket.getaddrinfo

        def wait(host: str, *args: Any, flags: int = 0, **kwargs: Any) -> Any:
            if flags:
                raise socket.gaierror(socket.EAI_NONAME, "not an address")
            self.release.wait(20.0)
            return look_up(host, *args, **kwargs)

        self._patch.setattr(socket, "getaddrinfo", wait)
        return Route("some.localhost", 1)

    def connect(self) -> Route:
        return Route(*self._full)

    def proxy(self) -> Route:
        return Route("h.invalid", 1, proxy=f"http://127.0.0.1:{self._serve(hold).port}")

    def slow_proxy(self) -> Route:
        head = b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000

        def talk(sock: socket.socket) -> None:
            server.drip(sock, head)

        server = self._serve(talk)
        return Route("h.invalid", 1, proxy=f"http://127.0.0.1:{server.port}")

    def tls(self) -> Route:
        return Route("127.0.0.1", self._serve(hold).port, trusting())

    def tls_to_proxy(self) -> Route:
        proxy = f"https://127.0.0.1:{self._serve(hold).port}"
        return Route("h.invalid", 1, None, proxy, trusting())

    def tls_behind_proxy(self) -> Route:
        def talk(sock: socket.socket) -> None:
            read_head(sock)
            sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            hold(sock)

        server = self._serve(talk)
        return Route("localhost", 1, trusting(), f"http://127.0.0.1:{server.port}")

    def slow_tls(self) -> Route:
        """Both layers are there, but the inner one's bytes come in records without an end."""

        def talk(sock: socket.socket) -> None:
            out, session = serve_tls(sock, tls_context())
            session.write(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 2000)
            server.drip(sock, out.read())

        server = self._serve(talk)
        proxy = f"https://127.0.0.1:{server.port}"
        return Route("h.invalid", 1, None, proxy, trusting())


WAITS = [
    "look_up", "connect", "proxy", "slow_proxy", "tls", "tls_to_proxy", "tls_behind_proxy",
    "slow_tls",
]  # fmt: skip


@pytest.fixture
def stuck(serve: Serve, full: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[Stuck]:
    made = Stuck(serve, full, monkeypatch)
    yield made
    made.release.set()


@pytest.mark.skipif(not LINUX, reason="elsewhere a full listener refuses")
@pytest.mark.parametrize("wait", WAITS)
def test_the_deadline_holds(stuck: Stuck, wait: str) -> None:
    where = getattr(stuck, wait)()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        connect(where, timeout=0.25)
    assert 0.2 < time.monotonic() - began < 1.0


@pytest.mark.skipif(not LINUX, reason="elsewhere a full listener refuses")
@pytest.mark.parametrize("timeout", [20.0, None])
@pytest.mark.parametrize("wait", WAITS)
def test_another_thread_can_stop_it(stuck: Stuck, wait: str, timeout: float | None) -> None:
    dialing = Dialing(timeout)
    where = getattr(stuck, wait)()
    attempt = InThread(lambda: dialing.connect(where))
    wait_a_bit()
    assert attempt.is_alive()
    dialing.abort()
    assert isinstance(attempt.raises(0.5), OSError)
    assert dialing.aborted


@pytest.mark.parametrize("wait", ["look_up", "connect", "proxy"])
def test_what_was_stopped_before_does_not_begin(stuck: Stuck, wait: str) -> None:
    dialing = Dialing(None)
    dialing.abort()
    where = getattr(stuck, wait)()
    with pytest.raises(ConnectionAbortedError):
        dialing.connect(where)


@pytest.mark.skipif(not LINUX, reason="elsewhere a full listener refuses")
def test_what_is_stopped_just_before_it_connects_does_not_wait(
    full: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    dialing = Dialing(None)

    def check() -> None:
        monkeypatch.undo()
        check_before()
        dialing.abort()

    check_before = dialing._check
    monkeypatch.setattr(dialing, "_check", check)
    attempt = InThread(lambda: dialing.connect(Route(*full)))
    attempt.wait(1.0)
    # The system may take a socket that was shut down for one that is connected.
    if attempt.error is None:
        with pytest.raises(ConnectionAbortedError):
            dialing.arm()
        attempt.value.sock.close()


def test_a_connection_that_was_stopped_can_no_longer_be_armed(serve: Serve) -> None:
    dialing = Dialing(5.0)
    pipe = dialing.connect(Route("127.0.0.1", serve(hold).port))
    dialing.abort()
    with pytest.raises(ConnectionAbortedError):
        dialing.arm()
    assert pipe.sock.recv(1) == b""
    pipe.sock.close()


def test_a_deadline_that_has_passed_is_told(serve: Serve) -> None:
    with pytest.raises(TimeoutError):
        connect(Route("127.0.0.1", serve(hold).port), timeout=0.0)


# -- TLS ---------------------------------------------------------------------------------------


def test_tls_by_name_and_by_address(serve: Serve) -> None:
    server = serve(echo, context=tls_context())
    for host in ("localhost", "api.localhost", "127.0.0.1"):
        assert echoes(connect(Route(host, server.port, trusting())))


def test_a_dot_at_the_end_of_a_name_is_not_part_of_it(serve: Serve) -> None:
    server = serve(echo, context=tls_context())
    assert echoes(connect(Route("api.localhost.", server.port, trusting())))


@pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"]
)
def test_more_than_a_record_goes_both_ways(serve: Serve, version: ssl.TLSVersion) -> None:
    context = trusting()
    context.maximum_version = context.minimum_version = version
    server = serve(echo, context=tls_context())
    pipe = connect(Route("localhost", server.port, context))
    sent = os.urandom(1 << 20)
    sender = InThread(lambda: pipe.send_all(sent))
    received = b""
    while len(received) < len(sent):
        received += receive(pipe)
    assert received == sent
    sender.wait()
    pipe.sock.close()


class InMemory:
    """Both ends of TLS with nothing between them: ours, and what the other one says."""

    def __init__(self, version: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED) -> None:
        context = trusting()
        context.maximum_version = version
        self.ours = TLS(context, "localhost")
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = tls_context().wrap_bio(self._incoming, self._outgoing, server_side=True)
        is_done = False
        while not is_done:
            is_done = self.ours.shake_hands()
            self._incoming.write(self.ours.encrypt(b""))
            with contextlib.suppress(ssl.SSLWantReadError):
                self._session.do_handshake()
            self.ours.feed(self._outgoing.read())

    def says(self, data: bytes) -> bytes:
        self._session.write(data)
        return self._outgoing.read()

    def hears(self, data: bytes) -> bytes:
        self._incoming.write(data)
        return self._session.read(1 << 16)

    def refuses(self) -> bytes:
        """A fatal alert, after what it cannot decrypt."""
        with pytest.raises(ssl.SSLError):
            self.hears(b"\x17\x03\x03\x00\x20" + bytes(32))
        return self._outgoing.read()


class Interrupted:
    """A session in the middle of whose first read something else is done, in the same thread."""

    def __init__(self, session: ssl.SSLObject, meanwhile: Callable[[], object]) -> None:
        self._session = session
        self._meanwhile: Callable[[], object] | None = meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def read(self, size: int) -> bytes:
        meanwhile, self._meanwhile = self._meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return self._session.read(size)


def test_what_the_collector_ends_in_the_middle_of_a_step_does_not_wait_for_that_step() -> None:
    ends = InMemory()
    sealed: list[bytes] = []

    def finalise() -> None:
        assert ends.ours._lock.acquire(blocking=False), "it would wait for itself, for ever"
        ends.ours._lock.release()
        sealed.append(ends.ours.encrypt(b"bye"))

    ends.ours._session = Interrupted(ends.ours._session, finalise)  # type: ignore[assignment]
    assert ends.ours.decrypt(ends.says(b"hello")) == b"hello"
    assert ends.hears(sealed[0]) == b"bye"


@pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"]
)
@pytest.mark.parametrize("what", ["alert", "garbage"])
def test_what_came_before_a_failure_of_tls_is_given_and_then_the_end(
    version: ssl.TLSVersion, what: str
) -> None:
    ends = InMemory(version)
    data = ends.says(b"last ") + ends.says(b"words")
    data += ends.refuses() if what == "alert" else b"HTTP/1.1 502 Bad Gateway\r\n\r\n"
    client, server = socket.socketpair()
    with client, server:
        server.sendall(data)
        pipe = Pipe(client, (ends.ours,))
        assert receive(pipe) == b"last words"
        assert receive(pipe) == b""


@pytest.mark.parametrize("what", ["alert", "garbage"])
def test_a_failure_of_tls_with_nothing_before_it_is_an_error(what: str) -> None:
    ends = InMemory()
    with pytest.raises(ssl.SSLError):
        ends.ours.decrypt(ends.refuses() if what == "alert" else b"HTTP/1.1 502 Bad Gateway\r\n")


def past() -> dict[str, Any]:
    now = datetime.datetime.now(datetime.timezone.utc)
    day = datetime.timedelta(days=1)
    return {"not_before": now - 2 * day, "not_after": now - day}


@pytest.mark.parametrize(
    ("names", "options", "reason"),
    [
        (["other.localhost"], {}, "Hostname mismatch|not valid for"),
        (["localhost"], past(), "certificate has expired"),
    ],
)
def test_a_certificate_that_does_not_fit_is_refused(
    serve: Serve, names: list[str], options: dict[str, Any], reason: str
) -> None:
    server = serve(hold, context=server_context(*names, **options))
    with pytest.raises(ssl.SSLCertVerificationError, match=reason):
        connect(Route("localhost", server.port, trusting()))


def test_a_certificate_of_an_unknown_authority_is_refused(serve: Serve) -> None:
    server = serve(hold, context=tls_context())
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(route(f"https://localhost:{server.port}", None, None))


def test_a_refused_server_is_told_why(serve: Serve) -> None:
    told: list[bytes] = []

    def talk(sock: socket.socket) -> None:
        with pytest.raises(ssl.SSLError) as caught:
            serve_tls(sock, server_context("other.localhost"))
        told.append(str(caught.value).encode())

    server = serve(talk)
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(Route("localhost", server.port, trusting()))
    server.wait_idle()
    assert b"ALERT" in told[0].upper()


@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n", b"\0" * 100]
)
def test_a_server_without_tls_is_told_apart(serve: Serve, said: bytes) -> None:
    def talk(sock: socket.socket) -> None:
        sock.sendall(said)
        hold(sock)

    with pytest.raises(ssl.SSLError):
        connect(Route("localhost", serve(talk).port, trusting()))


def cut_before_the_handshake(sock: socket.socket) -> None:
    sock.recv(10)


def cut_in_the_handshake(sock: socket.socket) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = tls_context().wrap_bio(incoming, outgoing, server_side=True)
    incoming.write(sock.recv(1 << 16))
    with contextlib.suppress(ssl.SSLWantReadError):
        session.do_handshake()
    sock.sendall(outgoing.read()[:100])
    end(sock)


@pytest.mark.parametrize("talk", [cut_before_the_handshake, cut_in_the_handshake])
def test_a_handshake_that_is_cut(serve: Serve, talk: Talk) -> None:
    with pytest.raises(ConnectionResetError):
        connect(Route("localhost", serve(talk).port, trusting()))


def test_a_context_of_the_users_own_is_used_as_it_is(serve: Serve) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    server = serve(echo, context=server_context("somebody.else", **past()))
    where = route(f"https://localhost:{server.port}", None, context)
    assert where.context is context
    assert echoes(connect(where))
    assert context.verify_mode is ssl.CERT_NONE
    assert not context.check_hostname


def test_a_client_certificate_is_shown(serve: Serve) -> None:
    context = server_context("localhost")
    context.verify_mode = ssl.CERT_REQUIRED
    certificate_authority().configure_trust(context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # with 1.3 a refusal comes later
    server = serve(echo, context=context)
    mine = trusting()
    with pytest.raises(OSError, match=r"(?i)alert|ended|reset"):
        connect(Route("localhost", server.port, mine))
    certificate_authority().issue_cert("me@example.org").configure_cert(mine)
    assert echoes(connect(Route("localhost", server.port, mine)))


# -- what is trusted when nothing is said ------------------------------------------------------


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_the_bundle_of_the_environment_is_trusted(
    serve: Serve, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, ca_file())
    server = serve(echo, context=tls_context())
    assert echoes(connect(route(f"https://localhost:{server.port}", None, None)))


def test_a_bundle_may_be_a_directory(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # OpenSSL looks for the hash of the subject, which Python does not tell.
    import subprocess

    command = ["openssl", "x509", "-noout", "-subject_hash", "-in", ca_file()]
    try:
        found = subprocess.run(command, capture_output=True, check=True).stdout.decode().strip()
    except FileNotFoundError:
        pytest.skip("needs the program openssl")
    (tmp_path / f"{found}.0").write_bytes(Path(ca_file()).read_bytes())
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
    server = serve(echo, context=tls_context())
    assert echoes(connect(route(f"https://localhost:{server.port}", None, None)))


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_bundle_that_cannot_be_read_is_an_error_of_the_configuration(
    tmp_path: Path, content: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bundle.pem"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
    with pytest.raises(ConfigurationError, match=r"bundle\.pem"):
        route("https://h", None, None)
    with pytest.raises(ConfigurationError, match=r"bundle\.pem"):
        route("http://h", "https://p", None)
    assert route("http://h", None, None).context is None
    assert route("https://h", "", trusting()).proxy is None


def test_a_bundle_is_read_once_and_again_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bundle.pem"
    path.write_bytes(Path(ca_file()).read_bytes())
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
    first = route("https://h", None, None).context
    assert route("https://h", None, None).context is first
    os.utime(path, (1.0, 1.0))
    assert route("https://h", None, None).context is not first


def test_what_is_trusted_by_default_verifies() -> None:
    context = route("https://h", None, None).context
    assert context is not None
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


# -- which way ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h", ("h", 80)),
        ("http://h:81/p?q", ("h", 81)),
        ("https://H", ("h", 443)),
        ("https://[::1]:8443/", ("::1", 8443)),
        ("http://[::1]", ("::1", 80)),
    ],
)
def test_where_a_url_leads(url: str, expected: tuple[str, int]) -> None:
    where = route(url, None, None)
    assert (where.host, where.port) == expected
    assert (where.context is not None) is url.startswith("https")
    assert where.proxy is None


def test_a_context_is_not_used_without_tls() -> None:
    assert route("http://h", None, trusting()).context is None


@pytest.mark.parametrize(
    ("settings", "url", "expected"),
    [
        ({"http_proxy": "http://p:1"}, "http://h", "http://p:1"),
        ({"http_proxy": "http://p:1"}, "https://h", None),
        ({"HTTPS_PROXY": "http://p:1"}, "https://h", "http://p:1"),
        ({"https_proxy": "http://p:1"}, "https://h", "http://p:1"),
        ({"ALL_PROXY": "p:1"}, "http://h", "http://p:1"),
        ({"all_proxy": "http://p:1", "https_proxy": "http://p:2"}, "https://h", "http://p:2"),
        ({"http_proxy": "http://p:1", "no_proxy": "h"}, "http://h", None),
        ({"http_proxy": "http://p:1", "NO_PROXY": ".example"}, "http://h.example", None),
        ({"http_proxy": "http://p:1", "no_proxy": "*"}, "http://h", None),
        ({"http_proxy": "http://p:1", "no_proxy": "127.0.0.0/8"}, "http://127.0.0.1:5", None),
        ({"http_proxy": "http://p:1", "no_proxy": "other"}, "http://h", "http://p:1"),
        ({"http_proxy": ""}, "http://h", None),
    ],
)
def test_the_proxy_of_the_environment(
    settings: dict[str, str], url: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert route(url, None, trusting()).proxy == expected
    assert route(url, "", trusting()).proxy is None
    assert route(url, "http://own:3128", trusting()).proxy == "http://own:3128"


@pytest.mark.parametrize(
    ("proxy", "expected"),
    [
        ("host:3128", "http://host:3128"),
        ("localhost", "http://localhost"),
        ("user:word@host:3128", "http://user:word@host:3128"),
        ("[::1]:3128", "http://[::1]:3128"),
        ("HTTPS://Host:1", "https://Host:1"),
    ],
)
def test_a_proxy_may_be_without_a_scheme(proxy: str, expected: str) -> None:
    where = route("http://h", proxy, None)
    assert where.proxy == expected
    assert (where.proxy_context is not None) is expected.startswith("https")


@pytest.mark.parametrize(
    "proxy",
    [
        f"socks5://user:{PASSWORD}@h:1080",
        "socks5h://h:1080",
        "ftp://user:secret1@h",
        "http://",
        "http://user:secret1@",
        "http://user:secret1@h:99999",
        "http://user:sec/ret1@h:1",
        "http://user:secret1@h h:1",
        "http://user:secret1@.h:1",
        "http://user:secret1@h:0",
        "user:sec#ret1@h:1",
        "http://[::1:1",
    ],
)
@pytest.mark.parametrize("is_set", [False, True])
def test_what_is_no_http_proxy_is_an_error_that_does_not_tell_its_password(
    proxy: str, is_set: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import traceback

    if is_set:
        monkeypatch.setenv("all_proxy", proxy)
    with pytest.raises(ConfigurationError, match="proxy must be an http or https URL") as caught:
        route("http://h", None if is_set else proxy, None)
    told = "".join(traceback.format_exception(caught.value))
    assert "ret1" not in told
    assert "secret" not in told


# -- proxies -----------------------------------------------------------------------------------


class Proxy:
    """What a proxy does with a connection: tunnels nowhere, but to ``then``."""

    def __init__(self, then: Talk = echo, answer: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> None:
        self.heads: list[bytes] = []
        self._then = then
        self._answer = answer

    def __call__(self, sock: socket.socket) -> None:
        self.heads.append(read_head(sock))
        sock.sendall(self._answer)
        self._then(sock)


@pytest.mark.parametrize("proxy_scheme", ["http", "https"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_through_a_proxy(serve: Serve, proxy_scheme: str, scheme: str) -> None:
    """With TLS to neither, either or both: then it is TLS in TLS."""

    def then(sock: socket.socket) -> None:
        if scheme == "http":
            echo(sock)
            return
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = tls_context().wrap_bio(incoming, outgoing, server_side=True)

        def step(do: Callable[[], Any]) -> Any:
            while True:
                try:
                    return do()
                except ssl.SSLWantReadError:
                    sock.sendall(outgoing.read())
                    data = sock.recv(1 << 16)
                    if not data:
                        raise ConnectionResetError from None
                    incoming.write(data)

        step(session.do_handshake)
        while True:
            session.write(step(lambda: session.read(1 << 16)))
            sock.sendall(outgoing.read())

    proxy = Proxy(then)
    server = serve(proxy, context=tls_context() if proxy_scheme == "https" else None)
    where = Route(
        "api.localhost",
        5,
        trusting() if scheme == "https" else None,
        f"{proxy_scheme}://localhost:{server.port}",
        trusting() if proxy_scheme == "https" else None,
    )
    pipe = connect(where)
    assert len(pipe.layers) == (scheme == "https") + (proxy_scheme == "https")
    sent = os.urandom(300_000)
    sender = InThread(lambda: pipe.send_all(sent))
    received = b""
    while len(received) < len(sent):
        received += receive(pipe)
    sender.wait()
    assert received == sent
    assert echoes(pipe)
    assert proxy.heads == [
        b"CONNECT api.localhost:5 HTTP/1.1\r\nHost: api.localhost:5\r\n\r\n",
    ]


@pytest.mark.parametrize(
    ("host", "shown"), [("::1", b"[::1]:5"), ("büro.localhost", b"xn--bro-hoa.localhost:5")]
)
def test_a_proxy_is_told_the_host_as_http_writes_it(serve: Serve, host: str, shown: bytes) -> None:
    proxy = Proxy()
    server = serve(proxy)
    assert echoes(connect(Route(host, 5, proxy=f"http://127.0.0.1:{server.port}")))
    assert proxy.heads == [b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (shown, shown)]


def test_a_proxy_may_have_an_ipv6_address(serve: Serve) -> None:
    server = serve(Proxy(), host="::1")
    assert echoes(connect(Route("h", 5, proxy=f"http://[::1]:{server.port}")))


@pytest.mark.parametrize(
    ("credentials", "expected"),
    [
        (QUOTED, f"{USER}:{PASSWORD}"),
        ("user", "user:"),
        (":word", ":word"),
        ("user:", "user:"),
    ],
)
def test_a_proxy_gets_the_credentials_of_its_url(
    serve: Serve, credentials: str, expected: str
) -> None:
    seen: list[bytes] = []

    def then(sock: socket.socket) -> None:
        seen.append(sock.recv(1 << 16))

    proxy = Proxy(then)
    server = serve(proxy)
    where = route("http://h:5", f"http://{credentials}@127.0.0.1:{server.port}", None)
    pipe = connect(where)
    pipe.send_all(b"GET")
    assert receive(pipe) == b""
    pipe.sock.close()
    (line,) = [ln for ln in proxy.heads[0].split(b"\r\n") if ln.startswith(b"Proxy-Auth")]
    assert base64.b64decode(line.partition(b"Basic ")[2]).decode() == expected
    assert seen == [b"GET"]  # nothing of it goes through the tunnel


@pytest.mark.parametrize("status", ["407 Proxy Authentication Required", "502 Bad Gateway"])
def test_a_proxy_that_refuses(serve: Serve, status: str) -> None:
    answer = f"HTTP/1.1 {status}\r\nContent-Length: 3\r\n\r\nno!".encode()
    server = serve(Proxy(hold, answer))
    with pytest.raises(ConnectError, match=status):
        connect(Route("h", 5, proxy=f"http://127.0.0.1:{server.port}"))


def test_a_proxy_that_repeats_credentials_is_not_repeated(serve: Serve) -> None:
    def talk(sock: socket.socket) -> None:
        head = read_head(sock)
        token = head.partition(b"Basic ")[2].partition(b"\r\n")[0]
        word = base64.b64decode(token)
        sock.sendall(b"HTTP/1.1 407 You said %b, %b\r\n\r\n" % (token, word))
        hold(sock)

    server = serve(talk)
    with pytest.raises(ConnectError, match="407") as caught:
        connect(Route("h", 5, proxy=f"http://{QUOTED}@127.0.0.1:{server.port}"))
    assert "said" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"SSH-2.0-OpenSSH\r\n", ConnectError),
        (b"\0\1\2", ConnectError),
        (b"HTTP/1.1 twohundred\r\n\r\n", ConnectError),
        (b"HTTP/1.1 200 OK\r\n\r\nmore than was asked for", ConnectError),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000, ConnectError),
        (b"", ConnectionResetError),
        (b"HTTP", ConnectionResetError),
        (b"HTTP/1.1 200 OK\r\n", ConnectionResetError),
        (b"HTTP/1.1 200 OK\r\nX: y\r\n", ConnectionResetError),
    ],
)
def test_a_proxy_that_answers_something_else(
    serve: Serve, answer: bytes, error: type[Exception]
) -> None:
    server = serve(Proxy(end, answer))
    with pytest.raises(error):
        connect(Route("h", 5, proxy=f"http://127.0.0.1:{server.port}"))


def test_a_proxy_may_answer_in_pieces_and_with_bare_line_feeds(serve: Serve) -> None:
    def talk(sock: socket.socket) -> None:
        read_head(sock)
        server.drip(sock, b"HTTP/1.0 200 Connection established\nVia: x\n\n", every=0.001)
        echo(sock)

    server = serve(talk)
    assert echoes(connect(Route("h", 5, proxy=f"http://127.0.0.1:{server.port}")))


# -- nothing is left over ----------------------------------------------------------------------


@pytest.mark.skipif(not LINUX, reason="needs /proc")
@pytest.mark.parametrize("how", ["refused", "cut", "certificate", "proxy", "late", "no name"])
def test_a_connection_that_fails_leaves_no_file_open(serve: Serve, how: str) -> None:
    server = serve(
        {"cut": cut_before_the_handshake, "proxy": Proxy(hold, b"HTTP/1.1 502 no\r\n\r\n")}.get(
            how, hold
        ),
        context=tls_context() if how == "certificate" else None,
    )
    local = "127.0.0.1"
    where = {
        "refused": Route(*refused()[1]),
        "cut": Route(local, server.port, trusting()),
        "certificate": Route("wrong.localhost", server.port, trusting()),
        "proxy": Route("h", 5, proxy=f"http://{local}:{server.port}"),
        "late": Route(local, server.port, trusting()),
        "no name": Route("nowhere.invalid", 1),
    }[how]
    before = open_files()
    for _ in range(50):
        with pytest.raises((OSError, ConnectError)):
            connect(where, timeout=0.01 if how == "late" else 5.0)
    server.wait_idle()
    assert open_files() <= before


@pytest.mark.skipif(not LINUX, reason="needs /proc")
def test_a_connection_that_is_stopped_leaves_no_file_open(stuck: Stuck) -> None:
    where = stuck.connect()
    before = open_files()
    for _ in range(20):
        dialing = Dialing(None)
        attempt = InThread(lambda dialing=dialing: dialing.connect(where))  # type: ignore[misc]
        dialing.abort()
        attempt.wait()
        if attempt.error is None:
            attempt.value.sock.close()
    assert open_files() <= before


def test_a_failed_connection_is_closed_at_once(serve: Serve) -> None:
    ended = threading.Event()

    def talk(sock: socket.socket) -> None:
        read_exactly(sock, 3)
        sock.sendall(b"no TLS here")
        with contextlib.suppress(ConnectionError):
            hold(sock)
        ended.set()

    with pytest.raises(ssl.SSLError):
        connect(Route("localhost", serve(talk).port, trusting()))
    assert ended.wait(1.0)


def test_to_hang_up_ends_the_connection_for_whoever_else_has_a_descriptor_of_it(
    serve: Serve,
) -> None:
    ended = threading.Event()

    def talk(sock: socket.socket) -> None:
        with contextlib.suppress(ConnectionError):
            hold(sock)
        ended.set()

    dialing = Dialing(5.0)
    pipe = dialing.connect(Route("127.0.0.1", serve(talk).port))
    with pipe.sock.dup() as other:
        dialing.hang_up()
        assert pipe.sock.fileno() == -1
        assert ended.wait(1.0)
        assert other.recv(1) == b""


def test_to_hang_up_in_a_forked_child_ends_nothing_of_its_parents(serve: Serve) -> None:
    dialing = Dialing(5.0)
    pipe = dialing.connect(Route("127.0.0.1", serve(echo).port))
    parents = Pipe(pipe.sock.dup())
    dialing._pid = -1  # as if another process had made it
    dialing.hang_up()
    assert pipe.sock.fileno() == -1
    assert echoes(parents)
