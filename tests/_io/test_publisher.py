"""The publisher: its threads, its order, how it waits, how it ends, and what it tells of losses."""

import itertools
import logging
import socket
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import urllib3

import reasoning_sdk as r
from reasoning_sdk._core.outbox import Item, Loss, Outbox
from reasoning_sdk._io.post import Poster
from reasoning_sdk._io.publisher import Destined, Publisher, ViewerStats
from reasoning_sdk._io.spool import Spool
from tests.support.scripted import (
    Connection,
    Handler,
    ScriptedServer,
    answer,
    hang_up,
    json_answer,
    raw,
    redirect,
    reset,
    silence,
)
from tests.support.threads import InThread

FUTURE = hasattr(urllib3, "AsyncPoolManager")
pytestmark = pytest.mark.http

Scripted = Callable[..., ScriptedServer]
OK = json_answer(200, {})
HANGS = silence(headers=False)
QUICK = r.RetryPolicy(initial_interval=0.01, max_interval=0.05, randomization_factor=0)
ONCE = r.RetryPolicy(max_attempts=0)
PATIENT = r.RetryPolicy(initial_interval=60.0, max_interval=60.0)


class Publishing:
    """A publisher with an outbox, a poster, and what it told of losses."""

    def __init__(
        self,
        url: str,
        *,
        retry: r.RetryPolicy = QUICK,
        workers: int = 1,
        timeout: float | None = 10.0,
        max_queue: int | None = None,
        max_queue_bytes: int | None = None,
        drop_oldest: bool = False,
        spool: Spool | None = None,
        on_loss: Callable[[Loss[Destined]], None] | None = None,
    ) -> None:
        self.losses: list[Loss[Destined]] = []
        self._url = url
        self._targets: dict[str, Destined] = {}
        self.publisher = Publisher(
            outbox=Outbox(
                max_queue=max_queue,
                max_queue_bytes=max_queue_bytes,
                drop_oldest=drop_oldest,
                workers=workers,
                retry=retry,
            ),
            poster=Poster(timeout=timeout),
            workers=workers,
            spool=spool,
            revive=lambda kept: None,
            on_loss=self.losses.append if on_loss is None else on_loss,
            exit_timeout=0.0,
        )

    def target(self, url: str) -> Destined:
        if url not in self._targets:
            headers = {"Content-Type": "application/json"}
            self._targets[url] = Destined(url=url, headers=headers, destination=url, label=b'"x":1')
        return self._targets[url]

    def put(self, *bodies: str, url: str | None = None) -> bool:
        """Put events in; "a1" is of the lane "a"."""
        target = self.target(url or self._url)
        taken = [self.publisher.put(Item(b.encode(), b[0], target)) for b in bodies]
        return all(taken)

    def flush(self, timeout: float | None = 5.0) -> bool:
        return self.publisher.flush(timeout)

    def close(self, timeout: float | None = 0.0) -> bool:
        return self.publisher.close(timeout)

    @property
    def counts(self) -> ViewerStats:
        return self.publisher.stats()

    def submitted(self) -> int:
        counts = self.counts
        return counts.delivered + sum(counts.dropped.values()) + counts.queued + counts.in_flight

    def settled(self, **expected: int) -> None:
        """Nothing is left, and this is what became of it."""
        counts = self.counts
        assert (counts.queued, counts.queued_bytes, counts.in_flight) == (0, 0, 0)
        found = {"delivered": counts.delivered, **counts.dropped}
        assert found == {"delivered": 0, **expected}
        assert self.publisher._inbox_bytes == 0


Make = Callable[..., Publishing]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Publishing] = []

    def publishing(to: ScriptedServer | str, **options: Any) -> Publishing:
        url = to if isinstance(to, str) else to.url("/x")
        made.append(Publishing(url, **options))
        return made[-1]

    yield publishing
    for publishing_ in made:
        publishing_.close()


@pytest.fixture
def nobody() -> str:
    """An address that refuses."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}/x"


def bodies(server: ScriptedServer) -> list[str]:
    return [request.body.decode() for request in server.requests]


def keys(server: ScriptedServer) -> list[str]:
    return [request.headers["idempotency-key"] for request in server.requests]


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    pause, deadline = threading.Event(), time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        pause.wait(0.002)


class Took:
    """How long it took."""

    def __enter__(self) -> "Took":
        self._began = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._began


# -- what arrives ------------------------------------------------------------------------------


def test_what_is_put_in_arrives_in_order_over_one_connection(
    scripted: Scripted, make: Make
) -> None:
    server = scripted(OK, repeat_last=True)
    it = make(server)
    assert it.put(*(f"a{n}" for n in range(100)))
    assert it.flush()
    assert bodies(server) == [f"a{n}" for n in range(100)]
    assert len(set(keys(server))) == 100
    assert server.accepted == 1
    it.settled(delivered=100)
    assert it.counts.retries == 0


def test_no_thread_is_begun_before_there_is_something_to_do(make: Make) -> None:
    before = threading.active_count()
    it = make("http://127.0.0.1:1/")
    assert it.flush(0)
    assert it.counts.queued == 0
    assert threading.active_count() == before
    assert it.close(0)


PASSING: dict[str, Handler] = {
    "reset": reset(),
    "hang up": hang_up(),
    "cut": raw(b"HTTP/1.1 200 OK\r\nContent-"),
    "timeout": HANGS,
    **{str(status): answer(status) for status in (408, 425, 429, 500, 502, 503, 599)},
    "429 with a time": answer(429, headers={"Retry-After": "0"}),
    "503 with a time": answer(503, headers={"retry-after-ms": "5"}),
}


@pytest.mark.parametrize("name", PASSING)
def test_a_failure_that_passes_is_tried_again_with_the_same_key(
    scripted: Scripted, make: Make, name: str
) -> None:
    server = scripted([PASSING[name], PASSING[name], OK, OK])
    it = make(server, timeout=0.3)
    it.put("a1", "a2")
    assert it.flush()
    assert bodies(server) == ["a1", "a1", "a1", "a2"]
    assert len(set(keys(server)[:3])) == 1
    assert keys(server)[3] != keys(server)[0]
    it.settled(delivered=2)
    assert it.counts.retries == 2
    assert it.losses == []


FINAL: dict[str, Handler] = {
    **{str(s): answer(s) for s in (304, 400, 401, 403, 404, 409, 410, 413, 422, 451, 499)},
    "redirect": redirect("/x", 307),
    "moved": redirect("/x", 301),
    "garbage": raw(b"SSH-2.0-OpenSSH\r\n"),
    "garbage in TLS": raw(b"\x15\x03\x01\x00\x02\x02\x16"),
    "headers without end": raw(b"HTTP/1.1 200 OK\r\n" + b"X-A: 1\r\n" * 5000),
    "a header without end": raw(b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 200_000),
    "101": raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"),
}


@pytest.mark.skipif(FUTURE, reason="urllib3-future reads garbage its own way")
@pytest.mark.parametrize("name", FINAL)
def test_any_other_answer_is_final_and_the_next_goes_on(
    scripted: Scripted, make: Make, name: str
) -> None:
    server = scripted([FINAL[name], OK])
    it = make(server, retry=PATIENT)
    it.put("a1", "a2")
    assert not it.flush()
    assert bodies(server) == ["a1", "a2"]
    it.settled(delivered=1, rejected=1)
    assert it.counts.retries == 0
    it.close()
    (loss,) = it.losses
    assert (loss.reason, loss.item.body) == ("rejected", b"a1")
    assert isinstance(loss.error, (r.APIStatusError, r.ProtocolError))


@pytest.mark.skipif(FUTURE, reason="urllib3-future is not asked like that")
def test_a_kept_connection_that_was_closed_costs_no_retry(scripted: Scripted, make: Make) -> None:
    def then_close(connection: Connection) -> None:
        OK(connection)
        connection.close()

    def close_when_asked(connection: Connection) -> None:
        OK(connection)
        connection.read_request()
        connection.close()

    server = scripted([then_close, close_when_asked, OK])
    it = make(server, retry=PATIENT)
    it.put("a1")
    assert it.flush()
    server.wait_no_connections()
    it.put("a2")
    assert it.flush()
    it.put("a3")
    assert it.flush()
    it.settled(delivered=3)
    assert it.counts.retries == 0


def test_an_error_that_nobody_foresaw_is_internal_and_logged_with_its_traceback(
    scripted: Scripted, make: Make, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    server = scripted(OK)
    it = make(server)
    post, broken = it.publisher._poster.post, [True]

    def sometimes(*args: Any, **kwargs: Any) -> None:
        if broken.pop() if broken else False:
            raise ZeroDivisionError("nobody foresaw")
        post(*args, **kwargs)

    monkeypatch.setattr(it.publisher._poster, "post", sometimes)
    it.put("a1", "a2")
    assert not it.flush()
    it.settled(delivered=1, internal=1)
    it.close()
    (record,) = caplog.records
    assert "was lost (internal): nobody foresaw" in record.message
    assert record.exc_info[0] is ZeroDivisionError


def test_a_thread_that_something_ends_loses_its_event_only(
    scripted: Scripted, make: Make, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    server = scripted(OK, repeat_last=True)
    it = make(server)
    post, ends = it.publisher._poster.post, [SystemExit]

    def sometimes(*args: Any, **kwargs: Any) -> None:
        if ends:
            raise ends.pop()
        post(*args, **kwargs)

    monkeypatch.setattr(it.publisher._poster, "post", sometimes)
    it.put("a1")
    assert not it.flush()
    it.put("a2", "b1")
    assert it.flush()
    it.settled(delivered=2, internal=1)


# -- order, and side by side -------------------------------------------------------------------


def test_events_of_one_id_stay_in_order_whatever_fails(scripted: Scripted, make: Make) -> None:
    counter = itertools.count()

    def moody(connection: Connection) -> None:
        (OK, answer(503), OK, reset(), OK, answer(500), OK)[next(counter) % 7](connection)

    server = scripted(moody, repeat_last=True)
    it = make(server, workers=8, retry=r.RetryPolicy(initial_interval=0.001, max_interval=0.01))
    lanes = "abcdefghijkl"
    for number in range(15):
        it.put(*(f"{lane}{number}" for lane in lanes))
    assert it.flush(20.0)
    it.settled(delivered=15 * len(lanes))
    first_seen: dict[str, list[str]] = defaultdict(list)
    for body in bodies(server):
        if body not in first_seen[body[0]]:
            first_seen[body[0]].append(body)
    for lane in lanes:
        assert first_seen[lane] == [f"{lane}{number}" for number in range(15)]


@pytest.mark.parametrize("workers", [1, 3, 8])
def test_ids_go_side_by_side_over_so_many_connections(
    scripted: Scripted, make: Make, workers: int
) -> None:
    lock, now, most = threading.Lock(), set[str](), [0]

    def handle(connection: Connection) -> None:
        lane = connection.request.body.decode()[0]
        with lock:
            assert lane not in now
            now.add(lane)
            most[0] = max(most[0], len(now))
        if most[0] < workers:
            connection.pause(0.02)
        with lock:
            now.discard(lane)
        OK(connection)

    server = scripted(handle, repeat_last=True)
    it = make(server, workers=workers)
    for number in range(3):
        it.put(*(f"{lane}{number}" for lane in "abcdefghijkl"))
    assert it.flush(10.0)
    assert most[0] == workers
    assert server.accepted == workers
    it.settled(delivered=36)


def test_ids_need_no_flush_to_go_side_by_side(scripted: Scripted, make: Make) -> None:
    server = stalled(scripted)
    it = make(server, workers=8)
    assert it.publisher._do(lambda: it.put(*"abcdefgh"))  # all before a thread can take one
    server.wait_for_requests(8, timeout=2.0)
    server.open("go")
    assert it.flush()


@pytest.mark.parametrize("bad", ["refuses", "hangs", "fails"])
def test_a_bad_address_does_not_hold_up_another(
    scripted: Scripted, make: Make, nobody: str, bad: str
) -> None:
    handler = {"hangs": HANGS, "fails": answer(503)}.get(bad, OK)
    hanging = scripted(handler, repeat_last=True)
    good = scripted(OK, repeat_last=True)
    it = make(good, workers=1)
    bad_url = nobody if bad == "refuses" else hanging.url("/x")
    for number in range(10):
        it.put(f"a{number}", f"b{number}", url=bad_url)
        it.put(f"a{number}", f"b{number}")
    good.wait_for_requests(20, timeout=1.0)
    wait_until(lambda: it.counts.delivered == 20)


def test_many_that_hang_do_not_hold_up_another(scripted: Scripted, make: Make) -> None:
    hanging = scripted(HANGS, repeat_last=True)
    good = scripted(OK, repeat_last=True)
    it = make(good)
    for number in range(12):
        it.put("a1", url=hanging.url(f"/{number}"))
    it.put("a1")
    good.wait_for_requests(1, timeout=1.0)


@pytest.mark.parametrize("workers", [1, 8])
def test_in_an_outage_a_probe_at_a_time_is_sent(
    scripted: Scripted, make: Make, workers: int
) -> None:
    down = threading.Event()
    down.set()

    def handle(connection: Connection) -> None:
        (answer(503) if down.is_set() else OK)(connection)

    server = scripted(handle, repeat_last=True)
    retry = r.RetryPolicy(initial_interval=0.05, multiplier=1, randomization_factor=0)
    it = make(server, workers=workers, retry=retry)
    for number in range(5):
        it.put(*(f"{lane}{number}" for lane in "abcdefghij"))
    threading.Event().wait(0.6)
    in_outage = len(server.requests)
    assert 5 <= in_outage <= 13 + workers, in_outage  # 12 intervals, and not 10 in each
    down.clear()
    assert it.flush(5.0)
    it.settled(delivered=50)
    assert it.counts.retries == len(server.requests) - 50


def test_while_nobody_answers_a_destination_is_tried_once_in_an_interval(
    make: Make, nobody: str, caplog: Any
) -> None:
    retry = r.RetryPolicy(initial_interval=0.05, multiplier=1, randomization_factor=0)
    it = make(nobody, retry=retry)
    it.put(*(f"{lane}1" for lane in "abcdefghij"))
    threading.Event().wait(0.4)
    assert it.counts.retries + 10 - it.counts.queued <= 20
    host = nobody.removesuffix("/x")
    told = [record.message for record in caplog.records]
    assert told == [
        f"{nobody} fails, events are tried again: cannot connect to {host}: connection refused"
    ]


def test_a_failure_and_a_recovery_are_logged_once_each(
    scripted: Scripted, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "reasoning_sdk")
    server = scripted([answer(503)] * 3 + [OK] * 2 + [answer(503)] * 2 + [OK])
    it = make(server)
    it.put("a1", "a2")
    assert it.flush()
    it.put("a3")
    assert it.close(5.0)
    fails = f"{server.url('/x')} fails, events are tried again: 503 Service Unavailable"
    works = f"{server.url('/x')} works again"
    assert [(q.levelname, q.message) for q in caplog.records] == [
        ("WARNING", fails), ("INFO", works), ("WARNING", fails), ("INFO", works),
    ]  # fmt: skip


def test_what_could_not_connect_arrives_when_somebody_listens(make: Make) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # but listens not: it refuses
        it = make(f"http://127.0.0.1:{listener.getsockname()[1]}/x")
        it.put("a1", "a2", "b1")
        wait_until(lambda: it.counts.retries > 2)
        listener.listen()
        peer, _ = listener.accept()
        with peer:
            for _ in range(3):
                received = b""
                while not received.endswith((b"a1", b"a2", b"b1")):
                    received += peer.recv(65536)
                assert b"Idempotency-Key" in received
                peer.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
            assert it.flush()
        it.settled(delivered=3)


# -- when it gives up --------------------------------------------------------------------------


@pytest.mark.parametrize("attempts", [0, 1, 3])
def test_an_event_is_tried_again_so_many_times(
    scripted: Scripted, make: Make, attempts: int
) -> None:
    server = scripted([answer(500)] * (attempts + 1) + [OK])
    it = make(server, retry=r.RetryPolicy(initial_interval=0.001, max_attempts=attempts))
    it.put("a1", "a2")
    assert not it.flush()
    it.settled(delivered=1, budget_exhausted=1)
    assert bodies(server) == ["a1"] * (attempts + 1) + ["a2"]
    assert it.counts.retries == attempts
    it.close()
    assert [loss.reason for loss in it.losses] == ["budget_exhausted"]
    assert isinstance(it.losses[0].error, r.ServerError)


def test_an_event_is_tried_for_as_long_as_its_budget(scripted: Scripted, make: Make) -> None:
    server = scripted(answer(500), repeat_last=True)
    retry = r.RetryPolicy(
        initial_interval=0.05, multiplier=1, randomization_factor=0, max_elapsed_time=0.3
    )
    it = make(server, retry=retry)
    with Took() as took:
        it.put("a1")
        assert not it.flush()
    assert 0.2 <= took.seconds < 0.6
    assert 4 <= len(server.requests) <= 7
    it.settled(budget_exhausted=1)


def test_a_wait_that_would_pass_the_budget_is_not_begun(scripted: Scripted, make: Make) -> None:
    server = scripted([answer(503, headers={"Retry-After": "30"}), OK])
    it = make(server, retry=r.RetryPolicy(initial_interval=0.01, max_elapsed_time=20.0))
    with Took() as took:
        it.put("a1")
        assert not it.flush()
    assert took.seconds < 1.0
    it.settled(budget_exhausted=1)


@pytest.mark.parametrize(
    "headers", [{"retry-after-ms": "300"}, {"Retry-After": "0.3"}, {"Retry-After": "date"}]
)
def test_the_wait_that_the_server_asks_for_is_kept_by_all_ids(
    scripted: Scripted, make: Make, headers: dict[str, str]
) -> None:
    is_date = headers.get("Retry-After") == "date"
    if is_date:
        headers = {"Retry-After": formatdate(time.time() + 1.0, usegmt=True)}
    server = scripted([answer(429, headers=headers), OK, OK])
    it = make(server, retry=r.RetryPolicy(initial_interval=0.001))
    it.put("a1")
    server.wait_for_requests(1)
    wait_until(lambda: it.counts.queued == 1)
    with Took() as took:
        it.put("b1")
        server.wait_for_requests(2)
    assert (0.0 if is_date else 0.2) < took.seconds < 1.5  # dates have whole seconds
    assert it.flush()
    it.settled(delivered=2)


# -- bounds ------------------------------------------------------------------------------------


def stalled(scripted: Scripted) -> ScriptedServer:
    def handle(connection: Connection) -> None:
        connection.gate("go")
        OK(connection)

    return scripted(handle, repeat_last=True)


@pytest.mark.parametrize("bound", [{"max_queue": 5}, {"max_queue_bytes": 10}])
def test_what_is_too_much_is_refused(scripted: Scripted, make: Make, bound: dict[str, int]) -> None:
    server = stalled(scripted)
    it = make(server, **bound)
    assert it.put("a0")
    server.wait_for_requests(1)  # it does not wait any more
    assert it.put(*(f"a{n}" for n in range(1, 6)))
    assert [it.put(f"a{n}") for n in (6, 7)] == [False, False]
    assert it.counts.queued == 5
    assert it.counts.queued_bytes == 10
    assert it.counts.dropped == {"queue_full": 2}
    server.open("go")
    assert it.flush(), "what was refused was never accepted"
    assert bodies(server) == [f"a{n}" for n in range(6)]
    it.settled(delivered=6, queue_full=2)
    it.close()
    assert [loss.item.body for loss in it.losses] == [b"a6", b"a7"]


@pytest.mark.parametrize("bound", [{"max_queue": 5}, {"max_queue_bytes": 10}])
def test_or_the_oldest_makes_room(scripted: Scripted, make: Make, bound: dict[str, int]) -> None:
    server = stalled(scripted)
    it = make(server, drop_oldest=True, **bound)
    assert it.put("a0")
    server.wait_for_requests(1)
    assert it.put(*(f"a{n}" for n in range(1, 9)))
    assert (it.counts.queued, it.counts.queued_bytes) == (5, 10)
    assert it.counts.dropped == {"queue_full": 3}
    server.open("go")
    assert not it.flush()
    assert it.flush(), "that was told by the flush before"
    assert bodies(server) == ["a0", *(f"a{n}" for n in range(4, 9))]
    it.settled(delivered=6, queue_full=3)
    it.close()
    assert [loss.item.body for loss in it.losses] == [b"a1", b"a2", b"a3"]


@pytest.mark.parametrize("drop_oldest", [False, True])
def test_one_that_is_larger_than_everything_may_be_is_refused(
    scripted: Scripted, make: Make, drop_oldest: bool
) -> None:
    server = scripted(OK)
    it = make(server, max_queue_bytes=10, drop_oldest=drop_oldest)
    assert not it.put("x" * 11)
    assert it.put("x" * 10)
    assert it.flush()
    it.settled(delivered=1, queue_full=1)


def test_large_events_do_not_pile_up_before_the_oldest_make_room(
    scripted: Scripted, make: Make
) -> None:
    server = stalled(scripted)
    it = make(server, drop_oldest=True, max_queue_bytes=1_000_000)
    it.put("a0")
    server.wait_for_requests(1)
    for _ in range(300):
        it.put("b" * 100_000)
    wait_until(lambda: it.publisher._inbox_bytes <= 1_100_000, 1.0)
    assert it.publisher._outbox.queued_bytes <= 1_000_000


def test_what_is_counted_adds_up_at_every_moment(scripted: Scripted, make: Make) -> None:
    counter = itertools.count()
    moods = (
        OK, answer(503), OK, reset(), answer(400), hang_up(), OK, raw(b"nonsense\r\n"),
        answer(429, headers={"retry-after-ms": "1"}), redirect("/x"), OK,
    )  # fmt: skip

    def moody(connection: Connection) -> None:
        moods[next(counter) % len(moods)](connection)

    server = scripted(moody, repeat_last=True)
    retry = r.RetryPolicy(initial_interval=0.001, max_interval=0.005, max_attempts=2)
    it = make(server, workers=4, retry=retry, max_queue=60)
    done, sent, wrong = threading.Event(), [0] * 8, []

    def send(number: int) -> None:
        for event in range(100):
            it.put(f"{number}{event}")
            sent[number] += 1

    def watch() -> None:
        while not done.is_set():
            before = sum(sent)
            found = it.submitted()
            after = sum(sent) + len(sent)  # one of each may be in, and not yet counted by us
            if not before <= found <= after:
                wrong.append((before, found, after))

    watching = InThread(watch)
    senders = [InThread(lambda n=n: send(n)) for n in range(8)]  # type: ignore[misc]
    for sender in senders:
        assert sender.raises(20.0) is None
    it.flush(20.0)
    done.set()
    assert watching.raises() is None
    assert wrong == []
    assert it.submitted() == 800
    counts = it.counts
    assert counts.queued == counts.in_flight == counts.queued_bytes == 0
    it.close(5.0)
    assert Counter(loss.reason for loss in it.losses) == counts.dropped
    assert counts.delivered + len(it.losses) == 800


# -- flush -------------------------------------------------------------------------------------


def test_a_flush_does_not_wait_for_what_is_put_in_after_it(scripted: Scripted, make: Make) -> None:
    server = scripted(OK, repeat_last=True)
    it = make(server, max_queue=20)
    done = threading.Event()

    def go_on() -> None:
        while not done.is_set():
            it.put("a1")
            done.wait(0.0002)

    sending = InThread(go_on)
    wait_until(lambda: it.counts.delivered > 5)
    try:
        for _ in range(5):
            counts = it.counts
            assert it.flush(5.0)
            accepted = counts.delivered + counts.queued + counts.in_flight
            assert it.counts.delivered >= accepted
    finally:
        done.set()
        sending.wait(5.0)
    assert it.flush(20.0)


def test_a_flush_of_no_time_tells_how_it_is(scripted: Scripted, make: Make) -> None:
    server = stalled(scripted)
    it = make(server)
    assert it.flush(0)
    it.put("a1")
    with Took() as took:
        assert not it.flush(0)
        assert not it.flush(0.05)
    assert took.seconds < 0.5
    server.open("go")
    assert it.flush(None)
    assert it.flush(0)


def test_a_flush_from_many_threads_at_once_ends_when_all_is_delivered(
    scripted: Scripted, make: Make
) -> None:
    server = stalled(scripted)
    it = make(server)
    it.put("a1", "a2")
    flushing = [InThread(lambda: it.flush(5.0)) for _ in range(10)]
    wait_until(lambda: len(it.publisher._flushes) == 10)
    with Took() as took:
        server.open("go")
        assert [thread.ends(3.0) for thread in flushing] == [True] * 10
    assert took.seconds < 0.8  # each was woken, and did not merely look again


def test_all_that_flush_at_a_time_are_told_of_a_loss(scripted: Scripted, make: Make) -> None:
    def refuse(connection: Connection) -> None:
        connection.gate("go")
        answer(400)(connection)

    server = scripted([refuse, OK])
    it = make(server)
    it.put("a1")
    flushing = [InThread(lambda: it.flush(5.0)) for _ in range(5)]
    wait_until(lambda: len(it.publisher._flushes) == 5)
    server.open("go")
    assert [thread.ends(3.0) for thread in flushing] == [False] * 5
    it.put("a2")
    assert it.flush()


def test_a_loss_between_two_flushes_is_told_by_the_second_and_not_the_third(
    scripted: Scripted, make: Make
) -> None:
    server = scripted([answer(400), OK, OK])
    it = make(server)
    it.put("a1")
    wait_until(lambda: it.counts.dropped["rejected"] == 1)
    assert not it.flush()
    it.put("a2")
    assert it.flush()


def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """None but those of the server can be started."""
    start = threading.Thread.start

    def cannot(self: threading.Thread) -> None:
        if self.name.startswith("reasoning-sdk"):
            raise RuntimeError("can't create new thread at interpreter shutdown")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", cannot)


def test_a_flush_sends_by_itself_when_no_thread_can_be_started(
    scripted: Scripted, make: Make, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    caplog.set_level(logging.INFO, "reasoning_sdk")
    counter = itertools.count()

    def handle(connection: Connection) -> None:
        number = next(counter)
        (answer(503) if number in (0, 2) else answer(400) if number == 1 else OK)(connection)

    server = scripted(handle, repeat_last=True)
    it = make(server)
    no_threads(monkeypatch)
    assert it.put("a1", "b1", "a2", "b2")
    assert not it.flush(5.0)
    it.settled(delivered=3, rejected=1)
    it.put("a3")
    assert it.flush(5.0)
    it.close(1.0)
    assert [loss.reason for loss in it.losses] == ["rejected"]
    assert any("was lost (rejected)" in record.message for record in caplog.records)


def test_a_flush_by_itself_keeps_to_its_time(
    scripted: Scripted, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = scripted(HANGS)
    it = make(server, timeout=30.0)
    no_threads(monkeypatch)
    it.put("a1")
    with Took() as took:
        assert not it.flush(0.3)
    assert 0.25 < took.seconds < 1.5
    assert (it.counts.queued, it.counts.in_flight) == (1, 0)


def test_threads_come_back_when_they_can_be_started_again(
    scripted: Scripted, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = scripted([OK, OK])
    it = make(server)
    with monkeypatch.context() as patched:
        no_threads(patched)
        it.put("a1")
    assert it.counts.queued == 1
    it.put("b1")
    server.wait_for_requests(2)
    assert it.flush()


# -- close -------------------------------------------------------------------------------------


def our_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("reasoning-sdk")]


@pytest.mark.parametrize("workers", [1, 8])
def test_a_close_is_over_soon_though_the_server_hangs(
    scripted: Scripted, make: Make, workers: int
) -> None:
    server = scripted(HANGS, repeat_last=True)
    it = make(server, timeout=60.0, workers=workers)
    for number in range(3):
        it.put(*(f"{lane}{number}" for lane in "abcdefghij"))
    server.wait_for_requests(workers)
    with Took() as took:
        assert not it.close(0.2)
    assert 0.2 <= took.seconds < 1.0
    assert our_threads() == []
    server.wait_no_connections()
    it.settled(closed=30)
    assert len(it.losses) == 30


def test_a_close_flushes(scripted: Scripted, make: Make) -> None:
    server = scripted(OK, repeat_last=True)
    it = make(server, workers=4)
    it.put(*(f"{lane}{number}" for number in range(20) for lane in "abc"))
    assert it.close(5.0)
    it.settled(delivered=60)
    assert our_threads() == []
    server.wait_no_connections()
    with Took() as took:
        assert it.close(5.0)
        assert it.flush(5.0)
    assert took.seconds < 0.5


def test_many_threads_may_close_at_once(scripted: Scripted, make: Make) -> None:
    server = scripted(HANGS, repeat_last=True)
    it = make(server, timeout=60.0)
    it.put("a1", "a2", "b1")
    server.wait_for_requests(1)
    with Took() as took:
        closing = [InThread(lambda: it.close(0.1)) for _ in range(6)]
        assert [thread.ends(3.0) for thread in closing] == [False] * 6
    assert took.seconds < 1.5
    it.settled(closed=3)
    assert our_threads() == []


def test_a_close_ends_the_flush_of_another_thread(
    scripted: Scripted, make: Make, tmp_path: Path
) -> None:
    for spool in (None, Spool(tmp_path)):
        server = scripted(HANGS, repeat_last=True)
        it = make(server, timeout=60.0, spool=spool)
        it.put("a1", "a2", "b1")
        server.wait_for_requests(1)
        flushing = InThread(lambda it=it: it.flush(None))  # type: ignore[misc]
        wait_until(lambda it=it: len(it.publisher._flushes) == 1)  # type: ignore[misc]
        it.close(0)
        assert flushing.ends(0.9) is False
        with Took() as took:
            assert not it.close(5.0) or spool is None
        assert took.seconds < 1.0


def test_while_a_retry_is_waited_for_a_close_is_over_at_once(
    scripted: Scripted, make: Make
) -> None:
    server = scripted(answer(503))
    it = make(server, retry=PATIENT)
    it.put("a1")
    wait_until(lambda: it.counts.queued == 1 and len(server.requests) == 1)
    with Took() as took:
        assert not it.close(0)
    assert took.seconds < 0.5
    it.settled(closed=1)
    assert our_threads() == []


def test_what_comes_in_while_it_closes_is_counted(scripted: Scripted, make: Make) -> None:
    server = scripted(OK, repeat_last=True)
    it = make(server)
    done = threading.Event()
    sent = [0]

    def go_on() -> None:
        while not done.is_set():
            it.put(f"{sent[0] % 7}x")
            sent[0] += 1
            done.wait(0.0005)

    sending = InThread(go_on)
    wait_until(lambda: it.counts.delivered > 3)
    it.close(0.05)
    done.set()
    sending.wait()
    assert it.submitted() == sent[0]
    counts = it.counts
    assert counts.queued == counts.in_flight == 0
    delivered = counts.delivered
    assert len(server.requests) - delivered in (0, 1)
    wait_until(lambda: our_threads() == [])


def test_threads_with_nothing_to_do_end_and_the_next_event_begins_another(
    scripted: Scripted, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = scripted([OK, OK])
    it = make(server)
    clerk = it.publisher._clerk._thread
    for thread in [clerk, *(worker.thread for worker in it.publisher._workers)]:
        thread.linger = 0.01
    it.put("a1")
    assert it.flush()
    wait_until(lambda: our_threads() == [])
    it.put("a2")
    assert it.flush()
    assert server.accepted == 1


# -- in the middle of itself, and at the exit ---------------------------------------------------


def test_in_the_middle_of_itself_it_counts_and_flushes_not(
    scripted: Scripted, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """As a signal handler has it that interrupts it, or a finaliser."""
    server = scripted(OK, repeat_last=True)
    it = make(server)

    def inside() -> list[Any]:
        return [it.put("a1"), it.flush(5.0), it.counts.delivered, it.put("a2")]

    with Took() as took:
        assert it.publisher._do(inside) == [True, False, 0, True]
    assert took.seconds < 1.0
    assert caplog.messages == [
        "cannot flush: called by a signal handler that interrupted the same client"
    ]
    assert it.flush()
    it.settled(delivered=2)


def test_in_the_middle_of_itself_it_can_be_closed(scripted: Scripted, make: Make) -> None:
    server = scripted(HANGS, repeat_last=True)
    it = make(server, timeout=60.0, workers=4)
    it.put("a1", "a2", "b1", "c1", "d1")
    server.wait_for_requests(4)
    with Took() as took:  # the threads that end wait for what it is in the middle of
        assert it.publisher._do(lambda: it.close(5.0)) is False
    assert took.seconds < 2.5
    it.close()
    it.settled(closed=5)
    wait_until(lambda: our_threads() == [])


def test_at_the_exit_it_delivers_and_says_what_it_could_not(
    scripted: Scripted, make: Make, nobody: str, tmp_path: Path, caplog: Any
) -> None:
    delivering = make(scripted(OK, repeat_last=True))
    delivering.put("a1", "a2")
    delivering.publisher._exit_timeout = 5.0
    delivering.publisher._finish_at_exit(time.monotonic())
    delivering.settled(delivered=2)
    assert caplog.messages == []
    for spool, fate in ((None, "lost"), (Spool(tmp_path), "kept for the next process")):
        failing = make(nobody, retry=PATIENT, spool=spool)
        failing.put("a1", "a2")
        wait_until(lambda it=failing: it.counts.retries + it.counts.in_flight == 0)  # type: ignore[misc]
        failing.publisher._finish_at_exit(time.monotonic())
        assert caplog.messages[-1] == f"2 events were not delivered before the exit: {fate}"
        failing.close()
        told = len(caplog.messages)
        failing.publisher._finish_at_exit(time.monotonic())
        assert len(caplog.messages) == told
    finished = make(scripted(OK), spool=Spool(tmp_path / "other"))
    finished.put("a1")
    finished.publisher._exit_timeout = 5.0
    finished.publisher._finish_at_exit(time.monotonic())
    assert list((tmp_path / "other").iterdir()) == []


def test_without_on_loss_a_cause_that_was_logged_begins_no_thread(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = make("http://127.0.0.1:1/")
    it.publisher._on_loss = it.publisher._teller._on_loss = None
    it.publisher._teller._thread.linger = 0.01
    target = it.target("http://127.0.0.1:1/")

    def refuse() -> Item[Destined]:
        item = Item(b"x", "a", target)
        it.publisher.refuse(item, "invalid", r.ReasoningError("no"))
        return item

    assert refuse().body == b""
    wait_until(lambda: our_threads() == [] and bool(it.publisher._teller._causes))
    woken: list[bool] = []
    with monkeypatch.context() as patched:
        patched.setattr(it.publisher._teller._thread, "wake", lambda: woken.append(True))
        refuse()
    assert woken == []
    assert it.counts.dropped == {"invalid": 2}


# -- losses ------------------------------------------------------------------------------------


def test_losses_are_logged_once_for_each_cause(
    scripted: Scripted, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    # urllib3-future takes garbage for no answer, after which an event is tried again.
    garbage = [] if FUTURE else [raw(b"x\r\n")] * 2
    script = [answer(400)] * 3 + [answer(404)] * 2 + garbage + [answer(400)]
    it = make(server := scripted(script))
    it.put(*(f"a{number}" for number in range(len(script))))
    it.flush()
    it.close()
    assert len(it.losses) == len(script)
    told = [record.message for record in caplog.records]
    url = server.url("/x")
    assert told[:2] == [
        f"an event for {url} was lost (rejected): {problem}; others lost like this are counted"
        for problem in ("400 Bad Request", "404 Not Found")
    ]
    assert len(told) == (2 if FUTURE else 3)


def test_what_fails_in_on_loss_is_logged_and_changes_nothing(
    scripted: Scripted, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(loss: Loss[Destined]) -> None:
        raise ZeroDivisionError("in the callback")

    server = scripted([answer(400), answer(400), OK])
    it = make(server, on_loss=broken)
    it.put("a1", "a2", "a3")
    it.flush()
    it.close()
    it.settled(delivered=1, rejected=2)
    failed = [record for record in caplog.records if record.message == "on_error failed"]
    assert len(failed) == 2
    assert all(record.exc_info and record.exc_info[0] is ZeroDivisionError for record in failed)


def test_a_slow_on_loss_does_not_hold_up_delivery(scripted: Scripted, make: Make) -> None:
    go, told = threading.Event(), []

    def slow(loss: Loss[Destined]) -> None:
        go.wait(10.0)
        told.append(loss)

    server = scripted([answer(400)] * 5 + [OK] * 5)
    it = make(server, on_loss=slow)
    it.put(*(f"a{number}" for number in range(10)))
    with Took() as took:
        assert not it.flush()
    assert took.seconds < 1.0
    it.settled(delivered=5, rejected=5)
    go.set()
    it.close()
    assert len(told) == 5


def test_when_losses_come_faster_than_they_can_be_told_the_rest_is_counted(
    make: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reasoning_sdk._io.publisher._MOST_LOSSES", 10)
    go, told = threading.Event(), []

    def slow(loss: Loss[Destined]) -> None:
        go.wait(10.0)
        told.append(loss)

    it = make("http://127.0.0.1:1/", on_loss=slow)
    target = it.target("http://127.0.0.1:1/")
    for number in range(100):
        it.publisher.refuse(Item(b"x", "a", target), "invalid", r.ReasoningError(f"{number}"))
        if number == 0:
            wait_until(lambda: not it.publisher._teller._losses)
    go.set()
    it.close()
    assert len(told) == 11
    assert it.counts.dropped == {"invalid": 100}
    assert caplog.messages[-1] == "89 more events were lost, faster than that could be told"


def test_many_refusals_do_not_pile_up(make: Make) -> None:
    it = make("http://127.0.0.1:1/")
    target = it.target("http://127.0.0.1:1/")
    for _ in range(5000):
        it.publisher.refuse(Item(b"x", "a", target), "invalid", r.ReasoningError("no"))
    wait_until(lambda: len(it.publisher._refused) <= 1001)
    assert it.counts.dropped == {"invalid": 5000}


def test_only_so_many_causes_are_logged(
    make: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reasoning_sdk._io.publisher._MOST_CAUSES", 3)
    it = make("http://127.0.0.1:1/")
    target = it.target("http://127.0.0.1:1/")
    for number in range(10):
        it.publisher.refuse(Item(b"x", "a", target), f"r{number}", r.ReasoningError("no"))
    it.close()
    assert len(caplog.records) == 3


# -- what a review has found ---------------------------------------------------------------------


def test_an_event_that_the_counts_take_in_is_sent_all_the_same(
    scripted: Scripted, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the moment in which it is put down and the one in which its lane is looked at."""
    it = make(scripted(OK, repeat_last=True))
    wants = it.publisher._outbox.wants

    def asked_late(item: Any) -> bool:
        it.counts  # noqa: B018  # takes it in
        return wants(item)

    monkeypatch.setattr(it.publisher._outbox, "wants", asked_late)
    it.put("a1")
    wait_until(lambda: it.counts.delivered == 1)


def test_an_event_put_in_while_a_worker_takes_one_that_hangs_is_not_left_to_it(
    scripted: Scripted, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = scripted(OK, repeat_last=True)
    it = make(scripted(HANGS, repeat_last=True), timeout=30.0)
    next_at, put = it.publisher._outbox.next_at, []

    def and_put() -> float | None:
        if not put:  # by the worker, in the middle of its step, as a finaliser may
            put.append(True)
            it.put("b1", url=good.url("/x"))
        return next_at()

    monkeypatch.setattr(it.publisher._outbox, "next_at", and_put)
    it.put("a1")
    good.wait_for_requests(1)


def test_what_the_oldest_drops_for_is_bounded_while_every_thread_hangs(
    scripted: Scripted, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reasoning_sdk._io.publisher._MORE_WORKERS", 0)
    monkeypatch.setattr("reasoning_sdk._io.publisher._MOST_IN_INBOX", 10)
    server = scripted(HANGS, repeat_last=True)
    it = make(server, timeout=30.0, max_queue=5, drop_oldest=True)
    it.put("a0")
    server.wait_for_requests(1)
    for number in range(2000):
        it.put(f"a{number}")
        assert len(it.publisher._inbox) <= 1005 + 10
    assert it.counts.queued <= 5


def test_one_thread_at_a_time_sees_to_what_was_lost_in_its_order(
    make: Make, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = make(nobody).publisher
    begun, go_on = threading.Event(), threading.Event()
    seen: list[Any] = []

    def lose(loss: Any) -> None:
        begun.set()
        go_on.wait(5.0)
        seen.append(loss)

    monkeypatch.setattr(publisher, "_lose", lose)
    publisher._outbox.losses.append("first")
    slow = InThread(publisher._see_to_losses)
    assert begun.wait(5.0)
    publisher._outbox.losses.append("second")
    publisher._see_to_losses()  # leaves it to the thread that is at it
    assert seen == []
    go_on.set()
    assert slow.raises() is None
    assert seen == ["first", "second"]


@pytest.mark.parametrize("message", ["\\ud800", "x" * 10])
def test_no_text_of_a_server_ends_the_thread_that_buries_what_it_refused(
    scripted: Scripted, make: Make, tmp_path: Path, message: str
) -> None:
    refusal = answer(400, body=b'{"error": {"message": "%s"}}' % message.encode())
    it = make(scripted([refusal] * 40 + [OK] * 10), spool=Spool(tmp_path))
    for number in range(50):
        it.put(f"a{number}")
    assert it.flush(10.0) is False
    it.settled(delivered=10, rejected=40)
    assert len((tmp_path / "dead-letter.jsonl").read_text().splitlines()) == 40


@pytest.mark.parametrize("body", [b'{"id":"\\ud800"}', b"\xff"], ids=["lone surrogate", "no UTF-8"])
def test_no_body_ends_the_thread_that_buries_it(
    scripted: Scripted, make: Make, tmp_path: Path, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Such are not ours: somebody has written them into the spool."""
    server = scripted([answer(400), OK])
    it = make(server, spool=Spool(tmp_path))
    it.publisher.put(Item(body, "a", it.target(server.url("/x"))))
    it.put("a2")
    assert it.flush() is False
    it.settled(delivered=1, rejected=1)
    assert "the publisher has failed" not in caplog.text
    assert [loss.item.body for loss in it.losses] == [body]


def test_while_a_thread_looks_through_the_spool_another_sends(
    scripted: Scripted, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, go = threading.Event(), threading.Event()

    def orphans() -> Iterator[Any]:
        looking.set()
        go.wait(10.0)
        return iter(())

    spool = Spool(tmp_path)
    monkeypatch.setattr(spool, "orphans", orphans)
    server = scripted(OK, repeat_last=True)
    it = make(server, spool=spool)
    it.put("a1")
    assert looking.wait(5.0)
    it.put("b1")
    try:
        server.wait_for_requests(2, timeout=2.0)
    finally:
        go.set()


def test_in_the_middle_of_its_counts_it_flushes_not_and_can_be_closed(
    make: Make, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a signal handler has it: no other thread gets the lock before it returns."""
    it = make(nobody, retry=PATIENT)
    it.put("a1")
    wait_until(lambda: nobody in it.publisher._failing)
    count, done = it.publisher._count, []

    def interrupted() -> ViewerStats:
        if not done:
            done.append(None)
            done[:] = [it.flush(5.0), it.close(5.0)]
        return count()

    monkeypatch.setattr(it.publisher, "_count", interrupted)
    with Took() as took:
        assert it.counts.queued == 1
    assert done == [False, False]
    assert took.seconds < 2.5
    it.close()
    it.settled(closed=1)


@pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_ends_the_thread_that_does_something_leaves_nobody_waiting(
    make: Make, end: type[BaseException]
) -> None:
    clerk = make("http://127.0.0.1:1/").publisher._clerk

    def ends() -> None:
        raise end

    error = InThread(lambda: clerk.do(ends)).raises(5.0)
    assert isinstance(error, r.StateError)
    assert str(error) == "the thread that did it was ended"
    assert InThread(lambda: clerk.do(lambda: 7)).ends(5.0) == 7


def test_an_on_loss_that_exits_is_called_again_and_ends_nothing(make: Make, nobody: str) -> None:
    told: list[str] = []

    def exits(loss: Any) -> None:
        told.append(loss.reason)
        raise SystemExit(7)

    it = make(nobody, retry=ONCE, on_loss=exits)
    for number in range(3):
        it.put(f"{number}")
    assert it.flush(5.0) is False
    assert it.close() is not None
    assert told == ["budget_exhausted"] * 3
