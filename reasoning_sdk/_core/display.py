"""A response as HTML, for notebooks. No scripts; colours that suit light and dark pages."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["response_html"]

_MAX_RAW = 20_000
_COLOURS = {
    "completed": "#1a7f37",
    "in_progress": "#0969da",
    "queued": "#0969da",
    "incomplete": "#9a6700",
    "failed": "#cf222e",
    "cancelled": "#6e7781",
}
_UNDER_WAY = ("in_progress", "queued")
_BADGE = "color:#fff;border-radius:0.6em;padding:0.1em 0.6em;font-size:90%;background:"
_CARD = (
    "border:1px solid rgba(128,128,128,0.4);border-left-width:4px;border-radius:0.4em;"
    "padding:0.6em 0.9em;max-width:60em;line-height:1.5;overflow-wrap:anywhere"
)
_FAINT = "opacity:0.7;font-size:90%"
_TEXT = "white-space:pre-wrap;margin:0.5em 0 0"
_CODE = (
    f"{_TEXT};font-family:monospace;font-size:90%;"
    "background:rgba(128,128,128,0.12);border-radius:0.3em;padding:0.2em 0.6em"
)
_PROBLEM = f"{_TEXT};background:rgba(207,34,46,0.15);border-radius:0.3em;padding:0.2em 0.6em"


def response_html(
    *,
    status: str,
    response_id: str | None = None,
    model: str | None = None,
    items: Sequence[Mapping[str, Any]] = (),
    open_text: str = "",
    usage: Mapping[str, Any] | None = None,
    problem: str = "",
    raw: Mapping[str, Any] | None = None,
) -> str:
    """Draw a response, finished or under way.

    Args:
        status: As in the Responses API.
        response_id: Its id.
        model: Its model.
        items: Its finished output items.
        open_text: Text that is in no finished item yet.
        usage: The tokens used.
        problem: What went wrong.
        raw: The whole JSON object, to be unfolded.
    """
    about = [_escape(part) for part in (model, response_id, _tokens(usage)) if part]
    colour = _COLOURS.get(status, _COLOURS["cancelled"])
    parts = [
        f'<span style="{_BADGE}{colour}">{_escape(status.replace("_", " "))}</span> ',
        f'<span style="{_FAINT}">{" · ".join(about)}</span>',
    ]
    parts += [_item(item) for item in items]
    if open_text:
        cursor = "▌" if status in _UNDER_WAY else "…"
        parts.append(f'<div style="{_TEXT}">{_escape(open_text)}{cursor}</div>')
    if problem:
        parts.append(f'<div style="{_PROBLEM}">{_escape(problem)}</div>')
    if raw is not None:
        parts.append(_details("JSON", _indented(raw)))
    html = f'<div style="{_CARD};border-left-color:{colour}">{"".join(parts)}</div>'
    return html.encode("utf-8", "replace").decode()  # a lone surrogate can be sent to no notebook


def _tokens(usage: Mapping[str, Any] | None) -> str:
    counts = [(usage or {}).get(name) for name in ("input_tokens", "output_tokens")]
    return "" if None in counts else f"{counts[0]} → {counts[1]} tokens"


def _item(item: Mapping[str, Any]) -> str:
    kind = str(item.get("type", "item"))
    if kind == "message":
        return "".join(_content(part) for part in _parts(item, "content"))
    if kind == "reasoning":
        texts = [str(p.get("text", "")) for n in ("summary", "content") for p in _parts(item, n)]
        return _details("reasoning", "\n\n".join(texts), f"{_TEXT};{_FAINT}")
    if "arguments" in item or "input" in item:
        given = item.get("arguments", item.get("input"))
        call = f"{item.get('name', kind)}({given})"
        return f'<div style="{_CODE}">{_escape(call)}</div>'
    return _details(kind, _indented(item))


def _indented(value: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False)
    except RecursionError:
        return "nested too deeply"
    return text if len(text) <= _MAX_RAW else text[:_MAX_RAW] + "\n…"


def _parts(item: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    parts = item.get(name)
    return [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []


def _content(part: Mapping[str, Any]) -> str:
    text, refusal = part.get("text"), part.get("refusal")
    style = f"{_TEXT};font-style:italic" if refusal and not text else _TEXT
    return f'<div style="{style}">{_escape(str(text or refusal or ""))}</div>'


def _details(summary: str, text: str, style: str = _CODE) -> str:
    return (
        f'<details style="margin:0.5em 0 0"><summary style="{_FAINT};cursor:pointer">'
        f'{_escape(summary)}</summary><div style="{style}">{_escape(text)}</div></details>'
    )


def _escape(text: str) -> str:
    from html import escape  # noqa: PLC0415  # it brings a large table, which most programs never need

    return escape(text)
