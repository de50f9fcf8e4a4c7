"""A streamed model call gives the body of the unstreamed one, and tells what its turn has."""

import copy
import itertools
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning_sdk._core.chat import ChatBody, ResponsesBody
from reasoning_sdk._core.turn import turn_of
from reasoning_sdk.errors import ResponseFailedError
from tests.support import recordings
from tests.support.recordings import DIALECTS, JSON, Events

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


class Heard:
    """A listener that keeps what it was told."""

    def __init__(self) -> None:
        self.items: dict[str, JSON] = {}
        self.parts: dict[tuple[str, str, int], str] = {}
        self.deltas: list[str] = []

    def item(self, item: JSON) -> None:
        assert item["id"] not in self.items
        assert item["status"] == "in_progress"
        assert not item.get("content")
        assert not item.get("arguments")
        self.items[item["id"]] = item

    def text(self, item_id: str, content_index: int, delta: str) -> None:
        self._add((item_id, "output_text", content_index), delta)

    def refusal(self, item_id: str, content_index: int, delta: str) -> None:
        self._add((item_id, "refusal", content_index), delta)

    def reasoning(self, item_id: str, content_index: int, delta: str) -> None:
        self._add((item_id, "reasoning_text", content_index), delta)

    def arguments(self, item_id: str, delta: str) -> None:
        self._add((item_id, "arguments", 0), delta)

    def _add(self, key: tuple[str, str, int], delta: str) -> None:
        assert delta
        assert key[0] in self.items
        self.deltas.append(delta)
        self.parts[key] = self.parts.get(key, "") + delta


def said(items: list[JSON]) -> dict[tuple[str, str, int], str]:
    """What items say, as a listener should have heard it."""
    parts = {}
    for item in items:
        parts[item["id"], "arguments", 0] = item.get("arguments", "")
        for index, part in enumerate(item.get("content") or []):
            parts[item["id"], part["type"], index] = part.get("text") or part.get("refusal", "")
    return {key: text for key, text in parts.items() if text}


def check(heard: Heard, items: list[JSON]) -> None:
    """That all of the items that says anything was told, by the same ids."""
    assert heard.parts == said(items)
    by_id = {item["id"]: item for item in items}
    for id, item in heard.items.items():
        for key in ("type", "call_id", "name", "role"):
            assert item.get(key) == by_id[id].get(key)


# -- chat completions ------------------------------------------------------------------------------


def chunk(delta: Any = None, finish_reason: str | None = None, **fields: Any) -> JSON:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish_reason}
    return {"id": "c1", "object": "chat.completion.chunk", "choices": [choice], **fields}


def calls(*pieces: JSON) -> JSON:
    return chunk({"tool_calls": list(pieces)})


def piece(
    index: int | None = None, id: str | None = None, name: str | None = None, arguments: Any = None
) -> JSON:
    function = {"name": name, "arguments": arguments}
    given = {"index": index, "id": id}
    return {
        **{key: value for key, value in given.items() if value is not None},
        "function": {key: value for key, value in function.items() if value is not None},
    }


def heard_of(chunks: list[Any], kind: str = "") -> tuple[ChatBody, Heard]:
    heard = Heard()
    body = ChatBody("s1", heard)
    before = copy.deepcopy(chunks)
    for data in chunks:
        body.feed(data, kind)
    assert chunks == before
    return body, heard


def message_of(chunks: list[Any]) -> JSON:
    """The message that comes of chunks, told as it is in the end."""
    body, heard = heard_of(chunks)
    check(heard, turn_of(body.body, "s1").items)
    message: JSON = body.body["choices"][0]["message"]
    return message


def call(id: str | None, name: str, arguments: str, **fields: Any) -> JSON:
    begin = {} if id is None else {"id": id}
    function = {"name": name, "arguments": arguments}
    return {**begin, "type": "function", "function": function, **fields}


def thinking(text: str) -> JSON:
    return {"type": "thinking", "thinking": [{"type": "text", "text": text}]}


STOP = chunk(finish_reason="stop")
A, B = call("a", "add", '{"x":1}'), call("b", "mul", '{"y":2}')
HI = {"role": "assistant", "content": "Hello"}

# What a server sends before it stops, and the message of it.
CHAT: dict[str, tuple[list[Any], JSON]] = {
    "OpenAI, text": (
        [
            chunk({"role": "assistant", "content": "", "refusal": None}),
            chunk({"content": "Hel"}),
            chunk({"content": "lo"}),
        ],
        HI,
    ),
    "OpenAI, calls": (
        [
            chunk({"role": "assistant", "content": None}),
            calls({**piece(0, "a", "add", ""), "type": "function"}),
            calls(piece(0, arguments='{"x"')),
            calls(piece(0, arguments=":1}")),
            calls({**piece(1, "b", "mul", ""), "type": "function"}),
            calls(piece(1, arguments='{"y":2}')),
        ],
        {"role": "assistant", "content": None, "tool_calls": [A, B]},
    ),
    "OpenAI, refusal": (
        [chunk({"content": None, "refusal": text}) for text in ("", "No", ".")],
        {"role": "assistant", "content": None, "refusal": "No."},
    ),
    "a refusal after a text": (
        [chunk({"content": "Hello"}), chunk({"refusal": "No."})],
        {**HI, "refusal": "No."},
    ),
    "vLLM, thoughts": (
        [
            chunk({"role": "assistant", "content": ""}),
            chunk({"reasoning_content": "Hm", "content": None}),
            chunk({"reasoning_content": "m."}),
            chunk({"content": "Hello", "reasoning_content": None}),
        ],
        {**HI, "reasoning_content": "Hmm."},
    ),
    "vLLM, another id for each piece": (
        [
            calls(piece(0, "a", "add")),
            calls(piece(0, "x1", arguments='{"x"')),
            calls(piece(0, "x2", arguments=":1}")),
        ],
        {"role": "assistant", "content": None, "tool_calls": [A]},
    ),
    "thoughts under both names": (
        [chunk({"reasoning": t, "reasoning_content": t}) for t in ("Hm", "m.")]
        + [chunk({"content": "Hello"})],
        {**HI, "reasoning": "Hmm."},
    ),
    "OpenRouter": (
        [
            chunk({"role": "assistant", "content": "", "reasoning": "Hmm.",
                   "reasoning_details": [{"type": "reasoning.text", "text": "Hmm."}]}),
            chunk({"role": "", "content": "Hello", "reasoning_details": [{"type": "signed"}]}),
        ],
        {**HI, "reasoning": "Hmm.", "reasoning_details": [
            {"type": "reasoning.text", "text": "Hmm."}, {"type": "signed"}]},
    ),
    "llama.cpp, id and name again": (
        [
            calls(piece(0, "a", "add", '{"x"')),
            calls(piece(0, "a", "add", ":1}")),
            calls(piece(1, "b", "mul", '{"y":2}')),
        ],
        {"role": "assistant", "content": None, "tool_calls": [A, B]},
    ),
    "name again, no ids": (
        [
            calls(piece(0, name="add", arguments='{"x"')),
            calls(piece(0, name="add", arguments=":1}")),
            calls(piece(0, name="add", arguments="\n")),
        ],
        {"role": "assistant", "content": None, "tool_calls": [call(None, "add", '{"x":1}\n')]},
    ),
    "name again, no ids, objects in objects": (
        [calls(piece(0, name="add", arguments=text)) for text in ('{"x":', '{"y":1}', "}")],
        {"role": "assistant", "content": None, "tool_calls": [call(None, "add", '{"x":{"y":1}}')]},
    ),
    "Ollama, neither index nor ids": (
        [
            calls(piece(name="add", arguments={"x": 1}), piece(name="mul", arguments={"y": 2})),
            calls(piece(name="nop", arguments={})),
        ],
        {"role": "assistant", "content": None, "tool_calls": [
            call(None, "add", '{"x": 1}'), call(None, "mul", '{"y": 2}'), call(None, "nop", "{}")]},
    ),
    "Ollama, index 0 for all": (
        [calls(piece(0, "a", "add", '{"x":1}')), calls(piece(0, "b", "mul", '{"y":2}'))],
        {"role": "assistant", "content": None, "tool_calls": [A, B]},
    ),
    "Gemini, index 0 for all and empty ids": (
        [
            calls(
                piece(0, "", "add", '{"x":1}'), {**piece(0, "", "mul", '{"y":2}'),
                "extra_content": {"google": {"thought_signature": "sig"}}},
            )
        ],
        {"role": "assistant", "content": None, "tool_calls": [
            call(None, "add", '{"x":1}'),
            call(None, "mul", '{"y":2}', extra_content={"google": {"thought_signature": "sig"}})]},
    ),
    "no index": (
        [
            calls(piece(None, "a", "add"), piece(None, "b", "mul", "")),
            calls(piece(None, "a", "add", '{"x":1}')),
            calls(piece(None, None, None, '{"y":2}')),
        ],
        {"role": "assistant", "content": None, "tool_calls": [A, B]},
    ),
    "the same id for all": (
        [calls(piece(1, "a", "add", '{"x":1}')), calls(piece(2, "a", "mul", '{"y":2}'))],
        {"role": "assistant", "content": None, "tool_calls": [A, call(None, "mul", '{"y":2}')]},
    ),
    "the id last": (
        [calls(piece(0, None, "add", '{"x":1}')), calls(piece(0, "late"))],
        {"role": "assistant", "content": None, "tool_calls": [call(None, "add", '{"x":1}')]},
    ),
    "the name last": (
        [calls(piece(0, "a", None, '{"x"')), calls(piece(0, None, "add")),
         calls(piece(0, arguments=":1}"))],
        {"role": "assistant", "content": None, "tool_calls": [A]},
    ),
    "a name alone": (
        [calls(piece(0, None, "nop"))],
        {"role": "assistant", "content": None, "tool_calls": [call(None, "nop", "")]},
    ),
    "fields of a call's function": (
        [calls({"index": 0, "id": "a", "type": None, "function": {
            "name": "add", "arguments": '{"x":1}', "strict": True}})],
        {"role": "assistant", "content": None, "tool_calls": [
            {**A, "function": {**A["function"], "strict": True}}]},
    ),
    "Mistral, parts": (
        [
            chunk({"role": "assistant", "content": ""}),
            chunk({"content": [thinking("Hm")]}),
            chunk({"content": [thinking("m")]}),
            chunk({"content": [{"type": "text", "text": "He"}]}),
            chunk({"content": "l"}),
            chunk({"content": "lo"}),
            chunk({"content": [{"type": "reference", "reference_ids": [1]}]}),
            chunk({"content": [{"type": "reference", "reference_ids": [2]}, "no part"]}),
        ],
        {"role": "assistant", "content": [
            thinking("Hmm"),
            {"type": "text", "text": "Hello"},
            {"type": "reference", "reference_ids": [1]},
            {"type": "reference", "reference_ids": [2]},
        ]},
    ),
    "a message in place of the delta": (
        [{"choices": [{"message": {**HI, "tool_calls": [A, B]}, "delta": None}]}],
        {**HI, "tool_calls": [A, B]},
    ),
    "Perplexity, a message beside the delta": (
        [{"choices": [{"index": 0, "delta": {"content": text}, "message": {"content": whole}}]}
         for text, whole in (("Hel", "Hel"), ("lo", "Hello"))],
        HI,
    ),
    "annotations": (
        [chunk({"content": "Hello", "annotations": [1]}), chunk({"annotations": [2]})],
        {**HI, "annotations": [1, 2]},
    ),
    "nothing": ([chunk({"content": ""}), chunk({"role": "assistant"})], {**HI, "content": ""}),
    "no content": ([chunk({})], {**HI, "content": ""}),
    "what nobody can read": (
        ["text", None, 7, [], {}, {"choices": None}, {"choices": {"index": 0}}, {"choices": [1]},
         {"choices": [{"delta": "x"}]}, chunk({"content": 7, "refusal": 7, "reasoning": 7}),
         chunk({"tool_calls": {"index": 0}}), chunk({"tool_calls": [None]}),
         chunk({"content": "Hello"})],
        HI,
    ),
}  # fmt: skip


@pytest.mark.parametrize("dialect", CHAT)
def test_chunks_give_the_message_of_the_unstreamed_call(dialect):
    chunks, message = CHAT[dialect]
    assert message_of([*chunks, STOP]) == message


def test_a_custom_call_is_kept_and_not_told():
    custom = {"id": "a", "type": "custom", "custom": {"name": "sh", "input": "ls"}}
    body, heard = heard_of([calls({"index": 0, **custom}), STOP])
    assert body.body["choices"][0]["message"]["tool_calls"] == [custom]
    assert heard.items == {}


def test_a_call_whose_function_is_no_object_has_no_name():
    body, heard = heard_of([calls({"index": 0, "id": "a", "function": "add"}), STOP])
    assert body.body["choices"][0]["message"]["tool_calls"] == [call("a", "", "")]
    assert heard.items == {}


def test_a_refusal_before_a_text_is_the_first_part():
    _, heard = heard_of([chunk({"refusal": "No."}), chunk({"content": "But"})])
    assert heard.parts == {("msg_s1", "refusal", 0): "No.", ("msg_s1", "output_text", 1): "But"}


def test_everything_is_told_at_once():
    body, heard = ChatBody("s1", listener := Heard()), listener
    body.feed(calls(piece(0, "a", "add")))
    assert list(heard.items) == ["fc_s1_0"]
    for delta in ("a", "b"):
        body.feed(chunk({"content": delta}))
        assert heard.deltas[-1] == delta
        body.feed(calls(piece(0, arguments=delta * 2)))
        assert heard.deltas[-1] == delta * 2


def test_without_a_listener_the_body_is_the_same():
    chunks = [*CHAT["OpenAI, calls"][0], *CHAT["OpenRouter"][0], STOP]
    alone = ChatBody("s1")
    for data in chunks:
        alone.feed(data)
    assert alone.body == heard_of(chunks)[0].body


def test_the_fields_of_chunks_are_those_of_the_body():
    first = {"id": "", "model": "", "created": 0, "prompt_filter_results": [1]}
    real = {"id": "c1", "model": "m", "created": 5, "system_fingerprint": "fp", "usage": None}
    real |= {"service_tier": "default", "obfuscation": "x", "object": "chat.completion.chunk"}
    last = {"id": "c1", "choices": [], "usage": USAGE, "citations": ["u"], "service_tier": None}
    body, _ = heard_of([first | {"choices": []}, chunk({"content": "Hi"}, **real), STOP, last])
    assert body.body == {
        "id": "c1",
        "object": "chat.completion",
        "created": 5,
        "model": "m",
        "prompt_filter_results": [1],
        "system_fingerprint": "fp",
        "service_tier": "default",
        "citations": ["u"],
        "usage": USAGE,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi"},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
    }


@pytest.mark.parametrize(
    "last",
    [
        {"choices": [], "usage": USAGE},
        {"choices": [], "x_groq": {"id": "r", "usage": USAGE}},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": USAGE}]},
    ],
    ids=["OpenAI", "Groq", "Moonshot"],
)
def test_the_usage_is_found_where_a_server_has_it(last):
    body, _ = heard_of([chunk({"content": "Hi"}, usage=None), STOP, last])
    assert body.body["usage"] == USAGE


def test_without_a_usage_there_is_none():
    assert heard_of([STOP])[0].body["usage"] is None


def test_logprobs_are_joined():
    texts = [chunk({"content": text}) for text in ("Hel", "lo")]
    for data, number in zip(texts, (1, 2), strict=True):
        data["choices"][0]["logprobs"] = {"content": [{"logprob": number}], "refusal": None}
    body, _ = heard_of([*texts, STOP])
    expected = {"content": [{"logprob": 1}, {"logprob": 2}]}
    assert body.body["choices"][0]["logprobs"] == expected


def test_a_field_may_change_its_type():
    body, _ = heard_of([chunk({"x": "text"}), chunk({"x": [1]}), chunk({"x": {"a": 1}}), STOP])
    assert body.body["choices"][0]["message"]["x"] == {"a": 1}


def test_only_the_first_of_several_choices_is_told():
    def choice(index: int, text: str) -> JSON:
        return {"choices": [{"index": index, "delta": {"content": text}}]}

    body, heard = heard_of([choice(1, "one"), choice(0, "ze"), choice(1, "!"), choice(0, "ro")])
    choices = body.body["choices"]
    assert [(c["index"], c["message"]["content"]) for c in choices] == [(0, "zero"), (1, "one!")]
    assert heard.parts == {("msg_s1", "output_text", 0): "zero"}


def test_it_is_finished_when_the_first_choice_has_a_reason():
    body = ChatBody("s1")
    for data in (chunk({"content": "Hi"}), chunk({}, ""), {"choices": []}):
        body.feed(data)
        assert not body.finished
    body.feed({"choices": [{"index": 1, "delta": {}, "finish_reason": "stop"}]})
    assert not body.finished
    body.feed(chunk({}, "length"))
    assert body.finished
    assert turn_of(body.body, "s1").incomplete == "max_output_tokens"


@pytest.mark.parametrize(
    ("chunks", "reason"),
    [
        ([chunk({"content": "Hi"})], "stop"),
        ([chunk({})], "stop"),
        ([calls(piece(0, "a", "add", "{}"))], "tool_calls"),
        ([chunk({"content": "Hi"}, "length")], "length"),
    ],
)
def test_the_end_of_the_stream_is_the_reason_where_none_was_told(chunks, reason):
    body, _ = heard_of(chunks)
    body.end()
    assert body.finished
    assert body.body["choices"][0]["finish_reason"] == reason


@pytest.mark.parametrize("chunks", [[], [{"choices": []}], [{"usage": USAGE}]])
def test_the_end_of_a_stream_without_a_choice_is_none(chunks):
    body, _ = heard_of(chunks)
    body.end()
    assert not body.finished


def test_a_call_that_is_only_a_name_is_told_when_the_stream_ends():
    body, heard = heard_of([calls(piece(0, None, "nop"))])
    assert heard.items == {}
    body.end()
    check(heard, turn_of(body.body, "s1").items)
    assert list(heard.items) == ["fc_s1_0"]


def test_a_legacy_call_is_kept_in_the_message():
    chunks = [chunk({"function_call": {"name": "add", "arguments": "{}"}}), chunk({}, "x")]
    message = heard_of(chunks)[0].body["choices"][0]["message"]
    assert message["function_call"] == {"name": "add", "arguments": "{}"}


@pytest.mark.parametrize(
    ("data", "kind", "error"),
    [
        (
            {"error": {"code": 503, "message": "busy", "type": "overloaded"}},
            "",
            {"code": "503", "message": "busy", "type": "overloaded"},
        ),
        ({"error": {"message": None}}, "", {"code": None, "message": "", "type": None}),
        ({"error": "busy"}, "", {"code": None, "message": "busy", "type": None}),
        ({"message": "busy"}, "error", {"code": None, "message": "busy", "type": None}),
        (
            {"object": "error", "message": "busy", "type": "BadRequestError", "code": 400},
            "",
            {"code": "400", "message": "busy", "type": "BadRequestError"},
        ),
    ],
    ids=["object", "empty", "text", "event", "vLLM"],
)
def test_an_error_in_the_stream_is_told(data, kind, error):
    body, _ = heard_of([data, {"error": "another"}], kind)
    assert body.error == error


@pytest.mark.parametrize("data", [STOP, {"error": None}, {"error": {}}])
def test_no_error_is_none(data):
    assert heard_of([data])[0].error is None


TEXTS = st.text(max_size=12)
KINDS = st.sampled_from(["content", "reasoning_content", "refusal", "0", "1", "2"])
SAYINGS = st.lists(st.tuples(KINDS, TEXTS), max_size=10)


def cut(text: str, draw: st.DataObject) -> list[str]:
    bounds = sorted(draw.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[a:b] for a, b in itertools.pairwise([0, *bounds, len(text)])]


def delta_of(kind: str, text: str) -> JSON:
    return {"tool_calls": [piece(int(kind), None, None, text)]} if kind.isdigit() else {kind: text}


@given(SAYINGS, st.data(), st.booleans())
def test_any_cut_of_the_deltas_gives_the_same_body_and_turn(sayings, data, named):
    names = [calls(piece(n, f"c{n}" if named else None, f"f{n}", "")) for n in range(3)]
    whole = [*names, *(chunk(delta_of(*saying)) for saying in sayings), STOP]
    pieces = [chunk(delta_of(k, part)) for k, text in sayings for part in cut(text, data)]
    expected, heard_whole = heard_of(whole)
    body, heard = heard_of([*names, *pieces, STOP])
    assert body.body == expected.body
    assert heard.parts == heard_whole.parts
    turn = turn_of(body.body, "s1")
    if heard.parts.get(("msg_s1", "refusal", 0)) is None:  # before a text it is told as the first
        check(heard, turn.items)
    assert {item["id"] for item in turn.calls} == {"fc_s1_0", "fc_s1_1", "fc_s1_2"}


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
)
NAMES = st.none() | st.sampled_from(["", "a", "b", 1, {}])
PIECES = st.fixed_dictionaries(
    {},
    optional={
        "index": st.none() | st.integers(0, 2),
        "id": NAMES,
        "function": st.fixed_dictionaries(
            {}, optional={"name": NAMES, "arguments": st.text('{}"a1', max_size=4) | JSON_VALUES}
        ),
    },
)
DELTAS = st.fixed_dictionaries(
    {},
    optional={
        "content": TEXTS | JSON_VALUES,
        "reasoning": TEXTS | JSON_VALUES,
        "reasoning_content": TEXTS | JSON_VALUES,
        "tool_calls": st.lists(PIECES, max_size=3) | JSON_VALUES,
        "x": JSON_VALUES,
    },
)


@given(st.lists(DELTAS.map(chunk) | JSON_VALUES, max_size=8))
def test_whatever_comes_is_told_as_the_turn_has_it(chunks):
    body, heard = heard_of([*chunks, STOP])
    items = turn_of(body.body, "s1").items
    nameless = {item["id"] for item in items if item.get("name") == ""}  # is told by none
    check(heard, [item for item in items if item["id"] not in nameless])
    json.dumps(body.body)


# -- responses -------------------------------------------------------------------------------------

CALLS = (
    recordings.function_call(),
    recordings.function_call("add", {"a": 1}, call_id="call_2", item_id="fc_2"),
)
RESPONSES: dict[str, Events] = {
    "text": recordings.text_response("Grüße aus 東京 🌸", deltas=5),
    "no text": recordings.text_response(""),
    "two messages": recordings.response(
        [recordings.message("Hello, "), recordings.message("world!", item_id="msg_2")]
    ),
    "calls": recordings.function_call_response(*CALLS, text="Let me look."),
    "reasoning text": recordings.reasoning_response(kind="text"),
    "reasoning, open": recordings.reasoning_response(kind="open"),
    "reasoning, summary": recordings.reasoning_response(),
    "refusal": recordings.response([recordings.refusal()]),
    "nothing": recordings.response([]),
    "incomplete": recordings.incomplete_response(),
}


def heard_of_events(events: list[Any]) -> tuple[ResponsesBody, Heard]:
    heard = Heard()
    body = ResponsesBody("s1", heard)
    before = copy.deepcopy(events)
    for data in events:
        body.feed(data)
    assert events == before
    return body, heard


def checked(events: list[Any]) -> tuple[list[JSON], Heard]:
    body, heard = heard_of_events(events)
    assert body.finished
    assert body.error is None
    items = turn_of(body.body, "s1").items
    check(heard, items)
    return items, heard


def with_repeated_ids(events: Events) -> Events:
    """Every item and every call has the same id."""
    text = json.dumps(events)
    for one, other in (("msg_2", "msg_1"), ("fc_2", "fc_1"), ("call_2", "call_1")):
        text = text.replace(f'"{one}"', f'"{other}"')
    repeated: Events = json.loads(text)
    return repeated


def with_other_ids(events: Events) -> Events:
    """The deltas know the items by ids of their own."""
    events = copy.deepcopy(events)
    for event in events:
        if "item_id" in event:
            event["item_id"] += "_delta"
    return events


def without_output(events: Events) -> Events:
    """The last event leaves the output out."""
    events = copy.deepcopy(events)
    events[-1]["response"]["output"] = None
    return events


def without(*types: str):
    return lambda events: [event for event in events if event["type"] not in types]


ALL = {
    **DIALECTS,
    "repeated ids": with_repeated_ids,
    "other ids": with_other_ids,
    "other ids, no indexes": lambda e: recordings.without_indexes(with_other_ids(e)),
    "output left out": without_output,
    "never added": without("response.output_item.added"),
    "never added, no indexes": lambda e: recordings.without_indexes(
        without("response.output_item.added")(e)
    ),
    "never done": without("response.output_item.done"),
}


@pytest.mark.parametrize("dialect", ALL)
@pytest.mark.parametrize("name", RESPONSES)
def test_events_give_the_response_and_are_told_by_its_ids(name, dialect):
    events = ALL[dialect](RESPONSES[name])
    body, _ = heard_of_events(events)
    items, heard = checked(events)
    end = events[-1]["response"]
    assert body.body == end | {"output": end["output"] or recordings.items_of(events)}
    assert list(heard.items) == [item["id"] for item in items]


@pytest.mark.parametrize("name", RESPONSES)
def test_events_without_a_type_are_those_of_the_stream(name):
    body = ResponsesBody("s1")
    for data in RESPONSES[name]:
        body.feed({key: value for key, value in data.items() if key != "type"}, data["type"])
    assert body.body == RESPONSES[name][-1]["response"]


def added(item: JSON, index: int | None = None) -> JSON:
    return {"type": "response.output_item.added", "item": item, "output_index": index}


def done(item: JSON, index: int | None = None) -> JSON:
    return {"type": "response.output_item.done", "item": item, "output_index": index}


def text(delta: Any, **where: Any) -> JSON:
    return {"type": "response.output_text.delta", "delta": delta, **where}


def arguments(delta: str, **where: Any) -> JSON:
    return {"type": "response.function_call_arguments.delta", "delta": delta, **where}


def message(text: str, **fields: Any) -> JSON:
    return {"type": "message", "content": [{"type": "output_text", "text": text}], **fields}


def ended(*output: JSON) -> JSON:
    return {"type": "response.completed", "response": {"output": list(output) or None}}


FUNCTION = {"type": "function_call", "name": "add", "call_id": "c1", "arguments": "{}"}


def test_items_finished_out_of_order_stand_in_their_places():
    first, second = message("a", id="m1"), message("b", id="m2")
    events = [
        *(added(first | {"content": []}, 0), added(second | {"content": []}, 1)),
        *(text("b", output_index=1), text("a", output_index=0)),
        *(done(second, 1), done(first, 0)),
    ]
    items, heard = checked([*events, ended()])
    assert [item["content"][0]["text"] for item in items] == ["a", "b"]
    assert heard.parts["msg_s1_1", "output_text", 0] == "b"
    items, _ = checked([*events, ended(first, second)])
    assert [item["content"][0]["text"] for item in items] == ["a", "b"]


def test_the_arguments_of_a_call_are_held_until_its_name_is_known():
    body, heard = ResponsesBody("s1", listener := Heard()), listener
    body.feed(arguments("{", item_id="f1"))
    body.feed(arguments("}", item_id="f1"))
    assert heard.items == {}
    body.feed(added({**FUNCTION, "id": "f1", "arguments": ""}))
    assert heard.items["fc_s1_0"]["name"] == "add"
    assert heard.deltas == ["{}"]
    body.feed(done({**FUNCTION, "id": "f1"}))
    body.feed(ended())
    check(heard, turn_of(body.body, "s1").items)


def test_a_call_without_an_id_is_told_when_it_is_done():
    call = {**FUNCTION, "call_id": None}
    body, heard = ResponsesBody("s1", listener := Heard()), listener
    body.feed(added(call))
    body.feed(arguments("{}"))
    assert heard.items == {}
    body.feed(done(call))
    body.feed(ended(call))
    assert heard.items["fc_s1_0"]["call_id"] == "call_s1_0"
    check(heard, turn_of(body.body, "s1").items)


def test_a_call_without_a_name_is_not_told():
    call = {**FUNCTION, "name": ""}
    _, heard = heard_of_events([added(call), arguments("{}"), done(call), ended(call)])
    assert heard.items == {}


def test_an_item_of_another_type_is_told_as_it_is():
    search = {"type": "web_search_call", "id": "ws", "status": "in_progress", "action": {}}
    finished = {**search, "status": "completed"}
    _, heard = checked([added(search, 0), done(finished, 0), ended(finished)])
    assert heard.items == {"item_s1_0": {**search, "id": "item_s1_0"}}


def test_deltas_that_name_no_item_are_of_the_last_one():
    _, heard = checked([text("a"), text("b"), ended(message("ab"))])
    assert heard.parts == {("msg_s1_0", "output_text", 0): "ab"}


def test_a_delta_of_another_kind_begins_another_item():
    thought = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm"}]}
    thinks = {"type": "response.reasoning.delta", "delta": "Hm"}
    items, _ = checked([thinks, text("Hello"), ended(thought, message("Hello"))])
    assert [item["id"] for item in items] == ["rs_s1_0", "msg_s1_1"]


@pytest.mark.parametrize("data", [text(None), text(""), text(7), {"type": 7}, {}, None, "x", []])
def test_what_says_nothing_is_skipped(data):
    body, heard = heard_of_events([data])
    assert heard.items == {}
    assert (body.finished, body.error, body.body) == (False, None, {"output": []})


def test_an_item_that_is_no_object_is_skipped():
    body, heard = heard_of_events([{**added({}), "item": None}, {**done({}), "item": "x"}])
    assert (heard.items, body.body) == ({}, {"output": []})


@pytest.mark.parametrize(
    "events",
    [
        recordings.failed_response(),
        recordings.errored_response(),
        recordings.errored_response(nested=True),
        recordings.errored_response(nested=True, typed=False),
        [{"type": "response.completed", "response": {"status": "failed", "error": {
            "code": "server_error", "message": "m"}}}],
        [{"type": "response.cancelled", "response": {"status": "cancelled"}}],
    ],
    ids=["failed", "error", "nested", "untyped", "failed though completed", "cancelled"],
)  # fmt: skip
def test_a_response_that_failed_has_an_error(events):
    body, _ = heard_of_events(events)
    assert body.finished
    assert isinstance(body.error, ResponseFailedError)


def test_an_incomplete_response_has_no_error():
    body, _ = heard_of_events(RESPONSES["incomplete"])
    assert (body.finished, body.error) == (True, None)
    assert turn_of(body.body, "s1").incomplete == "max_output_tokens"


@given(SAYINGS.filter(bool), st.data())
def test_any_cut_of_the_events_gives_the_same_response_and_turn(sayings, data):
    """Every saying is an item; what is said is cut anywhere."""
    makers = {
        "content": recordings.message,
        "reasoning_content": lambda text, item_id: recordings.reasoning(
            text, kind="text", item_id=item_id
        ),
        "refusal": recordings.refusal,
    }
    items = [
        makers[kind](text or "…", item_id=f"i{n}")
        if kind in makers
        else recordings.function_call("f", text, call_id=f"c{n}", item_id=f"i{n}")
        for n, (kind, text) in enumerate(sayings)
    ]
    events = recordings.response(items)
    pieces = [
        {**event, "delta": part} if "delta" in event else event
        for event in events
        for part in (cut(event["delta"], data) if "delta" in event else [""])
    ]
    dialect = data.draw(st.sampled_from(sorted(set(ALL) - {"never added, no indexes"})))
    told, heard = checked(ALL[dialect](pieces))
    expected, heard_whole = checked(ALL[dialect](events))
    assert (told, heard.parts) == (expected, heard_whole.parts)


# -- halves of characters --------------------------------------------------------------------------

HIGH, LOW, LONE = "\ud83d", "\ude00", "\ufffd"


@pytest.mark.parametrize("kind", ["content", "refusal", "reasoning", "0"])
@pytest.mark.parametrize(
    ("deltas", "told"),
    [
        (["a" + HIGH, LOW + "b"], ["a", "😀b"]),
        ([HIGH, LOW], ["😀"]),
        ([HIGH, "b"], [LONE + "b"]),
        ([LOW, HIGH, HIGH, LOW], [LONE, LONE, "😀"]),
        (["東", "京"], ["東", "京"]),
    ],
)
def test_a_character_in_two_deltas_is_told_as_one(kind, deltas, told):
    heard = Heard()
    body = ChatBody("s1", heard)
    body.feed(calls(piece(0, "a", "add")))
    for delta in deltas:
        body.feed(chunk(delta_of(kind, delta)), halved=True)
    body.feed(STOP)
    assert heard.deltas == told
    check(heard, turn_of(body.body, "s1").items)


def test_halves_in_any_field_of_chunks_are_mended():
    heard = Heard()
    body = ChatBody("s1", heard)
    body.feed(calls(piece(0, "a" + LOW, "add" + HIGH, "{")), halved=True)
    body.feed(chunk({HIGH: [LOW]}, id="c" + HIGH), halved=True)
    body.feed(chunk({"content": "a" + HIGH}), halved=True)
    body.feed(STOP)  # nothing of the kind is in it
    assert "\\ud" not in json.dumps(body.body)
    message = body.body["choices"][0]["message"]
    assert (body.body["id"], message["content"], message[LONE]) == ("c1", "a" + LONE, [LONE])
    assert heard.items["fc_s1_0"]["name"] == "add" + LONE
    assert heard.items["fc_s1_0"]["call_id"] == turn_of(body.body, "s1").calls[0]["call_id"]


def test_halves_in_the_error_of_a_stream_are_mended():
    body = ChatBody("s1")
    body.feed({"error": {"message": HIGH}}, halved=True)
    assert body.error == {"code": None, "message": LONE, "type": None}


@pytest.mark.parametrize("kind", ["content", "refusal", "reasoning_content", "call"])
@pytest.mark.parametrize("named", [True, False])
def test_halves_in_a_response_are_mended(kind, named):
    makers = {
        "content": lambda text: recordings.message(text, deltas=2),
        "refusal": recordings.refusal,
        "reasoning_content": lambda text: recordings.reasoning(text, kind="text", deltas=2),
        "call": lambda text: recordings.function_call("f", text, deltas=2),
    }
    events = recordings.response([makers[kind]("a" + HIGH + LOW + HIGH)])
    heard = Heard()
    body = ResponsesBody("s1", heard)
    for data in events if named else without("response.output_item.added")(events):
        body.feed(data, halved=True)
    assert "\\ud" not in json.dumps(body.body).replace("\\ud83d\\ude00", "")
    (told,) = said(turn_of(body.body, "s1").items).values()
    assert told == "a😀" + LONE
    assert "".join(heard.deltas) == "a😀"  # what is left over is told with the end of its item


# -- linear work -----------------------------------------------------------------------------------

MANY = 20_000


def quickly(feed, events) -> None:
    """Feed events in a time that no quadratic work would leave."""
    began = time.process_time()
    for event in events:
        feed(event)
    assert time.process_time() - began < 2


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("reason", [None, "tool_calls"])
def test_a_chat_of_many_calls_is_put_together_at_once(index, reason):
    body = ChatBody("s1", Heard())
    pieces = (piece(n if index else None, f"c{n}", "add", "{}") for n in range(MANY))
    quickly(body.feed, [chunk({"tool_calls": [piece]}, reason) for piece in pieces])
    assert len(body.body["choices"][0]["message"]["tool_calls"]) == MANY


@pytest.mark.parametrize("index", [True, False])
def test_a_response_of_many_calls_is_put_together_at_once(index):
    items = [{**FUNCTION, "id": f"f{n}", "call_id": f"c{n}"} for n in range(MANY)]
    events = [
        make(item, n if index else None) for n, item in enumerate(items) for make in (added, done)
    ]
    body = ResponsesBody("s1")
    quickly(body.feed, [*events, ended()])
    assert body.body["output"] == items
