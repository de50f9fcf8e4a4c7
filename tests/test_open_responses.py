"""The judge of streams lets a good one pass, and finds whatever is wrong with another."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from reasoning_sdk._core.assembly import assemble
from tests.support.open_responses import check_event, check_response, check_stream

JSON = dict[str, Any]
Stream = list[JSON]

TEXT = {"type": "output_text", "text": "Let me see", "annotations": [], "logprobs": []}
THOUGHT = {"type": "reasoning_text", "text": "hm"}
NO = {"type": "refusal", "refusal": "no"}
REASONING = {"type": "reasoning", "id": "rs", "summary": [], "content": [THOUGHT]}
MESSAGE = {
    "type": "message", "id": "msg", "role": "assistant", "status": "completed",
    "content": [TEXT, NO],
}  # fmt: skip
CALL = {
    "type": "function_call", "id": "fc", "call_id": "call", "name": "f",
    "arguments": "{}", "status": "completed",
}  # fmt: skip
OUTPUT = {
    "type": "function_call_output", "id": "fco", "call_id": "call",
    "output": "4", "status": "completed",
}  # fmt: skip
DONE = [REASONING, MESSAGE, CALL, OUTPUT]


def response(output: list[JSON], status: str = "in_progress") -> JSON:
    made = assemble(
        {"model": "m", "input": "?"}, tools=(), response_id="resp", chain=(), created_at=1,
        status=status,
    )  # fmt: skip
    return {**made, "output": output, "status": status}


def added(index: int, item: JSON, **begun: Any) -> JSON:
    item = {**item, **begun, **({"status": "in_progress"} if "status" in item else {})}
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def done(index: int) -> JSON:
    return {"type": "response.output_item.done", "output_index": index, "item": DONE[index]}


def part(at: JSON, empty: JSON, kind: str, field: str, text: str) -> Stream:
    full = {**empty, field: text}
    return [
        {"type": "response.content_part.added", **at, "part": {**empty, field: ""}},
        {"type": f"response.{kind}.delta", **at, "delta": text[:1]},
        {"type": f"response.{kind}.delta", **at, "delta": text[1:]},
        {"type": f"response.{kind}.done", **at, field: text},
        {"type": "response.content_part.done", **at, "part": full},
    ]


def numbered(events: Stream) -> Stream:
    events = json.loads(json.dumps(events))  # a copy that shares nothing, not even with itself
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def good(status: str = "completed") -> Stream:
    thinking = {"item_id": "rs", "output_index": 0, "content_index": 0}
    saying = {"item_id": "msg", "output_index": 1}
    calling = {"item_id": "fc", "output_index": 2, "call_id": "call"}
    arguments = "response.function_call_arguments"
    return numbered(
        [
            {"type": "response.created", "response": response([])},  # 0
            {"type": "response.in_progress", "response": response([])},
            added(0, REASONING, content=[]),  # 2
            *part(thinking, THOUGHT, "reasoning", "text", "hm"),
            done(0),
            added(1, MESSAGE, content=[]),  # 9
            *part({**saying, "content_index": 0}, TEXT, "output_text", "text", "Let me see"),
            *part({**saying, "content_index": 1}, NO, "refusal", "refusal", "no"),
            done(1),  # 20
            added(2, CALL, arguments=""),
            {"type": f"{arguments}.delta", **calling, "delta": "{"},  # 22
            {"type": f"{arguments}.delta", **calling, "delta": "}"},
            {"type": f"{arguments}.done", **calling, "name": "f", "arguments": "{}"},
            done(2),  # 25
            added(3, OUTPUT, output=""),
            done(3),
            {"type": f"response.{status}", "response": response(DONE, status)},  # 28
        ]
    )


def at(place: int, **fields: Any) -> Callable[[Stream], None]:
    return lambda events: events[place].update(fields)


def without(*places: int) -> Callable[[Stream], None]:
    def change(events: Stream) -> None:
        for place in sorted(places, reverse=True):
            del events[place]

    return change


def swapped(one: int, other: int) -> Callable[[Stream], None]:
    def change(events: Stream) -> None:
        events[one], events[other] = events[other], events[one]

    return change


def again(place: int, to: int | None = None) -> Callable[[Stream], None]:
    """An event a second time, before another place."""
    return lambda events: events.insert(place if to is None else to, copy.deepcopy(events[place]))


def inside(place: int, *path: Any, value: Any) -> Callable[[Stream], None]:
    def change(events: Stream) -> None:
        found: Any = events[place]
        for key in path[:-1]:
            found = found[key]
        found[path[-1]] = value

    return change


#: What is done to a good stream, and what is found then.
VIOLATIONS: dict[str, tuple[Callable[[Stream], None], str]] = {
    "no events": (lambda events: events.clear(), "no terminal event"),
    "no terminal event": (without(28), "no terminal event"),
    "two terminal events": (again(28), "after the terminal event"),
    "an event after it": (swapped(27, 28), "items were not done"),
    "no created": (without(0), "not response.created"),
    "no event of the response at first": (without(0, 1), "not response.created"),
    "created twice": (again(0), "two of it"),
    "another response": (inside(1, "response", "id", value="other"), "another response"),
    "another status": (inside(28, "response", "status", value="failed"), "status is 'failed'"),
    "an unknown type": (at(5, type="response.thinking"), "no event of the Responses API"),
    "no object": (lambda events: events.insert(1, []), "no event of the Responses API"),
    "a missing field": (lambda events: events[4].pop("delta"), "'delta' is a required property"),
    "a bad item": (inside(9, "item", "status", value="odd"), "'odd' is not one of"),
    "an item not added": (without(9), "not added: msg"),
    "an item added twice": (again(9), "id was there before"),
    "an item at another place": (at(9, output_index=2), "output_index 2, the next one is 1"),
    "an item added with its content": (
        inside(9, "item", "content", value=[TEXT]), "without its content",
    ),
    "a call added with its arguments": (
        inside(21, "item", "arguments", value="{}"), "without its arguments",
    ),
    "an item not done": (without(20), "items were not done: ['msg']"),
    "an item done twice": (again(20), "item is done: msg"),
    "done in progress": (inside(20, "item", "status", value="in_progress"), "in progress"),
    "done at another place": (at(20, output_index=2), "output_index 2, the item has 1"),
    "done as another type": (inside(27, "item", value={**CALL, "id": "fco"}), "the type was"),
    "done as another call": (inside(25, "item", "call_id", value="other"), "the call_id was"),
    "done with another name": (inside(25, "item", "name", value="g"), "the name was"),
    "a delta before its item": (swapped(21, 22), "not added: fc"),
    "a delta after its item": (again(11, 21), "item is done: msg"),
    "a delta at another place": (at(11, output_index=0), "output_index 0, the item has 1"),
    "a delta before its part": (swapped(10, 11), "part 0 was not added"),
    "a delta after its part": (again(11, 15), "part 0 is done"),
    "a delta after done": (again(11, 14), "are done"),
    "a delta of another kind": (at(16, type="response.output_text.delta"), "part 1 is a refusal"),
    "a delta lost": (without(11), "done is 'Let me see', said was 'et me see'"),
    "a delta of reasoning lost": (without(4), "done is 'hm', said was 'm'"),
    "a delta of a refusal lost": (without(16), "done is 'no', said was 'o'"),
    "a delta of arguments lost": (without(22), "done is '{}', said was '}'"),
    "a delta of arguments after done": (swapped(23, 24), "done is '{}', said was '{'"),
    "a delta of arguments twice": (again(23), "said was '{}}'"),
    "another text done": (at(13, text="Let me"), "done is 'Let me'"),
    "a text done twice": (again(13), "are done"),
    "a text not done": (without(13), "text is not done"),
    "a text and its part not done": (without(13, 14), "are not done"),
    "a part not done": (without(14), "part is not done"),
    "a part done twice": (again(14), "part 0 is done"),
    "a part done otherwise": (inside(14, "part", "text", value="Let"), "told was 'Let me see'"),
    "a part at another place": (at(10, content_index=1), "content_index 1, the next one is 0"),
    "a part added with its text": (inside(10, "part", "text", value="Let"), "with its text"),
    "a part that is not in the item": (
        inside(20, "item", "content", value=[TEXT]), "told was [{'type': 'output_text'",
    ),
    "an item with a part not told of": (without(15, 16, 17, 18, 19), "it has [{"),
    "reasoning not told of": (without(3, 4, 5, 6, 7), "it has [{"),
    "arguments not told of": (without(22, 23, 24), "it has ['{}'], told was []"),
    "arguments not done": (without(24), "are not done"),
    "other arguments in the item": (inside(25, "item", "arguments", value="{1}"), "it has ['{1}']"),
    "arguments of another call": (at(22, call_id="other"), "another call_id"),
    "arguments of a message": (
        lambda events: events.insert(10, {**events[22], "item_id": "msg", "output_index": 1}),
        "arguments of a message",
    ),
    "an output without a call": (inside(26, "item", "call_id", value="other"), "no call waits"),
    "a second output": (
        lambda events: events.insert(28, added(4, {**OUTPUT, "id": "fco2"})), "no call waits",
    ),
    "an output lacks an item": (
        inside(28, "response", "output", value=DONE[:-1]), "the output is ['rs', 'msg', 'fc']",
    ),
    "an output in another order": (
        inside(28, "response", "output", value=[MESSAGE, REASONING, CALL, OUTPUT]), "the output is",
    ),
    "an output with another item": (
        inside(28, "response", "output", value=[*DONE, {**OUTPUT, "id": "x"}]), "the output is",
    ),
    "an output that says otherwise": (
        inside(28, "response", "output", 3, "output", value="5"), "the output has",
    ),
}  # fmt: skip


@pytest.mark.parametrize("status", ["completed", "incomplete", "failed"])
def test_a_good_stream_passes(status: str) -> None:
    check_stream(good(status))


def test_a_good_stream_may_have_gaps_in_its_numbers_and_begin_anywhere() -> None:
    check_stream({**event, "sequence_number": 7 + 2 * n} for n, event in enumerate(good()))


@pytest.mark.parametrize("name", VIOLATIONS)
def test_the_judge_finds(name: str) -> None:
    change, found = VIOLATIONS[name]
    events = good()
    change(events)
    for number, event in enumerate(events):
        if isinstance(event, dict):
            event["sequence_number"] = number
    with pytest.raises(AssertionError) as caught:
        check_stream(events)
    assert found in str(caught.value)


@pytest.mark.parametrize("number", [4, 3, -1])
def test_the_judge_finds_numbers_that_do_not_rise(number: int) -> None:
    events = good()
    events[5]["sequence_number"] = number
    with pytest.raises(AssertionError, match=f"event 5, .*: sequence number {number} after 4"):
        check_stream(events)


def test_side_by_side_items_may_overlap_and_outputs_come_in_any_order() -> None:
    calls = [{**CALL, "id": f"fc{n}", "call_id": f"call{n}"} for n in range(2)]
    outputs = [{**OUTPUT, "id": f"fco{n}", "call_id": f"call{n}"} for n in range(2)]
    items = [*calls, *outputs]

    def ended(n: int) -> JSON:
        return {"type": "response.output_item.done", "output_index": n, "item": items[n]}

    def said(n: int) -> Stream:
        where = {"item_id": f"fc{n}", "output_index": n}
        name = "response.function_call_arguments"
        return [
            {"type": f"{name}.delta", **where, "delta": "{}"},
            {"type": f"{name}.done", **where, "name": "f", "arguments": "{}"},
        ]

    check_stream(
        numbered(
            [
                {"type": "response.created", "response": response([])},
                *(added(n, call, arguments="") for n, call in enumerate(calls)),
                *said(1),
                *said(0),
                ended(0),
                ended(1),
                *(added(n, output, output="") for n, output in enumerate(outputs, 2)),
                ended(3),
                ended(2),
                {"type": "response.completed", "response": response(items, "completed")},
            ]
        )
    )


@pytest.mark.parametrize("in_output", [False, True])
def test_a_failed_response_may_leave_items_open(in_output: bool) -> None:
    events = good("failed")
    del events[27]
    running = events[26]["item"]
    events[-1]["response"]["output"] = [*DONE[:-1], *([running] if in_output else [])]
    check_stream(events)


def test_a_failed_response_may_miss_what_was_cut_off_and_nothing_else() -> None:
    events = good("failed")
    events[-1]["response"]["output"] = DONE[:1]
    with pytest.raises(AssertionError, match="the output is"):
        check_stream(events)
    for place in (20, 25, 27):
        events[place]["item"]["status"] = "incomplete"
    check_stream(events)


def test_a_response_that_does_not_fit_says_where() -> None:
    check_response(response([]))
    with pytest.raises(AssertionError, match=r"ResponseResource: \$.temperature: 'hot' is not"):
        check_response({**response([]), "temperature": "hot"})
    with pytest.raises(AssertionError, match=r"\$.output\[0\].*'odd' is not one of"):
        check_response(response([{**MESSAGE, "status": "odd"}]))
    with pytest.raises(AssertionError, match=r"\$: 'model' is a required property"):
        check_response({k: v for k, v in response([]).items() if k != "model"})


def test_an_event_is_held_against_the_schema_of_its_type() -> None:
    for event in good():
        check_event(event)
    with pytest.raises(AssertionError, match="type None"):
        check_event({})
