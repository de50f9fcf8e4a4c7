"""A response as HTML: well formed, escaped, and telling what a reader of a notebook asks."""

import json
from html import escape
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning_sdk._core.display import response_html
from tests.support import recordings

HOSTILE = [
    "<script>alert(1)</script>",
    "</div></details><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)" \'',
    "&lt;b&gt; &amp; & &#60;",
    "<!-- --><![CDATA[ ]]>",
    "javascript:alert(1)",
    "\x00\x1b[31m\u202e\ufeff",
]


class Page(HTMLParser):
    """The elements and the text of a page; it has to be well formed."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        assert self.open
        self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    handle_decl = handle_pi = unknown_decl = handle_comment

    @property
    def text(self) -> str:
        return "".join(self.texts)


def page(**arguments: Any) -> Page:
    html = response_html(**{"status": "completed", **arguments})
    shown = Page(html)
    assert set(shown.tags) <= {"div", "span", "details", "summary"}
    assert {name for name, _ in shown.attributes} == {"style"}
    assert "url(" not in html
    assert shown.tags[0] == "div"
    assert html.startswith("<div") and html.endswith("</div>")  # noqa: PT018
    return shown


def colour_of(shown: Page) -> str:
    """The colour of the badge, which is the first thing in the card."""
    _, badge = shown.attributes[1]
    return badge.rpartition("background:")[2]


# -- what is shown -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status",
    ["completed", "in_progress", "queued", "incomplete", "failed", "cancelled", "interrupted", "?"],
)
def test_the_status_is_a_coloured_badge(status):
    shown = page(status=status)
    assert shown.texts[0] == status.replace("_", " ")
    assert colour_of(shown).startswith("#")


def test_good_and_bad_ends_differ_in_colour():
    statuses = ("completed", "in_progress", "incomplete", "failed", "cancelled")
    assert len({colour_of(page(status=status)) for status in statuses}) == len(statuses)


def test_the_head_tells_the_model_the_id_and_the_tokens():
    shown = page(model="m-1", response_id="resp_1", usage=recordings.usage(11, 7))
    assert shown.text == "completed m-1 · resp_1 · 11 → 7 tokens"


@pytest.mark.parametrize("usage", [None, {}, {"input_tokens": 1}, {"output_tokens": None}])
def test_what_is_not_known_leaves_no_gap(usage):
    assert page(usage=usage).text == "completed "
    assert page(usage=usage, model="m").text == "completed m"
    assert page(usage=usage, response_id="r", model=None).text == "completed r"


def test_no_tokens_are_tokens_too():
    assert "0 → 0 tokens" in page(usage={"input_tokens": 0, "output_tokens": 0}).text


def test_items_are_shown_in_their_order():
    items = [
        recordings.reasoning("First I think.").done,
        recordings.message("Then I talk.").done,
        recordings.function_call("look", {"at": "it"}).done,
        recordings.refusal("No more.", item_id="msg_2").done,
    ]
    texts = page(items=items).texts
    wanted = ["reasoning", "First I think.", "Then I talk.", 'look({"at":"it"})', "No more."]
    assert [text for text in texts if text in wanted] == wanted


def test_reasoning_is_folded():
    for kind in ("summary", "text"):
        item = recordings.reasoning("I think.", kind=kind).done
        assert page(items=[item]).tags == ["div", "span", "span", "details", "summary", "div"]


def test_every_part_of_reasoning_is_shown():
    parts = [{"type": "summary_text", "text": "a"}, {"text": "b"}, {"type": "x"}, None]
    item = {"type": "reasoning", "summary": parts, "content": [{"text": "c"}]}
    assert page(items=[item]).text.endswith("reasoninga\n\nb\n\n\n\nc")


@pytest.mark.parametrize(
    ("item", "call"),
    [
        ({"type": "function_call", "name": "f", "arguments": "{}"}, "f({})"),
        ({"type": "custom_tool_call", "name": "f", "input": "x y"}, "f(x y)"),
        ({"type": "mcp_call", "arguments": "{}"}, "mcp_call({})"),
        ({"type": "function_call", "name": None, "arguments": None}, "None(None)"),
    ],
)
def test_calls_are_shown_with_what_they_are_given(item, call):
    assert page(items=[item]).text.endswith(f" {call}")


def test_any_other_item_is_folded_json():
    item = {"type": "hologram", "id": "h_1", "text": "ü"}
    shown = page(items=[item])
    assert shown.text.endswith("hologram" + json.dumps(item, indent=2, ensure_ascii=False))
    assert shown.tags[-3:] == ["details", "summary", "div"]
    assert page(items=[{}]).text.endswith("item{}")


@pytest.mark.parametrize(
    "content", [None, [], "x", [None, 1], [{"type": "output_text", "text": None}]]
)
def test_a_message_may_have_nothing_to_show(content):
    assert page(items=[{"type": "message", "content": content}]).text == "completed "


def test_text_under_way_has_a_cursor():
    assert page(status="in_progress", open_text="Hel").text == "in progress Hel▌"
    assert page(status="queued", open_text="Hel").text == "queued Hel▌"
    assert "▌" not in page(status="in_progress").text
    assert page(status="interrupted", open_text="Hel").text == "interrupted Hel…"


def test_a_problem_is_shown_after_the_text():
    shown = page(status="failed", items=[recordings.message("Hel").done], problem="no luck")
    assert shown.text == "failed Helno luck"


def test_the_whole_object_is_folded():
    raw = {"id": "resp_1", "output": [], "text": "ü"}
    shown = page(raw=raw)
    assert shown.text == "completed JSON" + json.dumps(raw, indent=2, ensure_ascii=False)
    assert page(raw={}).text == "completed JSON{}"
    assert "JSON" not in page(raw=None).text


def test_text_is_shown_whole_and_json_up_to_a_limit():
    text = "x" * 50_000
    assert text in page(items=[recordings.message(text).done], open_text=text).text
    for arguments in ({"raw": {"k": text}}, {"items": [{"type": "new", "k": text}]}):
        shown = page(**arguments).text
        assert shown.endswith("x\n…")
        assert len(shown) < 20_100


def test_json_at_the_limit_is_shown_whole():
    raw = {"k": "x" * (20_000 - len(json.dumps({"k": ""}, indent=2)))}
    assert page(raw=raw).text.endswith("x\"\n}")  # fmt: skip
    raw["k"] += "x"
    assert page(raw=raw).text.endswith("\n…")


# -- what may not get in -----------------------------------------------------------------------


def everywhere(text: str) -> dict[str, Any]:
    """A hostile text in every place that a server fills."""
    return {
        "status": text,
        "model": text,
        "response_id": text,
        "usage": {"input_tokens": text, "output_tokens": text},
        "open_text": text,
        "problem": text,
        "raw": {text: text},
        "items": [
            {"type": "message", "content": [{"text": text}, {"refusal": text}]},
            {"type": "reasoning", "summary": [{"text": text}], "content": [{"text": text}]},
            {"type": "function_call", "name": text, "arguments": text},
            {"type": text, "input": text},
            {"type": text, text: text},
        ],
    }


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text):
    harmless = page(**everywhere("x"))
    shown = page(**everywhere(text))
    assert shown.tags == harmless.tags
    assert [name for name, _ in shown.attributes] == [name for name, _ in harmless.attributes]
    if "\x00" not in text:  # which the parser of this test replaces
        assert shown.text.count(text) >= 12
    html = response_html(**everywhere(text))
    assert "<script" not in html
    assert "<img" not in html
    assert html.count(escape(text)) >= 12


@given(st.text(min_size=1))
def test_any_text_stays_text(text):
    assert page(**everywhere(text)).tags == page(**everywhere("x")).tags


def test_a_lone_surrogate_can_be_sent_to_a_notebook():
    html = response_html(**everywhere("a\ud800b"))
    assert "a?b" in html.encode().decode()


def test_what_is_nested_too_deeply_is_not_drawn():
    deep: Any = []
    for _ in range(20_000):
        deep = [deep]
    shown = page(raw={"k": deep}, items=[{"type": "new", "k": deep}])
    assert shown.texts.count("nested too deeply") == 2


def test_values_of_odd_types_are_shown_as_they_are():
    item = {"type": "message", "content": [{"text": 5}, {"text": ["a"]}]}
    assert page(items=[item]).text == "completed 5['a']"
    assert page(items=[{"type": 7, "k": None}]).text.startswith("completed 7{")
