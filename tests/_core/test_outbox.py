"""Events on their way out: order, retries, the gate, bounds, marks, and that none is forgotten."""

import gc
import heapq
import itertools
import random
import tracemalloc
import weakref
from collections import Counter, deque
from collections.abc import Hashable
from typing import Any

import attrs
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from reasoning_sdk._core.outbox import Item, Mark, Outbox
from reasoning_sdk.errors import ReasoningError
from reasoning_sdk.retry import RetryPolicy

POLICY = RetryPolicy(initial_interval=1.0, max_interval=4.0, randomization_factor=0.0)
ERROR = OSError("no answer")


@attrs.frozen
class Target:
    destination: Hashable


def outbox(**options: Any) -> Outbox[Target]:
    return Outbox(
        **{
            "max_queue": None,
            "max_queue_bytes": None,
            "drop_oldest": False,
            "workers": 1,
            "retry": POLICY,
            **options,
        }
    )


def event(name: str, to: Hashable = "d", *, keeper: Any = None) -> Item[Target]:
    """The event "a1" is of the lane "a"."""
    return Item(name.encode(), name[0], Target(to), keeper)


def put(box: Outbox[Target], *names: str, to: Hashable = "d", keeper: Any = None) -> None:
    for name in names:
        assert box.put(event(name, to, keeper=keeper))


def name_of(item: Item[Target] | None) -> str | None:
    return item and item.body.decode()


def take_all(box: Outbox[Target], now: float) -> dict[str, Item[Target]]:
    taken = iter(lambda: box.take(now), None)
    return {item.body.decode(): item for item in taken if item is not None}


def take(box: Outbox[Target], now: float) -> Item[Target]:
    item = box.take(now)
    assert item is not None
    return item


def deliver_all(box: Outbox[Target], now: float) -> list[str]:
    """Deliver whatever comes, one at a time, the time going on to where it has to."""
    delivered = []
    while True:
        while (item := box.take(now)) is not None:
            delivered.append(item.body.decode())
            box.deliver(item)
        at = box.next_at()
        if at is None:
            return delivered
        assert at > now  # or this goes on for ever
        now = at


def reasons(box: Outbox[Target]) -> dict[str, str]:
    return {loss.item.body.decode(): loss.reason for loss in box.losses}


def assert_adds_up(box: Outbox[Target]) -> None:
    assert box.submitted == (box.delivered + sum(box.dropped.values()) + box.queued + box.in_flight)
    assert min(box.queued, box.queued_bytes, box.in_flight, box.lost, box.retries) >= 0


def assert_nothing_left(box: Outbox[Target]) -> None:
    """But timers, until their time."""
    assert_adds_up(box)
    assert (box.queued, box.queued_bytes, box.in_flight) == (0, 0, 0)
    assert not box._destinations
    assert not box._flying
    assert not box._marks
    assert not box._runnable
    assert not box.can_give
    assert box.take(1e9) is None
    assert box.next_at() is None
    assert not box._timers


# -- order -------------------------------------------------------------------------------------


def test_an_empty_outbox_gives_nothing_and_needs_no_second_look():
    box = outbox()
    assert (box.take(0.0), box.next_at(), box.can_give) == (None, None, False)
    assert_nothing_left(box)


def test_events_of_a_lane_go_one_after_the_other_in_their_order():
    box = outbox(workers=8)
    put(box, "a1", "a2", "a3")
    for name in ("a1", "a2", "a3"):
        assert box.can_give
        item = take(box, 0.0)
        assert name_of(item) == name
        assert not box.can_give
        assert box.take(0.0) is None
        box.deliver(item)
    assert_nothing_left(box)


def test_an_event_put_in_behind_one_in_flight_waits_for_it():
    box = outbox(workers=8)
    put(box, "a1")
    first = take(box, 0.0)
    put(box, "a2")
    assert box.take(0.0) is None
    box.deliver(first)
    assert deliver_all(box, 0.0) == ["a2"]


def test_lanes_go_side_by_side_up_to_the_number_of_workers():
    box = outbox(workers=2)
    put(box, "a1", "a2", "b1", "c1")
    flying = take_all(box, 0.0)
    assert list(flying) == ["a1", "b1"]
    box.deliver(flying["b1"])
    assert list(take_all(box, 0.0)) == ["c1"]
    box.deliver(flying["a1"])
    assert list(take_all(box, 0.0)) == ["a2"]


def test_the_oldest_of_what_can_be_sent_goes_first():
    box = outbox()
    put(box, "a1", "b1", "a2", "c1", "b2")
    assert deliver_all(box, 0.0) == ["a1", "b1", "a2", "c1", "b2"]


def test_the_same_id_at_two_destinations_is_two_lanes():
    box = outbox()
    put(box, "a1", to="d")
    put(box, "a2", to="e")
    assert list(take_all(box, 0.0)) == ["a1", "a2"]


def test_destinations_take_turns():
    box = outbox(workers=3)
    put(box, "a1", "b1", "c1", to="d")
    put(box, "d1", "e1", "f1", to="e")
    put(box, "g1", to="f")
    assert list(take_all(box, 0.0)) == ["a1", "d1", "g1", "b1", "e1", "c1", "f1"]


def test_a_busy_destination_is_not_in_the_way_of_another():
    box = outbox()
    put(box, "a1", "b1", to="d")
    take(box, 0.0)
    put(box, "c1", to="e")
    assert list(take_all(box, 0.0)) == ["c1"]


def test_an_event_given_up_makes_way_for_the_next_of_its_lane():
    box = outbox()
    put(box, "a1", "a2")
    item = take(box, 0.0)
    box.give_up(item, "rejected", ERROR)
    [loss] = box.losses
    assert (loss.item, loss.reason, loss.error) == (item, "rejected", ERROR)
    assert (box.dropped, box.lost, box.delivered) == ({"rejected": 1}, 1, 0)
    assert deliver_all(box, 0.0) == ["a2"]
    assert_nothing_left(box)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("seed", range(20))
def test_lanes_keep_their_order_whatever_fails_or_is_evicted(seed, workers):
    chance = random.Random(seed)
    box = outbox(max_queue=30, drop_oldest=True, workers=workers)
    arrived: list[tuple[str, int]] = []
    flying: list[Item[Target]] = []
    now, number = 0.0, 0
    while number < 500 or box.queued or flying:
        if number < 500:
            number += 1
            put(box, f"{chance.choice('abcdefg')}{number}", to=chance.choice("de"))
        while chance.random() < 0.8 and (item := box.take(now)) is not None:
            flying.append(item)
            lanes = Counter((item.target.destination, item.lane) for item in flying)
            assert max(lanes.values()) == 1
            destinations = Counter(item.target.destination for item in flying)
            assert max(destinations.values()) <= workers
        while flying and chance.random() < 0.5:
            item = flying.pop(chance.randrange(len(flying)))
            if chance.random() < 0.3:
                box.fail(item, now, ERROR, everywhere=chance.random() < 0.2)
            else:
                box.deliver(item)
                arrived.append((f"{item.target.destination}{item.lane}", item.number))
        assert_adds_up(box)
        now += chance.random()
    for lane in {lane for lane, _ in arrived}:
        numbers = [number for its, number in arrived if its == lane]
        assert numbers == sorted(numbers)
    assert box.delivered + box.lost == 500
    assert_nothing_left(box)


# -- retries -----------------------------------------------------------------------------------


def test_a_failed_event_waits_longer_each_time_up_to_the_longest_delay():
    box = outbox()
    put(box, "a1")
    now = 0.0
    for delay in (1.0, 2.0, 4.0, 4.0):
        item = take(box, now)
        box.fail(item, now, ERROR)
        assert box.next_at() == now + delay
        assert box.take(now + delay - 0.001) is None
        now += delay
    assert box.retries == 3
    assert deliver_all(box, now) == ["a1"]
    assert box.retries == 4
    assert_nothing_left(box)


def test_a_failed_event_holds_its_lane_and_no_other():
    box = outbox()
    put(box, "a1", "a2", "b1", "b2")
    box.fail(take(box, 0.0), 0.0, ERROR)
    assert (box.queued, box.queued_bytes, box.in_flight) == (4, 8, 0)
    assert deliver_all(box, 0.5) == ["b1", "b2", "a1", "a2"]
    assert_nothing_left(box)


def test_the_budget_starts_when_an_event_is_first_taken():
    box = outbox(retry=attrs.evolve(POLICY, max_elapsed_time=3.0))
    put(box, "a1")
    box.fail(take(box, 100.0), 100.0, ERROR)
    box.fail(take(box, 101.0), 101.0, ERROR)
    assert box.next_at() == 103.0
    assert not box.losses


def test_a_delay_that_would_pass_the_budget_ends_the_retries():
    box = outbox(retry=attrs.evolve(POLICY, max_elapsed_time=3.0))
    put(box, "a1", "a2")
    box.fail(take(box, 0.0), 0.0, ERROR)
    box.fail(take(box, 1.5), 1.5, ERROR)
    assert reasons(box) == {"a1": "budget_exhausted"}
    assert box.losses[0].error is ERROR
    assert box.dropped == {"budget_exhausted": 1}
    assert deliver_all(box, 1.5) == ["a2"]
    assert_nothing_left(box)


def test_a_retry_after_beyond_the_budget_ends_the_retries():
    box = outbox(retry=attrs.evolve(POLICY, max_elapsed_time=3.0))
    put(box, "a1")
    box.fail(take(box, 0.0), 0.0, ERROR, retry_after=4.0)
    assert reasons(box) == {"a1": "budget_exhausted"}
    assert_nothing_left(box)


def test_an_event_is_tried_again_as_often_as_the_policy_says():
    box = outbox(retry=attrs.evolve(POLICY, max_attempts=2))
    put(box, "a1")
    for now in (0.0, 1.0, 3.0):
        assert not box.losses
        box.fail(take(box, now), now, ERROR)
    assert reasons(box) == {"a1": "budget_exhausted"}
    assert box.retries == 2
    assert_nothing_left(box)


# -- the gate ----------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [{"everywhere": True}, {"retry_after": 1.0}])
def test_a_failure_of_the_destination_shuts_the_gate_at_once(failure):
    box = outbox(workers=2)
    put(box, "a1", "b1", to="d")
    put(box, "c1", to="e")
    box.fail(take(box, 0.0), 0.0, ERROR, **failure)
    assert list(take_all(box, 0.5)) == ["c1"]
    assert box.next_at() == 1.0
    assert len(take_all(box, 1.0)) == 1


def test_a_destination_is_left_alone_for_as_long_as_it_asks():
    box = outbox(retry=attrs.evolve(POLICY, max_retry_after=60.0))
    put(box, "a1", "b1")
    box.fail(take(box, 0.0), 0.0, ERROR, retry_after=50.0)
    assert (box.take(49.9), box.next_at()) == (None, 50.0)
    box.fail(take(box, 50.0), 50.0, ERROR, retry_after=5000.0)
    assert (box.take(109.9), box.next_at()) == (None, 110.0)
    assert sorted(deliver_all(box, 110.0)) == ["a1", "b1"]


def test_failures_in_two_lanes_shut_the_gate():
    box = outbox()
    put(box, "a1", "b1", "c1")
    box.fail(take(box, 0.0), 0.0, ERROR)
    box.fail(take(box, 0.0), 0.0, ERROR)
    assert box.take(0.9) is None
    assert len(take_all(box, 1.0)) == 1


def test_failures_in_two_lanes_with_a_success_between_them_do_not_shut_the_gate():
    box = outbox()
    put(box, "a1", "b1", "c1", "d1")
    box.fail(take(box, 0.0), 0.0, ERROR)
    box.deliver(take(box, 0.0))
    box.fail(take(box, 0.0), 0.0, ERROR)
    assert list(take_all(box, 0.0)) == ["d1"]


def test_what_was_rejected_counts_as_a_success_of_the_destination():
    box = outbox()
    put(box, "a1", "b1", "c1", "d1")
    box.fail(take(box, 0.0), 0.0, ERROR)
    box.give_up(take(box, 0.0), "rejected", ERROR)
    box.fail(take(box, 0.0), 0.0, ERROR)
    assert list(take_all(box, 0.0)) == ["d1"]


def test_what_was_given_up_for_another_reason_says_nothing_of_the_destination():
    box = outbox()
    put(box, "a1", "b1", "c1", "d1")
    box.fail(take(box, 0.0), 0.0, ERROR)
    box.give_up(take(box, 0.0), "unreadable", None)
    box.fail(take(box, 0.0), 0.0, ERROR)
    assert box.take(0.0) is None


def test_one_lane_that_fails_again_and_again_does_not_shut_the_gate():
    box = outbox(retry=attrs.evolve(POLICY, max_attempts=3))
    put(box, "a1", "a2", *(f"b{number}" for number in range(40)))
    now = 0.0
    while box.queued:
        item = take(box, now)
        if item.lane == "a":
            box.fail(item, now, ERROR)
            assert box.can_give == (box.delivered < 40)
        else:
            box.deliver(item)
            now += 1.0
    assert reasons(box) == {"a1": "budget_exhausted", "a2": "budget_exhausted"}
    assert_nothing_left(box)


def shut(*lanes: str, workers: int = 8, **options: Any) -> Outbox[Target]:
    """Shut by the first of these lanes at 0, until 1; each lane has two events."""
    box = outbox(workers=workers, **options)
    put(box, *(f"{lane}1" for lane in lanes))
    item = take(box, 0.0)
    put(box, *(f"{lane}2" for lane in lanes))
    box.fail(item, 0.0, ERROR, everywhere=True)
    assert box.take(0.999) is None
    return box


def test_when_its_time_has_come_the_gate_lets_a_single_probe_through():
    box = shut(*"abc")
    assert len(take_all(box, 1.0)) == 1
    put(box, "d1")
    assert not take_all(box, 5.0)
    assert box.next_at() is None


def test_nothing_put_in_is_taken_while_the_gate_is_shut():
    box = shut("a")
    put(box, "z1")
    assert not box.can_give
    assert not take_all(box, 0.999)


def test_a_probe_that_fails_shuts_the_gate_for_longer():
    box = shut(*"abcdef", workers=1)
    now = 1.0
    for delay in (2.0, 4.0, 4.0):
        box.fail(take(box, now), now, ERROR)
        assert box.take(now + delay - 0.001) is None
        now += delay
    assert take(box, now)


def test_a_probe_that_arrives_opens_the_gate_for_all():
    box = shut(*"abc")
    box.deliver(take(box, 1.0))
    assert sorted(take_all(box, 1.0)) == ["a1", "b2", "c1"]


def test_a_probe_that_is_rejected_opens_the_gate_for_all():
    box = shut(*"abc")
    box.give_up(take(box, 1.0), "rejected", ERROR)
    assert sorted(take_all(box, 1.0)) == ["a1", "b2", "c1"]


def test_a_probe_that_is_given_up_otherwise_is_followed_by_another_probe():
    box = shut(*"abc")
    box.give_up(take(box, 1.0), "unreadable", None)
    assert len(take_all(box, 1.0)) == 1


def test_a_probe_whose_budget_is_used_up_shuts_the_gate_for_those_behind_it():
    box = shut("a", retry=attrs.evolve(POLICY, max_attempts=1))
    box.fail(take(box, 1.0), 1.0, ERROR)
    assert reasons(box) == {"a1": "budget_exhausted"}
    assert box.take(2.9) is None
    assert name_of(box.take(3.0)) == "a2"


def test_a_gate_that_was_open_in_between_is_shut_for_the_first_delay_again():
    box = shut(*"abc", workers=1)
    box.fail(take(box, 1.0), 1.0, ERROR)  # for 2 seconds
    box.deliver(take(box, 3.0))
    box.fail(take(box, 3.0), 3.0, ERROR, everywhere=True)
    assert box.take(3.999) is None
    assert take(box, 4.0)


def test_a_success_of_what_was_in_flight_opens_a_shut_gate():
    box = outbox(workers=2)
    put(box, "a1", "b1", "c1")
    flying = take_all(box, 0.0)
    box.fail(flying["a1"], 0.0, ERROR, everywhere=True)
    assert not box.can_give
    box.deliver(flying["b1"])
    assert name_of(box.take(0.0)) == "c1"


def test_a_failure_of_what_was_in_flight_shuts_a_gate_no_longer_than_it_is():
    box = outbox(workers=3)
    put(box, "a1", "b1", "c1", "d1", "e1")
    flying = take_all(box, 0.0)
    box.fail(flying["a1"], 0.0, ERROR, everywhere=True)
    box.fail(flying["b1"], 0.5, ERROR, everywhere=True)
    probe = take(box, 1.0)
    box.fail(flying["c1"], 1.0, ERROR, everywhere=True)
    assert box.take(1.0) is None
    box.deliver(probe)
    assert box.can_give


def test_an_event_that_is_put_back_is_the_next_to_be_given_and_spends_nothing():
    box = outbox(retry=RetryPolicy(max_attempts=0))
    put(box, "a1", "a2", "b1")
    box.put_back(take(box, 0.0))
    assert_adds_up(box)
    assert (box.queued, box.queued_bytes, box.in_flight, box.losses) == (3, 6, 0, deque())
    assert deliver_all(box, 0.0) == ["a1", "a2", "b1"]
    assert_nothing_left(box)


def test_a_probe_that_is_put_back_leaves_its_place_to_another():
    box = outbox(workers=2)
    put(box, "a1", "b1")
    box.fail(take(box, 0.0), 0.0, ERROR, everywhere=True)
    probe = take(box, 1.0)
    assert box.take(1.0) is None
    box.put_back(probe)
    assert take(box, 1.0)
    assert box.take(1.0) is None


def test_a_longer_wait_asked_for_by_what_was_in_flight_keeps_the_gate_shut_until_then():
    box = outbox(workers=3)
    put(box, "a1", "b1", "c1", "d1")
    flying = take_all(box, 0.0)
    box.fail(flying["a1"], 0.0, ERROR, retry_after=5.0)
    box.fail(flying["b1"], 0.0, ERROR, retry_after=9.0)
    box.fail(flying["c1"], 0.0, ERROR, retry_after=2.0)
    assert box.take(8.999) is None
    assert take(box, 9.0)


def test_a_probe_overtaken_by_a_success_is_an_event_like_any_other():
    box = outbox(workers=2)
    put(box, "a1", "b1", "c1", "d1", "e1")
    flying = take_all(box, 0.0)
    box.fail(flying["a1"], 0.0, ERROR, everywhere=True)
    probe = take(box, 1.0)
    box.deliver(flying["b1"])
    box.fail(probe, 1.0, ERROR)
    assert len(take_all(box, 1.0)) == 2


def test_never_more_than_the_workers_are_in_flight_also_with_a_probe():
    box = outbox(workers=2)
    put(box, "a1", "b1", "c1", "d1")
    flying = take_all(box, 0.0)
    box.fail(flying["a1"], 0.0, ERROR, everywhere=True)
    take(box, 1.0)
    assert box.in_flight == 2
    assert not take_all(box, 100.0)


@pytest.mark.parametrize("retry_after", [None, 2.0])
def test_an_event_that_always_fails_does_not_keep_the_gate_shut_for_the_rest(retry_after):
    box = outbox()
    put(box, "a1", "b1", "c1", "d1")
    now, delivered = 0.0, []
    while len(delivered) < 3:
        if (item := box.take(now)) is None:
            now = box.next_at()
        elif item.lane == "a":
            box.fail(item, now, ERROR, everywhere=True, retry_after=retry_after)
        else:
            box.deliver(item)
            delivered.append(item.lane)
    assert sorted(delivered) == ["b", "c", "d"]
    assert now <= 6.0  # it shuts the gate again and again, but never twice in a row


def test_probes_are_of_one_lane_after_the_other():
    box = shut(*"abcd", workers=1)
    now, lanes = 1.0, []
    for _ in range(6):
        item = take(box, now)
        lanes.append(item.lane)
        box.fail(item, now, ERROR)
        now += 4.0
    assert lanes == ["b", "c", "d", "a", "b", "c"]


def test_what_was_passed_over_by_a_probe_keeps_its_place():
    box = shut(*"abcdefgh", workers=1)
    box.fail(take(box, 1.0), 1.0, ERROR)
    box.fail(take(box, 3.0), 3.0, ERROR)
    item = take(box, 7.0)
    assert item.lane == "d"
    box.deliver(item)
    assert deliver_all(box, 7.0) == [
        "a1", "b1", "c1", "e1", "f1", "g1", "h1", *(f"{lane}2" for lane in "abcdefgh")
    ]  # fmt: skip


@pytest.mark.parametrize("probes", range(1, 8))
def test_after_probes_the_rest_goes_in_its_order(probes):
    box = outbox()
    for number in range(60):
        box.put(Item(b"", f"lane {number}", Target("d")))
    for _ in range(20):  # leaves a heap that is not sorted
        box.deliver(take(box, 0.0))
    box.fail(take(box, 0.0), 0.0, ERROR, everywhere=True)
    now = 1.0
    for _ in range(probes):
        item = take(box, now)
        box.fail(item, now, ERROR)
        now += 4.0
    box.deliver(take(box, now))
    numbers = []
    while (item := box.take(now)) is not None:
        numbers.append(item.number)
        box.deliver(item)
    assert numbers == sorted(numbers)


def test_the_gate_has_no_budget():
    policy = attrs.evolve(POLICY, max_attempts=1, max_elapsed_time=2.0)
    box = shut(*"abcdef", workers=1, retry=policy)
    now = 1.0
    while box.queued:
        box.fail(take(box, now), now, ERROR)
        now += 4.0
    assert box.dropped == {"budget_exhausted": 12}
    assert_nothing_left(box)


def test_two_events_that_always_fail_do_not_keep_the_gate_shut_for_the_rest():
    box = shut(*"abcd", workers=1)
    now = 1.0
    while (item := box.take(now)) is None or item.lane in "ab":
        if item is not None:
            box.fail(item, now, ERROR)
        else:
            now = box.next_at()
    assert now <= 3.0


def test_the_gate_of_one_destination_is_no_matter_to_another():
    box = outbox()
    put(box, "a1", "b1", "c1", to="d")
    put(box, "f1", "g1", "h1", to="e")
    flying = take_all(box, 0.0)
    box.fail(flying["a1"], 0.0, ERROR, everywhere=True)
    box.fail(flying["f1"], 0.0, ERROR)
    box.deliver(take(box, 0.0))
    assert list(take_all(box, 0.0)) == ["h1"]


def go_through_an_outage(
    box: Outbox[Target], seconds: float, *, latency: float, **failure: Any
) -> tuple[int, list[str]]:
    """Whatever is sent within the first seconds fails: how much that was, and what arrived."""
    now, takes, arrived = 0.0, 0, []
    flying: list[tuple[float, int, Item[Target], bool]] = []
    numbers = itertools.count()
    while True:
        while (item := box.take(now)) is not None:
            takes += now < seconds
            entry = (now + latency, next(numbers), item, now < seconds)
            heapq.heappush(flying, entry)
        times = [flying[0][0]] if flying else []
        if (at := box.next_at()) is not None:
            times.append(at)
        if not times:
            return takes, arrived
        now = max(min(times), now)
        if flying and flying[0][0] <= now:  # one at a time: the worst for the gate
            _, _, item, fails = heapq.heappop(flying)
            if fails:
                box.fail(item, now, ERROR, **failure)
            else:
                box.deliver(item)
                arrived.append(item.body.decode())


@pytest.mark.parametrize("factor", [0.0, 0.5])
@pytest.mark.parametrize("workers", [1, 8])
@pytest.mark.parametrize("failure", [{"everywhere": True}, {}], ids=["refused", "503"])
def test_an_outage_of_four_seconds_costs_a_dozen_tries_and_no_event(
    failure, workers, factor, monkeypatch
):
    for seed in range(50 if factor else 1):
        monkeypatch.setattr(random, "random", random.Random(seed).random)
        policy = RetryPolicy(initial_interval=0.5, randomization_factor=factor)
        box = outbox(workers=workers, retry=policy)
        names = [f"{lane}{number}" for number in range(5) for lane in "abcdefghij"]
        put(box, *names)
        latency = 0.001 if seed % 2 else 0.02
        takes, arrived = go_through_an_outage(box, 4.0, latency=latency, **failure)
        assert takes <= 12
        assert sorted(arrived) == sorted(names)
        for lane in "abcdefghij":
            assert [name for name in arrived if name[0] == lane] == sorted(
                name for name in names if name[0] == lane
            )
        assert_nothing_left(box)


# -- bounds ------------------------------------------------------------------------------------


def test_without_bounds_everything_is_taken_in():
    box = outbox(max_queue=None, max_queue_bytes=None)
    assert box.has_room(10**12)
    for number in range(1000):
        put(box, f"a{number}")
    assert (box.queued, box.lost) == (1000, 0)


@pytest.mark.parametrize("bounds", [{"max_queue": 2}, {"max_queue_bytes": 5}])
def test_what_has_no_room_is_refused(bounds):
    box = outbox(**bounds)
    put(box, "a1", "b1")
    assert not box.has_room(2)
    assert not box.put(event("c1"))
    assert (box.submitted, box.queued, box.queued_bytes) == (3, 2, 4)
    assert (box.dropped, box.lost) == ({"queue_full": 1}, 0)
    assert not box.losses  # it was never in
    assert deliver_all(box, 0.0) == ["a1", "b1"]
    assert_nothing_left(box)


def test_what_fits_exactly_has_room():
    box = outbox(max_queue=2, max_queue_bytes=4)
    put(box, "a1", "b1")
    assert (box.queued, box.queued_bytes) == (2, 4)


def test_there_is_room_for_so_many_besides():
    box = outbox(max_queue=3)
    put(box, "a1")
    assert box.has_room(2, besides=1)
    assert not box.has_room(2, besides=2)
    box = outbox(max_queue_bytes=6)
    put(box, "a1")
    assert box.has_room(2, besides_bytes=2)
    assert not box.has_room(2, besides_bytes=3)


def test_there_is_space_until_as_much_waits_as_may():
    for bounds in ({"max_queue": 2}, {"max_queue_bytes": 4}):
        box = outbox(**bounds)
        put(box, "a1")
        assert box.has_space
        put(box, "b1")
        assert not box.has_space
        take(box, 0.0)
        assert box.has_space


def test_an_event_is_wanted_if_it_would_be_given_as_soon_as_it_is_put_in():
    box = outbox(workers=2)
    assert box.wants(event("a1"))
    put(box, "a1")
    item = take(box, 0.0)
    assert not box.wants(event("a2"))  # its lane is taken
    assert box.wants(event("b1"))
    put(box, "b1")
    take(box, 0.0)
    assert not box.wants(event("c1"))  # all workers are busy
    assert box.wants(event("a2", to="e"))
    box.fail(item, 0.0, ERROR, everywhere=True)
    assert not box.wants(event("c1"))  # the gate is shut


def test_what_is_in_flight_takes_no_room():
    box = outbox(max_queue=1, max_queue_bytes=2)
    put(box, "a1")
    take(box, 0.0)
    assert (box.queued, box.queued_bytes) == (0, 0)
    put(box, "b1")


def test_what_is_put_in_anyway_needs_no_room_and_evicts_nothing():
    box = outbox(max_queue=1, drop_oldest=True)
    put(box, "a1")
    assert box.put(event("b1"), anyway=True)
    assert (box.queued, box.lost) == (2, 0)
    put(box, "c1")
    assert reasons(box) == {"a1": "queue_full", "b1": "queue_full"}


@pytest.mark.parametrize("drop_oldest", [False, True])
def test_an_event_larger_than_the_queue_is_refused_and_evicts_nothing(drop_oldest):
    box = outbox(max_queue_bytes=4, drop_oldest=drop_oldest)
    put(box, "a1", "b1")
    assert not box.has_room(5)
    assert not box.put(event("c1234"))
    assert box.queued == 2
    assert not box.losses
    assert box.dropped == {"queue_full": 1}


@pytest.mark.parametrize("drop_oldest", [False, True])
def test_a_queue_of_no_length_refuses_everything(drop_oldest):
    box = outbox(max_queue=0, drop_oldest=drop_oldest)
    assert not box.has_room(0)
    assert not box.put(event("a1"))
    assert_nothing_left(box)


def test_an_event_put_back_behind_one_that_is_older_is_evicted_in_its_turn():
    box = outbox(max_queue=3, drop_oldest=True, workers=3)
    put(box, "a1", "b1", "c1")
    flying = take_all(box, 0.0)
    put(box, "d1")
    for name in ("b1", "a1"):
        box.put_back(flying[name])
    put(box, "e1")
    assert reasons(box) == {"a1": "queue_full"}
    put(box, "f1", "g1")
    assert reasons(box) == dict.fromkeys(("a1", "b1", "d1"), "queue_full")
    box.deliver(flying["c1"])
    assert deliver_all(box, 0.0) == ["e1", "f1", "g1"]
    assert_nothing_left(box)


def test_what_is_settled_is_not_remembered_though_an_older_one_waits():
    box = outbox(max_queue=5, drop_oldest=True)
    put(box, "a1")
    box.fail(take(box, 0.0), 0.0, ERROR)
    for _ in range(2000):
        put(box, "b1")
        box.deliver(take(box, 0.0))
        assert len(box._order) <= 1010
    assert deliver_all(box, 0.0) == ["a1"]
    assert_nothing_left(box)


def test_the_oldest_makes_room():
    box = outbox(max_queue=2, drop_oldest=True)
    put(box, "a1", "b1", to="d")
    put(box, "c1", to="e")
    put(box, "a2", to="d")
    assert reasons(box) == {"a1": "queue_full", "b1": "queue_full"}
    assert all(isinstance(loss.error, ReasoningError) for loss in box.losses)
    assert (box.dropped, box.lost) == ({"queue_full": 2}, 2)
    assert deliver_all(box, 0.0) == ["c1", "a2"]
    assert_nothing_left(box)


def test_the_oldest_of_a_lane_makes_room_for_a_later_one_of_it():
    box = outbox(max_queue=2, drop_oldest=True)
    put(box, "a1", "a2", "a3", "a4")
    assert reasons(box) == {"a1": "queue_full", "a2": "queue_full"}
    assert deliver_all(box, 0.0) == ["a3", "a4"]
    assert_nothing_left(box)


def test_several_make_room_for_a_large_event():
    box = outbox(max_queue_bytes=6, drop_oldest=True)
    put(box, "a1", "b1", "a2")
    put(box, "c123")
    assert list(reasons(box)) == ["a1", "b1"]
    assert box.queued_bytes == 6
    put(box, "d12345")
    assert list(reasons(box)) == ["a1", "b1", "a2", "c123"]
    assert deliver_all(box, 0.0) == ["d12345"]


def test_an_event_in_flight_is_never_evicted():
    box = outbox(max_queue=1, drop_oldest=True)
    put(box, "a1")
    item = take(box, 0.0)
    put(box, "b1")
    put(box, "c1")
    assert list(reasons(box)) == ["b1"]
    box.deliver(item)
    assert deliver_all(box, 0.0) == ["c1"]
    assert_nothing_left(box)


def test_the_oldest_is_evicted_from_behind_one_in_flight():
    box = outbox(max_queue=3, drop_oldest=True)
    put(box, "a1")
    item = take(box, 0.0)
    put(box, "a2", "b1", "a3", "a4")
    assert list(reasons(box)) == ["a2"]
    put(box, "a5")
    assert list(reasons(box)) == ["a2", "b1"]
    box.deliver(item)
    assert deliver_all(box, 0.0) == ["a3", "a4", "a5"]
    assert_nothing_left(box)


def test_a_lane_goes_on_when_all_behind_the_one_in_flight_was_evicted():
    box = outbox(max_queue=1, drop_oldest=True)
    put(box, "a1")
    item = take(box, 0.0)
    put(box, "a2", "a3", "b1", "a4")
    assert list(reasons(box)) == ["a2", "a3", "b1"]
    box.fail(item, 0.0, ERROR)
    assert deliver_all(box, 0.0) == ["a1", "a4"]
    assert_nothing_left(box)


def test_an_event_that_waits_for_its_retry_is_evicted_as_the_oldest():
    box = outbox(max_queue=3, drop_oldest=True, workers=2)
    put(box, "a1", "b1", "a2")
    flying = take_all(box, 0.0)
    box.fail(flying["a1"], 0.0, ERROR)
    box.fail(flying["b1"], 0.0, ERROR)
    put(box, "c1")
    assert list(reasons(box)) == ["a1"]
    assert sorted(deliver_all(box, 0.0)) == ["a2", "b1", "c1"]
    assert_nothing_left(box)


def test_those_that_failed_come_back_though_there_is_no_room():
    box = outbox(max_queue=1, workers=2)
    put(box, "a1")
    flying = take_all(box, 0.0)
    put(box, "b1")
    flying |= take_all(box, 0.0)
    put(box, "c1")
    for item in flying.values():
        box.fail(item, 0.0, ERROR)
    assert (box.queued, box.queued_bytes) == (3, 6)
    assert not box.has_room(1)
    assert sorted(deliver_all(box, 0.0)) == ["a1", "b1", "c1"]
    assert_nothing_left(box)


def test_what_was_refused_elsewhere_is_counted_under_its_reason():
    box = outbox()
    box.refuse("closed")
    box.refuse("closed")
    box.refuse("too_large")
    assert box.dropped == {"closed": 2, "too_large": 1}
    assert (box.submitted, box.lost) == (3, 0)
    assert_nothing_left(box)


# -- marks -------------------------------------------------------------------------------------


def test_a_mark_counts_down_the_events_that_were_there():
    box = outbox(workers=2)
    put(box, "a1", "b1", "a2")
    flying = take_all(box, 0.0)
    mark = box.mark()
    assert mark.left == 3
    put(box, "c1")
    later = box.mark()
    assert later.left == 4
    box.deliver(flying["b1"])
    assert (mark.left, later.left) == (2, 3)
    box.deliver(take(box, 0.0))  # a later one: a2 waits for a1
    assert (mark.left, later.left) == (2, 2)
    box.fail(flying["a1"], 0.0, ERROR)
    assert (mark.left, later.left) == (2, 2)
    assert deliver_all(box, 0.0) == ["a1", "a2"]
    assert (mark.left, later.left) == (0, 0)
    assert_nothing_left(box)


def test_a_mark_that_nobody_looks_at_is_forgotten():
    box = outbox()
    put(box, "a1")
    mark, other = box.mark(), box.mark()
    box.unmark(mark)
    deliver_all(box, 0.0)
    assert (mark.left, other.left) == (1, 0)
    assert_nothing_left(box)


def test_a_mark_in_an_empty_outbox_has_nothing_left():
    box = outbox()
    mark = box.mark()
    assert mark.left == 0
    assert_nothing_left(box)
    put(box, "a1")
    deliver_all(box, 0.0)
    assert mark.left == 0
    assert_nothing_left(box)


def test_what_is_lost_counts_as_settled():
    box = outbox(max_queue=3, drop_oldest=True, retry=attrs.evolve(POLICY, max_attempts=0))
    put(box, "a1", "b1", "c1")
    mark = box.mark()
    put(box, "d1")
    assert mark.left == 2
    box.fail(take(box, 0.0), 0.0, ERROR)
    assert mark.left == 1
    box.give_up(take(box, 0.0), "rejected", ERROR)
    assert mark.left == 0


def test_what_is_dropped_counts_as_settled():
    box = outbox()
    put(box, "a1", "b1", "a2")
    mark = box.mark()
    box.drop_queued("closed", ERROR)
    assert mark.left == 0
    assert_nothing_left(box)


# -- the end -----------------------------------------------------------------------------------


def test_dropping_loses_what_waits_with_the_reason():
    box = outbox(workers=2)
    put(box, "a1", "b1", "a2", "c1", "b2")
    flying = take_all(box, 0.0)
    box.fail(flying["a1"], 0.0, ERROR)
    box.deliver(flying["b1"])
    box.drop_queued("closed", ERROR)
    assert reasons(box) == dict.fromkeys(["a1", "a2", "c1", "b2"], "closed")
    assert list(reasons(box))[:2] == ["a1", "a2"]
    assert box.dropped == {"closed": 4}
    assert_nothing_left(box)


def test_what_is_kept_elsewhere_is_not_lost_but_never_sent():
    box = outbox()
    put(box, "a1", "a2", "b1", keeper="a file")
    put(box, "a3", "c1")
    item = take(box, 0.0)
    box.drop_queued("closed", ERROR)
    assert sorted(reasons(box)) == ["a3", "c1"]
    assert (box.queued, box.queued_bytes, box.in_flight) == (2, 4, 1)
    box.deliver(item)
    assert (box.take(1e9), box.next_at(), box.can_give) == (None, None, False)
    assert_adds_up(box)
    assert not box._destinations


@pytest.mark.parametrize("behind", [[], ["a2", "a3"]])
def test_what_is_in_flight_can_still_arrive_after_dropping(behind):
    box = outbox()
    put(box, "a1", *behind)
    item = take(box, 0.0)
    box.drop_queued("closed", ERROR)
    assert box.in_flight == 1
    box.deliver(item)
    assert (box.delivered, list(reasons(box))) == (1, behind)
    assert_nothing_left(box)


def test_what_is_in_flight_can_be_given_up_after_dropping():
    box = outbox()
    put(box, "a1", "a2")
    item = take(box, 0.0)
    box.drop_queued("closed", ERROR)
    box.give_up(item, "closed", ERROR)
    assert box.dropped == {"closed": 2}
    assert_nothing_left(box)


def test_what_is_in_flight_can_fail_after_dropping_and_be_dropped_too():
    box = outbox(workers=2)
    put(box, "a1", "a2", "b1")
    for item in take_all(box, 0.0).values():
        box.drop_queued("closed", ERROR)
        box.fail(item, 0.0, ERROR)
    assert box.queued == 1
    box.drop_queued("closed", ERROR)
    assert box.dropped == {"closed": 3}
    assert_nothing_left(box)


def test_after_dropping_what_is_put_in_goes_its_way():
    box = outbox(workers=2)
    put(box, "a1", "b1", "c1", "a2")
    item = take(box, 0.0)
    box.drop_queued("closed", ERROR)
    put(box, "a3", "b2")
    assert deliver_all(box, 0.0) == ["b2"]
    box.deliver(item)
    assert deliver_all(box, 0.0) == ["a3"]
    assert_nothing_left(box)


# -- no leftovers ------------------------------------------------------------------------------


def test_destinations_that_failed_for_good_leave_nothing_but_timers_until_their_time():
    box = outbox(retry=attrs.evolve(POLICY, max_attempts=0))
    for number in range(10_000):
        put(box, "a1", to=number)
        box.fail(take(box, number), number, ERROR, everywhere=True)
        assert len(box._destinations) == 0
        assert len(box._timers) <= 2
        box.losses.clear()
    assert_nothing_left(box)


def test_destinations_whose_events_were_evicted_leave_nothing():
    box = outbox(max_queue=1, drop_oldest=True)
    for number in range(10_000):
        put(box, "a1", to=number)
        assert len(box._destinations) == len(box._runnable) == 1
    assert box.lost == 9_999
    assert deliver_all(box, 0.0) == ["a1"]
    assert_nothing_left(box)


def test_lanes_that_are_done_leave_nothing():
    box = outbox()
    put(box, "z1", "z2")
    held = take(box, 0.0)
    box.fail(held, 0.0, ERROR)
    for number in range(1000):
        box.put(Item(b"", f"lane {number}", Target("d")))
        box.deliver(take(box, 0.0))
        assert len(box._destinations["d"].lanes) == 1
    assert deliver_all(box, 0.0) == ["z1", "z2"]
    assert_nothing_left(box)


class Keeper:
    """Something that can be watched."""


@pytest.mark.parametrize("end", ["deliver", "give_up", "exhaust", "evict", "drop"])
@pytest.mark.parametrize("names", [["a1"], ["a1", "a2"], ["a1", "b1"]])
def test_an_event_that_is_settled_is_freed_without_the_garbage_collector(end, names):
    box = outbox(max_queue=2, drop_oldest=True, retry=attrs.evolve(POLICY, max_attempts=0))
    gc.disable()
    try:
        keepers = []
        for name in names:
            keeper = Keeper()
            keepers.append(weakref.ref(keeper))
            # What has a keeper is not dropped, so the target is watched there.
            put(box, name, to=keeper if end == "drop" and len(names) == 1 else "d",
                keeper=None if end == "drop" else keeper)  # fmt: skip
            del keeper
        if end == "evict":
            put(box, "x1", "x2")
        elif end == "drop":
            box.drop_queued("closed", ERROR)
        else:
            while (item := box.take(0.0)) is not None:
                if end == "deliver":
                    box.deliver(item)
                elif end == "give_up":
                    box.give_up(item, "rejected", ERROR)
                else:
                    box.fail(item, 0.0, ERROR)
            del item
        box.losses.clear()
        box.take(1e9)  # past all timers
        assert [keeper() for keeper in keepers] == [None] * len(names)
    finally:
        gc.enable()


@pytest.mark.parametrize("end", ["free", "drop"])
def test_a_lane_of_a_million_events_is_freed(end):
    box, target = outbox(), Target("d")
    for _ in range(1_000_000):
        box.put(Item(b"", "a", target))
    if end == "drop":
        box.drop_queued("closed", ERROR)
        assert box.lost == 1_000_000
    del box


@pytest.mark.parametrize(("lanes", "most"), [(1, 1200), (100, 1200), (100_000, 1500)])
def test_an_event_that_waits_takes_little_more_than_its_body(lanes, most):
    events, target = 100_000, Target("d")
    tracemalloc.start()
    try:
        box = outbox()
        for number in range(events):
            lane = f"resp_{number % lanes:032d}"  # a string of its own, as when it was read
            box.put(Item(bytes(956), lane, target))
        assert tracemalloc.get_traced_memory()[1] / events < most
    finally:
        tracemalloc.stop()


# -- any sequence of calls ---------------------------------------------------------------------

LATER = 1e9


class ModelDestination:
    """A destination as one would explain it."""

    def __init__(self) -> None:
        self.lanes: dict[str, list[Item[Target]]] = {}  # all that is not settled
        self.flying: list[Item[Target]] = []
        self.not_before: dict[int, float] = {}  # of those that failed, by number
        self.shut_until: float | None = None
        self.times_shut = 0
        self.shut_by = 0
        self.probe: Item[Target] | None = None
        self.doubted: str | None = None

    def firsts(self) -> list[Item[Target]]:
        """Those whose turn it is in their lane."""
        return [lane[0] for lane in self.lanes.values() if lane[0] not in self.flying]

    def gives(self, now: float, workers: int) -> Item[Target] | None:
        ready = [item for item in self.firsts() if self.not_before.get(item.number, 0.0) <= now]
        ready.sort(key=lambda item: item.number)
        if not ready or len(self.flying) >= workers:
            return None
        if self.shut_until is None:
            return ready[0]
        if self.probe is not None or now < self.shut_until:
            return None
        return next((item for item in ready if item.number > self.shut_by), ready[0])

    def gives_at(self, workers: int) -> float | None:
        """When it gives something, if nothing else happens."""
        times = [self.not_before.get(item.number, 0.0) for item in self.firsts()]
        at = max(min(times, default=LATER), self.shut_until or 0.0)
        return at if at < LATER and self.gives(at, workers) else None

    def open(self) -> None:
        self.shut_until, self.times_shut, self.probe, self.doubted = None, 0, None, None

    def shut(self, item: Item[Target], now: float, retry_after: float | None) -> None:
        delay = nth_delay(self.times_shut) if retry_after is None else retry_after
        self.shut_until, self.shut_by = now + delay, item.number
        self.times_shut += 1


def nth_delay(n: int) -> float:
    return min(POLICY.initial_interval * 2.0**n, POLICY.max_interval)


class OutboxMachine(RuleBasedStateMachine):
    """The outbox beside a model of lists; all times are multiples of 1/4, and so exact."""

    @initialize(
        max_queue=st.sampled_from([None, 1, 2, 4]),
        max_queue_bytes=st.sampled_from([None, 4, 9]),
        drop_oldest=st.booleans(),
        workers=st.integers(1, 3),
        max_attempts=st.sampled_from([None, None, 0, 2]),
        max_elapsed_time=st.sampled_from([None, None, 3.0, 10.0]),
    )
    def start(self, max_attempts, max_elapsed_time, **options):
        self.policy = attrs.evolve(
            POLICY, max_attempts=max_attempts, max_elapsed_time=max_elapsed_time
        )
        self.box = outbox(retry=self.policy, **options)
        self.options = options
        self.workers = options["workers"]
        self.now = 0.0
        self.model: dict[str, ModelDestination] = {}
        self.flying: list[Item[Target]] = []
        self.tries: dict[int, tuple[float, int]] = {}  # the first, and how many failed
        self.kept: list[Item[Target]] = []
        self.settled: set[int] = set()
        self.marks: list[tuple[Mark, set[int]]] = []
        self.last_number = 0
        self.submitted = self.delivered = self.retries = self.losses = self.refused = 0
        self.dropped: Counter[str] = Counter()

    # -- the model's

    def waiting(self) -> list[Item[Target]]:
        lanes = [lane for its in self.model.values() for lane in its.lanes.values()]
        items = [item for lane in lanes for item in lane if item not in self.flying]
        return sorted(items, key=lambda item: item.number)

    def settle(self, item: Item[Target]) -> None:
        its = self.model[item.target.destination]
        its.lanes[item.lane].remove(item)
        if not its.lanes[item.lane]:
            del its.lanes[item.lane]
        if not its.lanes:
            del self.model[item.target.destination]
        self.settled.add(item.number)

    def lose(self, item: Item[Target], reason: str) -> None:
        self.settle(item)
        self.dropped[reason] += 1
        self.losses += 1

    def land(self, index: int) -> tuple[Item[Target], ModelDestination]:
        item = self.flying.pop(index % len(self.flying))
        its = self.model[item.target.destination]
        its.flying.remove(item)
        return item, its

    # -- what happens

    @precondition(lambda self: not self.kept)  # nothing comes after the end
    @rule(
        lane=st.sampled_from("abc"),
        to=st.sampled_from("dde"),
        size=st.sampled_from([0, 1, 1, 2, 2, 3, 5, 10]),
        keeper=st.sampled_from([None, None, "file"]),
        anyway=st.sampled_from([False, False, False, True]),
    )
    def put(self, lane, to, size, keeper, anyway):
        limit = self.options["max_queue"] or LATER
        bytes_limit = self.options["max_queue_bytes"] or LATER
        item = Item(bytes(size), lane, Target(to), keeper)

        def fits():
            waiting = self.waiting()
            queued_bytes = sum(len(item.body) for item in waiting)
            return len(waiting) < limit and queued_bytes + size <= bytes_limit

        accepted = anyway or (size <= bytes_limit and (self.options["drop_oldest"] or fits()))
        if not anyway:
            assert self.box.has_room(size) == accepted
        self.submitted += 1
        assert self.box.put(item, anyway=anyway) == accepted
        if not accepted:
            self.dropped["queue_full"] += 1
            return
        while not anyway and not fits():
            self.lose(self.waiting()[0], "queue_full")
        its = self.model.setdefault(to, ModelDestination())
        its.lanes.setdefault(lane, []).append(item)
        assert item.number > self.last_number
        self.last_number = item.number

    @rule()
    def refuse(self):
        self.box.refuse("closed")
        self.submitted += 1
        self.dropped["closed"] += 1

    @rule(most=st.sampled_from([1, 1, 2, 10]))
    def take(self, most):
        while most:
            most -= 1
            given = [its.gives(self.now, self.workers) for its in self.model.values()]
            choice = [item for item in given if item is not None]
            item = self.box.take(self.now)
            if item is None:
                assert not choice
                return
            assert item in choice
            its = self.model[item.target.destination]
            if its.shut_until is not None:
                its.probe = item
            self.retries += item.number in self.tries
            self.tries.setdefault(item.number, (self.now, 0))
            self.flying.append(item)
            its.flying.append(item)

    @precondition(lambda self: self.flying)
    @rule(index=st.integers(0, 5))
    def deliver(self, index):
        item, its = self.land(index)
        its.open()
        self.settle(item)
        self.delivered += 1
        self.box.deliver(item)

    @precondition(lambda self: self.flying)
    @rule(index=st.integers(0, 5), reason=st.sampled_from(["rejected", "closed"]))
    def give_up(self, index, reason):
        item, its = self.land(index)
        if reason == "rejected":
            its.open()
        elif its.probe is item:
            its.probe = None
        self.lose(item, reason)
        self.box.give_up(item, reason, ERROR)

    @precondition(lambda self: self.flying)
    @rule(
        index=st.integers(0, 5),
        retry_after=st.sampled_from([None, None, None, 0.0, 1.0, 7.5]),
        everywhere=st.booleans(),
    )
    def fail(self, index, retry_after, everywhere):
        item, its = self.land(index)
        if its.probe is item:
            its.probe = None
            its.shut(item, self.now, retry_after)
        elif its.shut_until is None:
            if everywhere or retry_after is not None or its.doubted not in (None, item.lane):
                its.shut(item, self.now, retry_after)
            its.doubted = item.lane
        first_at, failed = self.tries[item.number]
        delay = nth_delay(failed) if retry_after is None else retry_after
        self.tries[item.number] = first_at, failed + 1
        its.not_before[item.number] = self.now + delay
        if (self.policy.max_attempts is not None and failed >= self.policy.max_attempts) or (
            self.policy.max_elapsed_time is not None
            and self.now + delay - first_at > self.policy.max_elapsed_time
        ):
            self.lose(item, "budget_exhausted")
        self.box.fail(item, self.now, ERROR, retry_after=retry_after, everywhere=everywhere)

    @rule(quarters=st.sampled_from([1, 2, 3, 4, 8, 20]))
    def wait(self, quarters):
        self.now += quarters / 4

    @precondition(lambda self: self.box.next_at() is not None)
    @rule()
    def wait_as_told(self):
        self.now = max(self.now, self.box.next_at())

    @rule()
    def mark(self):
        here = {item.number for item in self.waiting() + self.flying + self.kept}
        self.marks.append((self.box.mark(), here))

    @precondition(lambda self: self.waiting())
    @rule(chance=st.integers(0, 2))
    def drop(self, chance):
        if chance:  # else most sequences were short
            return
        for item in self.waiting():
            if item.keeper is None:
                self.lose(item, "dropped")
            else:
                self.settle(item)
                self.settled.remove(item.number)
                self.kept.append(item)
        self.box.drop_queued("dropped", ERROR)

    # -- what holds

    @invariant()
    def everything_adds_up(self):
        box = self.box
        waiting = self.waiting() + self.kept
        assert_adds_up(box)
        assert (box.submitted, box.delivered) == (self.submitted, self.delivered)
        assert (box.queued, box.in_flight) == (len(waiting), len(self.flying))
        assert box.queued_bytes == sum(len(item.body) for item in waiting)
        assert box.dropped == self.dropped
        assert box.lost == len(box.losses) == self.losses
        assert box.retries == self.retries

    @invariant()
    def marks_count_what_was_there(self):
        for mark, here in self.marks:
            assert mark.left == len(here - self.settled)

    @invariant()
    def whoever_follows_next_at_is_never_late(self):
        next_at = self.box.next_at()
        for its in self.model.values():
            at = its.gives_at(self.workers)
            if at is None or self.box.can_give:
                continue
            assert next_at is not None
            assert next_at <= max(at, self.now)

    @invariant()
    def what_can_be_given_without_time_passing_is_announced(self):
        next_at = self.box.next_at()
        if next_at is None or next_at > self.now:
            given = [its.gives(self.now, self.workers) for its in self.model.values()]
            assert self.box.can_give or not any(given)

    @invariant()
    def what_is_done_leaves_nothing(self):
        box = self.box
        assert box._destinations.keys() == self.model.keys()
        for name, its in self.model.items():
            destination = box._destinations[name]
            assert destination.lanes.keys() == its.lanes.keys()
            firsts = destination.ready + [item for _, item in destination.delayed]
            assert sorted(firsts) == sorted(its.firsts())
        assert {id(its) for its in box._runnable} <= {id(its) for its in box._destinations.values()}
        assert box._flying == set(self.flying)

    def teardown(self):
        """Nothing waits for ever: as time goes on, whatever is left is given."""
        if not hasattr(self, "box"):
            return
        while self.flying or self.model:
            given = len(self.flying)
            self.take(10)
            if len(self.flying) > given:
                self.everything_adds_up()
                self.whoever_follows_next_at_is_never_late()
            elif self.flying:
                self.deliver(0)
            else:
                assert self.box.next_at() is not None
                assert self.box.next_at() > self.now
                self.wait_as_told()
        assert self.box.queued == len(self.kept)
        self.kept.clear()
        self.box.take(LATER)
        assert (self.box.next_at(), self.box.can_give) == (None, False)
        self.what_is_done_leaves_nothing()
        assert not self.box._runnable


def test_any_sequence_of_calls_keeps_order_counts_and_events():
    run_state_machine_as_test(OutboxMachine)
