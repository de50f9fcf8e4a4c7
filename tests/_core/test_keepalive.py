from math import inf

from reasoning_sdk._core.keepalive import Keepalive


def keepalive(interval=20.0, timeout=5.0, idle_timeout=None, now=100.0) -> Keepalive:
    return Keepalive(
        ping_interval=interval, ping_timeout=timeout, idle_timeout=idle_timeout, now=now
    )


def test_a_ping_is_due_after_the_interval_and_no_other_while_it_is_open():
    alive = keepalive()
    assert alive.next_at() == 120.0
    assert alive.ping(119.9) is None
    payload = alive.ping(120.0)
    assert payload is not None
    assert alive.ping(150.0) is None


def test_the_next_ping_is_due_an_interval_after_the_last():
    alive = keepalive()
    alive.pong(alive.ping(120.0), 121.0)
    assert alive.next_at() == 140.0
    assert alive.ping(139.0) is None
    assert alive.ping(140.0) is not None


def test_each_ping_says_something_else():
    alive = keepalive()
    first = alive.ping(120.0)
    alive.pong(first, 120.1)
    assert alive.ping(140.0) != first


def test_the_latency_is_that_of_the_last_ping():
    alive = keepalive()
    assert alive.latency is None
    alive.pong(alive.ping(120.0), 120.25)
    assert alive.latency == 0.25


def test_a_pong_that_nobody_asked_for_changes_nothing():
    alive = keepalive()
    alive.pong(b"1", 101.0)
    alive.ping(120.0)
    alive.pong(b"0", 121.0)
    alive.pong(b"", 121.0)
    assert alive.latency is None
    assert alive.is_dead(125.0)


def test_silence_after_a_ping_means_that_the_peer_is_dead():
    alive = keepalive()
    assert not alive.is_dead(1e9)
    alive.ping(120.0)
    assert alive.next_at() == 125.0
    assert not alive.is_dead(124.9)
    assert alive.is_dead(125.0)


def test_bytes_of_any_kind_show_that_it_lives():
    alive = keepalive()
    alive.ping(120.0)
    alive.heard(124.0)
    assert not alive.is_dead(128.9)
    assert alive.is_dead(129.0)


def test_a_pong_ends_the_wait_for_it():
    alive = keepalive()
    alive.pong(alive.ping(120.0), 121.0)
    assert not alive.is_dead(139.0)


def test_without_a_timeout_no_silence_is_too_long():
    alive = keepalive(timeout=None)
    alive.ping(120.0)
    assert not alive.is_dead(1e9)
    assert alive.next_at() == inf


def test_without_an_interval_there_is_no_ping():
    alive = keepalive(interval=None)
    assert alive.ping(1e9) is None
    assert alive.next_at() == inf


def test_idleness_is_measured_on_messages():
    alive = keepalive(interval=None, idle_timeout=10.0)
    alive.heard(105.0)
    assert alive.next_at() == 110.0
    assert not alive.is_idle(109.9)
    assert alive.is_idle(110.0)
    alive.message(108.0)
    assert alive.next_at() == 118.0
    assert not alive.is_idle(117.9)


def test_without_a_limit_it_is_never_idle():
    assert not keepalive().is_idle(1e9)


def test_after_a_pause_everything_is_counted_from_its_end():
    alive = keepalive(idle_timeout=10.0)
    alive.ping(120.0)
    alive.resume(500.0)
    assert not alive.is_dead(505.0)
    assert not alive.is_idle(509.9)
    assert alive.is_idle(510.0)
    assert alive.ping(519.0) is None
    assert alive.ping(520.0) is not None
