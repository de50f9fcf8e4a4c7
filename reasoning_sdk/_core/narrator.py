"""What happens in a response loop, told as the events of the Responses API."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs

from reasoning_sdk._core.turn import tool_output_item
from reasoning_sdk.events import LoopEvent, LoopEventKind
from reasoning_sdk.steps import ChainStep

__all__ = ["Narrator", "Tell"]

Item = dict[str, Any]
Tell = Callable[[LoopEventKind, Item], None]
"""Takes an event: its kind, and its data without ``type`` and ``sequence_number``."""

_ADDED, _ITEM_DONE = LoopEventKind.OUTPUT_ITEM_ADDED, LoopEventKind.OUTPUT_ITEM_DONE
_PART_ADDED, _PART_DONE = LoopEventKind.CONTENT_PART_ADDED, LoopEventKind.CONTENT_PART_DONE
_TEXT_DELTA = LoopEventKind.OUTPUT_TEXT_DELTA
_ARGUMENTS_DELTA = LoopEventKind.FUNCTION_CALL_ARGUMENTS_DELTA
_ARGUMENTS_DONE = LoopEventKind.FUNCTION_CALL_ARGUMENTS_DONE


@attrs.frozen
class _Kind:
    """A kind of part of content: its events, and the field that has its text."""

    delta: LoopEventKind
    done: LoopEventKind
    field: str
    empty: Item
    beside: Item


_PARTS = {
    "output_text": _Kind(
        _TEXT_DELTA,
        LoopEventKind.OUTPUT_TEXT_DONE,
        "text",
        {"type": "output_text", "text": "", "annotations": [], "logprobs": []},
        {"logprobs": []},
    ),
    "refusal": _Kind(
        LoopEventKind.REFUSAL_DELTA,
        LoopEventKind.REFUSAL_DONE,
        "refusal",
        {"type": "refusal", "refusal": ""},
        {},
    ),
    "reasoning_text": _Kind(
        LoopEventKind.REASONING_DELTA,
        LoopEventKind.REASONING_DONE,
        "text",
        {"type": "reasoning_text", "text": ""},
        {},
    ),
}


@attrs.define(eq=False)
class _Part:
    """A part of an item's content that is under way."""

    kind: _Kind
    place: Item  # where it is: item_id, output_index, content_index
    pieces: list[str] = attrs.field(factory=list)


@attrs.define(eq=False)
class _OpenItem:
    """An item that is under way."""

    item: Item
    output_index: int
    parts: dict[int, _Part] = attrs.field(factory=dict)
    arguments: list[str] = attrs.field(factory=list)


class Narrator:
    """Tells of the output items of one scope. One thread at a time.

    What a model says may be told as it is said: the narrator is the listener of the accumulators in
    :mod:`reasoning_sdk._core.chat`. In the end everything has been told, whether or not it was.

    Args:
        tell: Takes the events.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._next_index = 0  # the place in the output of the next item
        self._open: dict[str, _OpenItem] = {}  # what a model is saying
        self._running: dict[str, int] = {}  # the places of the outputs of tools

    def item(self, item: Item) -> None:
        """An item begins."""
        self._open[item["id"]] = _OpenItem(item, self._add(item))

    def text(self, item_id: str, content_index: int, delta: str) -> None:
        """More text of a message."""
        parts = self._open[item_id].parts
        part = parts.get(content_index)
        if part is None:
            part = self._begin_part(item_id, content_index, "output_text")
        part.pieces.append(delta)
        self._tell(_TEXT_DELTA, {**part.place, "delta": delta, "logprobs": []})

    def refusal(self, item_id: str, content_index: int, delta: str) -> None:
        """More of a refusal."""
        self._delta(item_id, content_index, delta, "refusal")

    def reasoning(self, item_id: str, content_index: int, delta: str) -> None:
        """More of what a model thinks."""
        self._delta(item_id, content_index, delta, "reasoning_text")

    def arguments(self, item_id: str, delta: str) -> None:
        """More of the arguments of a call."""
        if not delta:  # as some servers begin a call
            return
        opened = self._open[item_id]
        opened.arguments.append(delta)
        self._tell(_ARGUMENTS_DELTA, {**_of_call(opened), "delta": delta})

    def turn(self, items: Iterable[Item]) -> None:
        """A model has said all this; what was not told of it is told now."""
        for item in items:
            if item["id"] not in self._open:
                self.item(_begun(item))
            self._finish(self._open[item["id"]], item)
        self.leave()

    def leave(self) -> None:
        """What has begun and not ended will not: the model call has failed."""
        for opened in list(self._open.values()):
            self._finish(opened, _cut_off(opened))

    def catch_up(self, items: Iterable[Item], events: Iterable[LoopEvent]) -> None:
        """Tell what was not told of the items of a chain that is partly there.

        Args:
            items: Those of the chain, the outputs of tools that are under way included.
            events: What was told.
        """
        told = {kind: set[str]() for kind in (_ADDED, _ITEM_DONE)}
        for event in events:
            if event.kind in told:
                told[event.kind].add(event.data["item"]["id"])
        for item in items:
            if item["id"] in told[_ITEM_DONE]:
                self._next_index += 1
            elif item["type"] == "function_call_output":
                self._take_up(item, item["id"] in told[_ADDED])
            else:
                self.turn([item])

    def _take_up(self, item: Item, is_added: bool) -> None:
        """Go on with the output of a tool."""
        if is_added:
            self._running[item["id"]] = self._next_index
            self._next_index += 1
        else:
            self._running[item["id"]] = self._add(_begun(item))
        if item["status"] != "in_progress":
            self._end_output(item)

    def outputs(self, steps: Sequence[ChainStep]) -> None:
        """Tools are being called."""
        for step in steps:
            item = tool_output_item(step)
            self._running[item["id"]] = self._add(item)

    def output(self, step: ChainStep) -> None:
        """A tool call has ended."""
        self._end_output(tool_output_item(step))

    def _end_output(self, item: Item) -> None:
        if item["id"] not in self._running:
            self._running[item["id"]] = self._add(_begun(item))
        self._tell(_ITEM_DONE, {"output_index": self._running.pop(item["id"]), "item": item})

    def _add(self, item: Item) -> int:
        output_index = self._next_index
        self._next_index += 1
        self._tell(_ADDED, {"output_index": output_index, "item": dict(item)})
        return output_index

    def _delta(self, item_id: str, content_index: int, delta: str, kind: str) -> None:
        part = self._open[item_id].parts.get(content_index)
        if part is None:
            part = self._begin_part(item_id, content_index, kind)
        part.pieces.append(delta)
        self._tell(part.kind.delta, {**part.place, "delta": delta, **part.kind.beside})

    def _begin_part(self, item_id: str, content_index: int, kind: str) -> _Part:
        opened = self._open[item_id]
        place = {"item_id": item_id, "output_index": opened.output_index}
        part = _Part(_PARTS[kind], {**place, "content_index": content_index})
        opened.parts[content_index] = part
        self._tell(_PART_ADDED, {**part.place, "part": dict(part.kind.empty)})
        return part

    def _finish(self, opened: _OpenItem, item: Item) -> None:
        """Tell what is left of an item of a model's turn."""
        if item["type"] == "function_call":
            self._finish_call(opened, item["arguments"])
        elif item["type"] in {"message", "reasoning"}:
            for index, part in enumerate(item.get("content") or []):
                self._finish_part(opened, index, part)
        del self._open[item["id"]]
        self._tell(_ITEM_DONE, {"output_index": opened.output_index, "item": item})

    def _finish_call(self, opened: _OpenItem, arguments: str) -> None:
        left = _left(opened.arguments, arguments)
        if left:
            self.arguments(opened.item["id"], left)
        name = opened.item["name"]
        self._tell(_ARGUMENTS_DONE, {**_of_call(opened), "name": name, "arguments": arguments})

    def _finish_part(self, opened: _OpenItem, index: int, part: Item) -> None:
        kind, item_id = _PARTS.get(part.get("type", "")), opened.item["id"]
        if kind is None:
            return
        text = part[kind.field]
        begun = opened.parts.get(index) or self._begin_part(item_id, index, part["type"])
        left = _left(begun.pieces, text)
        if left:
            self._delta(item_id, index, left, part["type"])
        self._tell(kind.done, {**begun.place, kind.field: text, **kind.beside})
        self._tell(_PART_DONE, {**begun.place, "part": part})


def _of_call(opened: _OpenItem) -> Item:
    return {
        "item_id": opened.item["id"],
        "output_index": opened.output_index,
        "call_id": opened.item["call_id"],
    }


def _left(told: list[str], whole: str) -> str:
    """What is left to tell of a text."""
    begun = "".join(told)
    return whole[len(begun) :] if whole.startswith(begun) else ""


def _begun(item: Item) -> Item:
    """A finished item as it is when it begins."""
    begun = {**item, "status": "in_progress"}
    if item["type"] == "function_call":
        begun["arguments"] = ""
    elif item["type"] == "function_call_output":
        begun["output"] = ""
    elif item["type"] in {"message", "reasoning"}:
        begun["content"] = []
    return begun


def _cut_off(opened: _OpenItem) -> Item:
    """An item that has not ended, with what came of it."""
    item = {**opened.item, "status": "incomplete"}
    if item["type"] == "function_call":
        item["arguments"] = "".join(opened.arguments)
    elif opened.parts:
        item["content"] = [
            {**part.kind.empty, part.kind.field: "".join(part.pieces)}
            for _, part in sorted(opened.parts.items())
        ]
    return item
