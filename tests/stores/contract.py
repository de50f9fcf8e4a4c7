"""What every store of responses keeps to, as tests: subclass it, and give the store."""

import threading
from typing import Any

import pytest

from reasoning_sdk import (
    AgentSchema,
    AppendSteps,
    Complete,
    ConfigurationError,
    Fail,
    LoopEvent,
    LoopEventKind,
    RecordNotFoundError,
    ResponseStore,
    StepDescriptor,
    StepKind,
    StepState,
    StorageError,
    StoreError,
)
from tests.support.loops import text_of, tool_call
from tests.support.model_server import JSON
from tests.support.open_responses import check_response
from tests.support.threads import InThread

REQUEST: JSON = {"model": "m", "input": "hi"}


def chat(text: str | None = None, *calls: tuple[str, str, str]) -> JSON:
    """The body of a chat completion; calls are ``(call_id, name, arguments)``."""
    message: JSON = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = [
            {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
            for id, name, arguments in calls
        ]
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
    return {"object": "chat.completion", "choices": [choice]}


def event(sequence: int, kind: LoopEventKind = LoopEventKind.IN_PROGRESS) -> LoopEvent:
    return LoopEvent(sequence, kind, {"type": kind.value, "sequence_number": sequence})


class StoreContract:
    """Subclasses have a fixture ``store`` that gives a new store, and ``reopened``."""

    @pytest.fixture
    def store(self) -> ResponseStore:
        raise NotImplementedError

    def reopened(self, store: ResponseStore) -> ResponseStore:
        """The store as another process would open it; the same one where there is no other."""
        return store

    def append(self, store: Any, scope: str | None = None, request_id: str = "r") -> list[str]:
        """Record the steps that are next, and give their ids."""
        action = store.next_action_for(request_id, scope)
        assert isinstance(action, AppendSteps), action
        chain = store.list_chain(request_id, scope)
        ids, prev = [], chain[-1].id if chain else None
        for descriptor in action.steps:
            prev = store.record_step(request_id, scope, prev, descriptor).id
            ids.append(prev)
        return ids

    def answered(self, store: Any, body: JSON, scope: str | None = None, id: str = "r") -> None:
        (step,) = self.append(store, scope, id)
        store.mark_step_processing(step)
        store.complete_step(step, body)

    # -- steps -------------------------------------------------------------------------------------

    def test_it_is_a_store(self, store):
        assert isinstance(store, ResponseStore)

    def test_a_step_is_pending_then_processing_then_completed(self, store):
        store.create_response("r", REQUEST)
        (step,) = self.append(store)
        states = [store.list_chain("r", None)[0].state]
        store.mark_step_processing(step)
        states.append(store.list_chain("r", None)[0].state)
        store.complete_step(step, chat("Hello"))
        chain = self.reopened(store).list_chain("r", None)
        assert [*states, chain[0].state] == [
            StepState.PENDING,
            StepState.PROCESSING,
            StepState.COMPLETED,
        ]
        assert chain[0].response_payload == chat("Hello")

    def test_a_step_may_fail_with_an_error(self, store):
        store.create_response("r", REQUEST)
        (step,) = self.append(store)
        error = {"type": "x", "message": "no", "status": 400}
        store.fail_step(step, error)
        (kept,) = self.reopened(store).list_chain("r", None)
        assert (kept.state, kept.error) == (StepState.FAILED, error)
        assert store.next_action_for("r", None) == Fail(error)

    def test_a_step_that_has_ended_stays_as_it_is(self, store):
        store.create_response("r", REQUEST)
        self.answered(store, chat("Hello"))
        (step,) = store.list_chain("r", None)
        for change in (
            lambda: store.mark_step_processing(step.id),
            lambda: store.complete_step(step.id, chat("Bye")),
            lambda: store.fail_step(step.id, {"type": "x", "message": ""}),
        ):
            with pytest.raises(StorageError):
                change()
        assert store.list_chain("r", None) == [step]

    def test_what_is_not_there_cannot_be_changed(self, store):
        for change in (
            lambda: store.mark_step_processing("none"),
            lambda: store.complete_step("none", {}),
            lambda: store.fail_step("none", {}),
            lambda: store.next_action_for("none", None),
            lambda: store.assemble_response("none"),
            lambda: store.list_chain("none", None),
            lambda: store.end_response("none", "failed", None),
            lambda: store.append_events("none", [event(0)]),
            lambda: store.events_after("none", None),
        ):
            with pytest.raises(RecordNotFoundError):
                change()

    def test_steps_are_chained_numbered_and_counted(self, store):
        store.create_response("r", REQUEST, tools=())
        self.answered(store, chat(None, ("c1", "x", "{}"), ("c2", "y", "{}")))
        first, second = self.append(store)
        chain = self.reopened(store).list_chain("r", None)
        assert [step.prev_step_id for step in chain] == [None, chain[0].id, first]
        assert [step.sequence for step in chain] == [1, 2, 3]
        assert [step.iteration for step in chain] in ([1, 2, 2], [None] * 3)
        assert [step.kind for step in chain] == [StepKind.MODEL_CALL] + [StepKind.TOOL_CALL] * 2
        assert chain[2].request_payload == {"name": "y", "args": {}, "call_id": "c2"}
        assert chain[2].id == second

    def test_only_model_calls_have_an_id_upstream(self, store):
        store.create_response("r", REQUEST)
        (model,) = store.next_action_for("r", None).steps
        recorded = store.record_step("r", None, None, model)
        tool = store.record_step("r", None, recorded.id, tool_call("x", "c1"))
        assert recorded.sub_request_id
        assert tool.sub_request_id is None

    def test_a_scope_sees_its_own_steps_alone(self, store):
        store.create_response("r", REQUEST, tools=[AgentSchema("helper")])
        self.answered(store, chat(None, ("c1", "helper", '{"input": "x"}')))
        (call,) = self.append(store)
        self.answered(store, chat("inner"), call)
        assert len(store.list_chain("r", None)) == 2
        (inner,) = self.reopened(store).list_chain("r", call)
        assert inner.parent_step_id == call
        assert store.next_action_for("r", call) == Complete("inner")
        assert inner.sequence == 3, "numbers are those of the response"

    def test_numbers_are_given_once_however_many_threads_ask(self, store):
        store.create_response("r", REQUEST)
        payload = StepDescriptor(StepKind.TOOL_CALL, {"name": "x", "args": {}, "call_id": "c"})
        barrier = threading.Barrier(4)

        def record() -> list[int]:
            barrier.wait(5)
            return [store.record_step("r", None, None, payload).sequence for _ in range(25)]

        threads = [InThread(record) for _ in range(4)]
        numbers = [number for thread in threads for number in thread.ends(20)]
        assert sorted(numbers) == list(range(1, 101))

    # -- responses ---------------------------------------------------------------------------------

    def test_a_response_is_put_together_at_any_time(self, store):
        store.create_response("r", REQUEST)
        check_response(store.assemble_response("r"))
        self.answered(store, chat("Hello"))
        check_response(store.assemble_response("r"))
        assert store.assemble_response("r")["status"] == "in_progress"
        store.end_response("r", "completed", None)
        response = self.reopened(store).assemble_response("r")
        check_response(response)
        assert (response["id"], response["status"]) == ("resp_r", "completed")
        assert text_of(response) == "Hello"

    @pytest.mark.parametrize("status", ["failed", "cancelled"])
    def test_a_response_may_end_badly_and_be_gone_on_with(self, store, status):
        store.create_response("r", REQUEST)
        store.end_response("r", status, {"type": "x", "message": "no"})
        response = self.reopened(store).assemble_response("r")
        assert (response["status"], response["error"]) == (status, {"code": "x", "message": "no"})
        self.answered(store, chat("Hello"))
        assert store.assemble_response("r")["status"] == "in_progress"
        assert store.assemble_response("r")["error"] is None

    def test_a_good_end_is_for_ever(self, store):
        store.create_response("r", REQUEST)
        self.answered(store, chat("Hello"))
        store.end_response("r", "completed", None)
        before = store.assemble_response("r")
        store.end_response("r", "cancelled", {"type": "canceled", "message": ""})
        assert store.assemble_response("r") == before

    def test_the_same_request_may_be_given_again(self, store):
        store.create_response("r", REQUEST)
        self.answered(store, chat("Hello"))
        again = self.reopened(store)
        again.create_response("r", {**REQUEST, "stream": True})
        assert len(again.list_chain("r", None)) == 1
        with pytest.raises(ConfigurationError):
            again.create_response("r", {**REQUEST, "input": "other"})

    def test_a_request_and_its_response_have_one_id_in_two_forms(self, store):
        store.create_response("resp_abc", REQUEST)
        store.create_response("abc", REQUEST)
        payload = {"name": "x", "args": {}, "call_id": "c"}
        descriptor = StepDescriptor(StepKind.TOOL_CALL, payload)
        first = store.record_step("abc", None, None, descriptor)
        second = store.record_step("resp_abc", None, first.id, descriptor)
        store.append_events("resp_abc", [event(0)])
        again = self.reopened(store)
        for id in ("abc", "resp_abc"):
            assert [step.id for step in again.list_chain(id, None)] == [first.id, second.id]
            assert list(again.events_after(id, None)) == [event(0)]
            assert again.assemble_response(id)["id"] == "resp_abc"
        assert (first.sequence, second.sequence) == (1, 2)

    def test_a_request_given_again_is_under_way_again(self, store):
        store.create_response("r", REQUEST)
        store.end_response("r", "cancelled", {"type": "canceled", "message": ""})
        store.create_response("resp_r", REQUEST)
        response = self.reopened(store).assemble_response("r")
        assert (response["status"], response["error"]) == ("in_progress", None)

    def test_a_request_given_again_after_a_good_end_has_ended(self, store):
        store.create_response("r", REQUEST)
        self.answered(store, chat("Hello"))
        store.end_response("r", "completed", None)
        before = store.assemble_response("r")
        store.create_response("r", REQUEST)
        assert self.reopened(store).assemble_response("r") == before

    def test_a_bad_request_is_not_kept(self, store):
        with pytest.raises(ConfigurationError, match=r"request\.model"):
            store.create_response("r", {"input": "hi"})
        with pytest.raises(StoreError):
            store.assemble_response("r")

    def test_a_conversation_goes_on(self, store):
        store.create_response("r", REQUEST)
        self.answered(store, chat("I am Ada."))
        store.end_response("r", "completed", None)
        again = self.reopened(store)
        more = {"model": "m", "input": "Who?", "previous_response_id": "resp_r"}
        again.create_response("s", more)
        (step,) = again.next_action_for("s", None).steps
        said = [message["content"] for message in step.request_payload["messages"]]
        assert said == ["hi", "I am Ada.", "Who?"]

    # -- events ------------------------------------------------------------------------------------

    def test_events_are_given_back_from_any_number_on(self, store):
        store.create_response("r", REQUEST)
        events = [event(n) for n in (0, 1, 5, 1_000_006)]
        store.append_events("r", events[:2])
        store.append_events("r", events[2:])
        again = self.reopened(store)
        assert list(again.events_after("r", None)) == events
        for k in (-1, 0, 1, 3, 5, 6, 1_000_006, 9_999_999):
            assert list(again.events_after("r", k)) == [e for e in events if e.sequence > k]

    def test_events_that_are_given_again_are_kept_once(self, store):
        """As by who cannot know whether they were kept: its commit was interrupted."""
        store.create_response("r", REQUEST)
        events = [event(n) for n in (0, 1, 5, 6)]
        store.append_events("r", events[:3])
        store.append_events("r", events[:3])
        store.append_events("r", events[2:])
        assert list(self.reopened(store).events_after("r", None)) == events

    def test_events_of_two_responses_do_not_mix(self, store):
        for id in ("r", "s"):
            store.create_response(id, REQUEST)
            store.append_events(id, [event(0), event(len(id))])
        assert len(store.events_after("r", None)) == 2

    def test_what_is_given_out_is_not_what_is_kept(self, store):
        store.create_response("r", REQUEST)
        store.append_events("r", [event(0)])
        store.events_after("r", None).clear()
        self.answered(store, chat("Hello"))
        store.list_chain("r", None).clear()
        store.assemble_response("r")["output"].clear()
        assert len(store.events_after("r", None)) == 1
        assert len(store.list_chain("r", None)) == 1
        assert text_of(store.assemble_response("r")) == "Hello"
