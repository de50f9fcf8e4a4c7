"""Whatever a model says, and however little of it was told as it came, is told in the end."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning_sdk._core.narrator import Narrator
from reasoning_sdk._core.turn import call_item, message_item, reasoning_item, tool_output_item
from reasoning_sdk.events import LoopEvent, LoopEventKind
from reasoning_sdk.steps import ChainStep, StepKind, StepState

Item = dict[str, Any]


class Told:
    """Everything that a narrator tells."""

    def __init__(self) -> None:
        self.events: list[LoopEvent] = []
        self.narrator = Narrator(self._tell)

    def _tell(self, kind: LoopEventKind, data: Item) -> None:
        self.events.append(LoopEvent(len(self.events), kind, data))

    @property
    def kinds(self) -> list[str]:
        return [event.kind.value.removeprefix("response.") for event in self.events]

    def of(self, kind: str) -> list[Item]:
        return [e.data for e in self.events if e.kind.value == f"response.{kind}"]

    def texts(self, kind: str) -> str:
        return "".join(data["delta"] for data in self.of(kind))


@pytest.fixture
def told() -> Told:
    return Told()


def begun(item: Item) -> Item:
    empty = {"arguments": ""} if item["type"] == "function_call" else {"content": []}
    return {**item, **empty, "status": "in_progress"}


def step(id: str = "s", state: StepState = StepState.PENDING, result: Any = None) -> ChainStep:
    payload = {"name": "add", "args": {}, "call_id": f"call_{id}"}
    error = {"type": "tool_error", "message": "no"} if state is StepState.FAILED else None
    return ChainStep(
        id, StepKind.TOOL_CALL, state, 1, None, None, payload, response_payload=result, error=error
    )


HELLO = message_item("msg_s", "Hello")
SUM = call_item("fc_s_0", "c1", "add", '{"a": 1}')


def test_a_message_is_told_in_all_its_parts(told):
    told.narrator.turn([HELLO])
    assert told.kinds == [
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
    ]
    assert told.of("output_item.added")[0]["item"] == begun(HELLO)
    assert told.of("output_item.done")[0]["item"] == HELLO


def test_what_was_told_as_it_came_is_not_told_again(told):
    told.narrator.item(begun(HELLO))
    told.narrator.text("msg_s", 0, "Hel")
    told.narrator.text("msg_s", 0, "lo")
    told.narrator.turn([HELLO])
    assert [data["delta"] for data in told.of("output_text.delta")] == ["Hel", "lo"]
    assert told.kinds.count("output_item.added") == 1


def test_what_is_missing_is_told_in_the_end(told):
    told.narrator.item(begun(HELLO))
    told.narrator.text("msg_s", 0, "Hel")
    told.narrator.turn([HELLO])
    assert [data["delta"] for data in told.of("output_text.delta")] == ["Hel", "lo"]


def test_what_was_told_and_is_not_so_is_left_at_that(told):
    told.narrator.item(begun(HELLO))
    told.narrator.text("msg_s", 0, "Bye")
    told.narrator.turn([HELLO])
    assert told.texts("output_text.delta") == "Bye"
    assert told.of("output_text.done")[0]["text"] == "Hello"


@pytest.mark.parametrize(
    ("say", "item", "event"),
    [
        ("refusal", message_item("x", "", refusal="I will not."), "refusal"),
        ("reasoning", reasoning_item("x", "I will not."), "reasoning"),
    ],
)
@pytest.mark.parametrize("early", [True, False])
def test_refusals_and_thoughts_are_told_like_texts(told, say, item, event, early):
    told.narrator.item(begun(item))
    if early:
        getattr(told.narrator, say)("x", 0, "I will")
        getattr(told.narrator, say)("x", 0, " not")
    told.narrator.turn([item])
    assert told.texts(f"{event}.delta") == "I will not."
    assert "logprobs" not in told.of(f"{event}.delta")[0]
    assert len(told.of("content_part.added")) == len(told.of("content_part.done")) == 1


def test_a_call_is_told_with_its_ids_in_every_event(told):
    told.narrator.item(begun(SUM))
    told.narrator.arguments("fc_s_0", "")
    told.narrator.arguments("fc_s_0", '{"a"')
    told.narrator.turn([SUM])
    assert told.texts("function_call_arguments.delta") == '{"a": 1}'
    for kind in ("delta", "done"):
        for data in told.of(f"function_call_arguments.{kind}"):
            assert (data["item_id"], data["call_id"], data["output_index"]) == ("fc_s_0", "c1", 0)
    (done,) = told.of("function_call_arguments.done")
    assert (done["name"], done["arguments"]) == ("add", '{"a": 1}')


def test_an_item_of_another_type_is_added_and_done(told):
    item = {"type": "web_search_call", "id": "ws", "status": "completed"}
    told.narrator.turn([item])
    assert told.kinds == ["output_item.added", "output_item.done"]


def test_a_part_of_another_type_is_told_with_its_item(told):
    item = {**message_item("m", ""), "content": [{"type": "output_audio", "data": "x"}]}
    told.narrator.turn([item])
    assert told.kinds == ["output_item.added", "output_item.done"]


def test_items_take_their_places_one_after_the_other(told):
    told.narrator.turn([HELLO, SUM])
    told.narrator.outputs([step("a"), step("b")])
    assert [data["output_index"] for data in told.of("output_item.added")] == [0, 1, 2, 3]


def test_what_was_begun_and_not_ended_is_cut_off(told):
    told.narrator.item(begun(HELLO))
    told.narrator.text("msg_s", 0, "Hel")
    told.narrator.item(begun(SUM))
    told.narrator.arguments("fc_s_0", '{"a"')
    told.narrator.item({**HELLO, "id": "empty", "content": [], "status": "in_progress"})
    told.narrator.leave()
    cut, call, empty = (data["item"] for data in told.of("output_item.done"))
    assert [item["status"] for item in (cut, call, empty)] == ["incomplete"] * 3
    assert cut["content"][0]["text"] == "Hel"
    assert call["arguments"] == '{"a"'
    assert empty["content"] == []


def test_an_item_that_is_not_of_the_turn_is_cut_off(told):
    told.narrator.item({**HELLO, "id": "other", "content": [], "status": "in_progress"})
    told.narrator.turn([HELLO])
    statuses = {d["item"]["id"]: d["item"]["status"] for d in told.of("output_item.done")}
    assert statuses == {"msg_s": "completed", "other": "incomplete"}


# -- tools ---------------------------------------------------------------------------------------


def test_the_outputs_of_tools_are_added_together_and_done_as_they_end(told):
    told.narrator.outputs([step("a"), step("b")])
    told.narrator.output(step("b", StepState.FAILED))
    told.narrator.output(step("a", StepState.COMPLETED, 3))
    done = told.of("output_item.done")
    assert [data["output_index"] for data in done] == [1, 0]
    assert [data["item"]["status"] for data in done] == ["incomplete", "completed"]
    assert done[1]["item"]["output"] == "3"


def test_an_output_that_was_not_added_is_added_when_it_ends(told):
    told.narrator.output(step("a", StepState.COMPLETED, 3))
    assert told.kinds == ["output_item.added", "output_item.done"]
    assert told.of("output_item.added")[0]["item"]["output"] == ""


# -- a chain that is partly there ----------------------------------------------------------------


def chain_items() -> list[Item]:
    return [
        HELLO,
        SUM,
        tool_output_item(step("a", StepState.COMPLETED, 3)),
        tool_output_item(step("b", StepState.PROCESSING)),
    ]


def test_of_a_chain_that_nobody_was_told_of_everything_is_told(told):
    told.narrator.catch_up(chain_items(), [])
    assert told.kinds.count("output_item.added") == 4
    assert told.kinds.count("output_item.done") == 3
    told.narrator.output(step("b", StepState.COMPLETED, 4))
    assert told.of("output_item.done")[-1]["output_index"] == 3


def test_of_a_chain_only_what_was_not_told_is_told():
    first = Told()
    first.narrator.catch_up(chain_items(), [])
    for cut in range(len(first.events) + 1):
        told = Told()
        told.narrator.catch_up(chain_items(), first.events[:cut])
        told.narrator.output(step("b", StepState.COMPLETED, 4))
        done = [
            (event.data["output_index"], event.data["item"]["id"])
            for event in [*first.events[:cut], *told.events]
            if event.kind is LoopEventKind.OUTPUT_ITEM_DONE
        ]
        assert done == list(enumerate(["msg_s", "fc_s_0", "fco_a", "fco_b"]))


@given(
    text=st.text(max_size=20),
    cuts=st.lists(st.integers(0, 20), max_size=4),
    kind=st.sampled_from(["text", "refusal", "reasoning", "arguments"]),
)
def test_deltas_add_up_to_what_is_done_however_much_was_told_as_it_came(text, cuts, kind):
    item = {
        "text": message_item("x", text),
        "refusal": message_item("x", "", refusal=text or "no"),
        "reasoning": reasoning_item("x", text or "no"),
        "arguments": call_item("x", "c", "add", text),
    }[kind]
    whole = text or ("no" if kind in ("refusal", "reasoning") else "")
    told = Told()
    for piece in pieces(whole, cuts):
        if not told.events:
            told.narrator.item(begun(item))
        say = getattr(told.narrator, kind)
        say("x", piece) if kind == "arguments" else say("x", 0, piece)
    told.narrator.turn([item])
    name = {"text": "output_text", "arguments": "function_call_arguments"}.get(kind, kind)
    field = {"refusal": "refusal", "arguments": "arguments"}.get(kind, "text")
    assert told.texts(f"{name}.delta") == whole
    assert [data[field] for data in told.of(f"{name}.done")] == [whole]
    assert told.kinds[0] == "output_item.added"
    assert told.kinds[-1] == "output_item.done"


def pieces(text: str, cuts: Sequence[int]) -> list[str]:
    """The beginning of a text in pieces; the rest is not told."""
    at = sorted({min(cut, len(text)) for cut in cuts})
    return [text[a:b] for a, b in zip([0, *at], at, strict=False) if a < b]
