import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning_sdk._core.inbox import OVERFLOWS, Inbox


def inbox(overflow="block", *, max_count=None, max_size=None) -> Inbox:
    return Inbox(overflow=overflow, max_count=max_count, max_size=max_size)


def take_all(box: Inbox) -> list:
    taken = []
    while (batch := box.first()) is not None:
        taken.extend(batch.items)
    return taken


def test_batches_come_out_in_order_with_what_is_said_between_them():
    box = inbox()
    box.put_other("connected")
    box.put(["a", "b"], 2, 10.0)
    box.put_other("lost")
    box.put(["c"], 1, 11.0)
    kinds = []
    while (batch := box.first()) is not None:
        kinds.append((batch.has_messages, batch.received_at, list(batch.items)))
    assert kinds == [
        (False, 0.0, ["connected"]),
        (True, 10.0, ["a", "b"]),
        (False, 0.0, ["lost"]),
        (True, 11.0, ["c"]),
    ]


def test_a_batch_stays_until_its_last_item_was_taken():
    box = inbox(max_size=10)
    box.put(["a", "b"], 10, 0.0)
    batch = box.first()
    assert next(batch.items) == "a"
    assert box.first() is batch
    assert (len(box), box.size, box.is_full) == (1, 10, True)
    assert next(batch.items) == "b"
    assert box.first() is None
    assert (len(box), box.size, box.is_full) == (0, 0, False)


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
def test_one_that_drops_is_never_full(overflow):
    box = inbox(overflow, max_count=2, max_size=2)
    for number in range(5):
        box.put([number], 5, 0.0)
    assert not box.is_full


def test_one_that_blocks_drops_nothing_whatever_the_count():
    box = inbox(max_count=1, max_size=3)
    box.put(["a", "b", "c"], 3, 0.0)
    box.put(["d"], 1, 0.0)
    assert box.is_full
    assert take_all(box) == ["a", "b", "c", "d"]
    assert box.dropped == 0


def test_the_newest_are_dropped_when_there_is_no_room():
    box = inbox("drop_newest", max_count=3)
    box.put(["a", "b"], 2, 0.0)
    box.put(["c", "d", "e"], 3, 0.0)
    box.put(["f"], 1, 0.0)
    assert (len(box), box.dropped) == (3, 3)
    next(box.first().items)  # makes room
    box.put(["g", "h"], 2, 0.0)
    assert take_all(box) == ["b", "c", "g"]
    assert box.dropped == 4


def test_the_newest_are_dropped_when_there_are_enough_bytes():
    box = inbox("drop_newest", max_size=10)
    box.put(["a"], 9, 0.0)
    box.put(["b"], 9, 0.0)  # the last that may come in
    box.put(["c", "d"], 2, 0.0)
    assert box.dropped == 2
    assert take_all(box) == ["a", "b"]


def test_the_oldest_are_dropped_and_what_is_said_between_them_is_not():
    box = inbox("drop_oldest", max_count=3)
    box.put(["a", "b"], 2, 0.0)
    box.put_other("lost")
    box.put(["c", "d", "e", "f"], 4, 0.0)
    assert (len(box), box.dropped, box.size) == (3, 3, 4)
    assert take_all(box) == ["lost", "d", "e", "f"]


def test_the_oldest_are_dropped_from_what_somebody_has_in_hand():
    box = inbox("drop_oldest", max_count=3)
    box.put(["a", "b", "c"], 3, 0.0)
    batch = box.first()
    assert next(batch.items) == "a"
    box.put(["d", "e"], 2, 0.0)
    assert box.dropped == 1
    assert [*batch.items, *take_all(box)] == ["c", "d", "e"]


def test_the_oldest_batches_are_dropped_when_there_are_too_many_bytes():
    box = inbox("drop_oldest", max_size=10)
    box.put(["a", "b"], 6, 0.0)
    box.put_other("lost")
    box.put(["c"], 6, 0.0)
    assert (box.dropped, box.size) == (2, 6)
    box.put(["d"], 50, 0.0)  # larger than all that is allowed, and the newest
    assert (box.dropped, box.size) == (3, 50)
    assert take_all(box) == ["lost", "d"]
    assert box.size == 0


def test_a_single_batch_is_cut_to_the_count_though_its_bytes_are_too_many():
    box = inbox("drop_oldest", max_count=2, max_size=10)
    box.put(["a", "b", "c"], 30, 0.0)
    assert box.dropped == 1
    assert take_all(box) == ["b", "c"]


@pytest.mark.parametrize("look", [Inbox.first, Inbox.is_full.fget], ids=["first", "is_full"])
def test_a_count_that_an_interruption_has_left_wrong_is_right_again_when_it_is_empty(
    look, monkeypatch
):
    box = inbox(max_size=5)
    box.put(["a", "b"], 5, 0.0)
    list(box.first().items)

    def interrupted(batch):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(box, "_remove", interrupted)
        with pytest.raises(KeyboardInterrupt):
            box.first()
    look(box)
    assert not box.is_full
    assert (len(box), box.size) == (0, 0)
    box.put(["c"], 1, 0.0)
    assert (len(box), box.size) == (1, 1)
    assert take_all(box) == ["c"]


STEPS = st.lists(
    st.one_of(
        st.integers(min_value=0, max_value=4).map(lambda n: ("put", n)),
        st.integers(min_value=1, max_value=4).map(lambda n: ("take", n)),
        st.just(("say", 0)),
    ),
    max_size=40,
)


@given(
    steps=STEPS,
    overflow=st.sampled_from(OVERFLOWS),
    max_count=st.none() | st.integers(min_value=1, max_value=5),
    max_size=st.none() | st.integers(min_value=1, max_value=8),
)
def test_nothing_is_lost_uncounted_or_out_of_order(steps, overflow, max_count, max_size):
    box = inbox(overflow, max_count=max_count, max_size=max_size)
    put, said, taken = 0, 0, []
    for step, number in steps:
        if step == "put":
            messages = list(range(put, put + number))
            put += number
            box.put(messages, number, 0.0)
        elif step == "say":
            box.put_other(f"word {said}")
            said += 1
        else:
            batch = box.first()
            for _, item in zip(range(number), batch.items if batch else ()):  # noqa: B905
                taken.append(item)
        messages = [item for item in taken if isinstance(item, int)]
        assert put == len(messages) + len(box) + box.dropped
        if overflow == "block":
            assert box.dropped == 0
        elif max_count is not None:
            assert len(box) <= max_count
    taken += take_all(box)
    messages = [item for item in taken if isinstance(item, int)]
    assert messages == sorted(set(messages))
    assert put == len(messages) + box.dropped
    assert [item for item in taken if isinstance(item, str)] == [f"word {n}" for n in range(said)]
    assert (len(box), box.size) == (0, 0)
