"""The store in memory."""

import os
import threading

import pytest

from reasoning_sdk import ConfigurationError, MemoryStore, RecordNotFoundError
from tests.stores.contract import REQUEST, StoreContract, chat, event


class TestMemoryStore(StoreContract):
    """It keeps to what all stores keep to."""

    @pytest.fixture
    def store(self):
        return MemoryStore()


def ended(store: MemoryStore, *ids: str, status: str = "completed") -> None:
    for id in ids:
        store.create_response(id, REQUEST)
        (step,) = store.next_action_for(id, None).steps  # type: ignore[union-attr]
        store.complete_step(store.record_step(id, None, None, step).id, chat(id))
        store.end_response(id, status, None)


def test_the_oldest_ended_responses_are_forgotten():
    store = MemoryStore(max_responses=2)
    ended(store, "a", "b", "c")
    with pytest.raises(RecordNotFoundError):
        store.assemble_response("a")
    assert store.assemble_response("b")["status"] == "completed"
    assert repr(store) == "<MemoryStore responses=2 open=0>"


def test_what_has_not_ended_is_not_forgotten():
    store = MemoryStore(max_responses=1)
    for id in ("a", "b", "c"):
        store.create_response(id, REQUEST)
    assert repr(store) == "<MemoryStore responses=3 open=3>"


def test_what_ended_first_is_forgotten_first():
    """Whenever it began."""
    store = MemoryStore(max_responses=2)
    for id in ("a", "b"):
        store.create_response(id, REQUEST)
    for id in ("b", "a"):
        store.end_response(id, "failed", None)
    ended(store, "c")
    with pytest.raises(RecordNotFoundError):
        store.assemble_response("b")
    assert store.assemble_response("a")["status"] == "failed"


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_what_is_gone_on_with_is_not_forgotten(status):
    store = MemoryStore(max_responses=1)
    store.create_response("a", REQUEST)
    store.end_response("a", status, None)
    store.create_response("a", REQUEST)
    ended(store, "b", "c")
    assert store.assemble_response("a")["status"] == "in_progress"
    with pytest.raises(RecordNotFoundError):
        store.assemble_response("b")
    store.end_response("a", status, None)
    with pytest.raises(RecordNotFoundError):
        store.assemble_response("c")


def test_no_limit_is_no_limit():
    store = MemoryStore(max_responses=None)
    ended(store, *map(str, range(20)))
    assert repr(store) == "<MemoryStore responses=20 open=0>"


@pytest.mark.parametrize("most", [0, -1, 1.5, True, "1"])
def test_a_limit_that_is_none_is_refused(most):
    with pytest.raises(ConfigurationError, match="max_responses must be an int > 0"):
        MemoryStore(max_responses=most)


def test_a_forgotten_response_is_no_history():
    store = MemoryStore(max_responses=1)
    ended(store, "a", "b")
    with pytest.raises(ConfigurationError, match="there is no such response"):
        store.create_response("c", {**REQUEST, "previous_response_id": "resp_a"})


def test_a_response_that_has_not_ended_is_no_history():
    store = MemoryStore()
    store.create_response("a", REQUEST)
    with pytest.raises(ConfigurationError, match="it has not ended"):
        store.create_response("b", {**REQUEST, "previous_response_id": "resp_a"})


def test_a_response_can_be_deleted_with_all_that_belongs_to_it():
    store = MemoryStore()
    ended(store, "a")
    (step,) = store.list_chain("a", None)
    store.append_events("a", [event(0)])
    store.delete_response("resp_a")
    with pytest.raises(RecordNotFoundError):
        store.complete_step(step.id, {})
    with pytest.raises(RecordNotFoundError):
        store.events_after("a", None)
    with pytest.raises(RecordNotFoundError):
        store.delete_response("a")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_does_not_wait_for_a_lock_that_a_thread_of_its_parent_held():
    store = MemoryStore()
    ended(store, "a")
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with store._lock:
            held.set()
            release.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(5)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if store.assemble_response("a")["id"] == "resp_a" else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    release.set()
    thread.join(5)
    assert os.waitstatus_to_exitcode(status) == 0
