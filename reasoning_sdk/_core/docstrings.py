"""What the docstrings of functions and classes say of their parameters."""

import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator, Mapping

import attrs

__all__ = ["Docstring"]


_PARAMETER_SECTIONS = {
    *("args", "arguments", "parameters", "params", "attributes"),
    *("keyword args", "keyword arguments", "other parameters"),
}
_SECTIONS = {
    *_PARAMETER_SECTIONS,
    *("returns", "return", "yields", "yield", "receives", "raises", "raise", "except"),
    *("warns", "warnings", "warning", "see also", "note", "notes", "references", "source"),
    *("example", "examples", "todo", "todos", "methods"),
}
_PARAMETER_FIELDS = {"param", "parameter", "arg", "argument", "key", "keyword"}
_FIELDS = {
    *_PARAMETER_FIELDS,
    *("type", "raises", "raise", "except", "exception", "returns", "return", "rtype"),
    *("var", "ivar", "cvar", "vartype", "yields", "yield", "meta"),
}
_HEADER = re.compile(r"(\w[\w ]*):")
_UNDERLINE = re.compile(r"-{3,}|={3,}")
_FIELD = re.compile(r":(\w+)((?:\s+[^:]+)?):(?:\s+(.*))?")
_ITEM = re.compile(r"([\w*, ]+?)\s*(?:\(.*?\))?\s*:(?:\s+(.*))?")


@attrs.frozen
class Docstring:
    """What a docstring says.

    Args:
        description: What comes before and between the sections.
        parameters: What it says of each parameter, or attribute.
    """

    description: str
    parameters: Mapping[str, str]

    @classmethod
    def of(cls, text: str | None) -> "Docstring":
        """Read a docstring, in the style of Google, NumPy or Sphinx."""
        body: list[str] = []
        parameters: dict[str, str] = {}
        for title, numpy, block in _blocks(inspect.cleandoc(text or "").splitlines()):
            words = title.split()
            if not words:
                body += block
            elif title in _PARAMETER_SECTIONS:
                parameters.update(_items(block, numpy))
            elif words[0] in _PARAMETER_FIELDS:
                parameters[words[-1].lstrip("*")] = _joined(block)
        return cls(re.sub(r"\n{3,}", "\n\n", "\n".join(body)).strip(), parameters)


def _blocks(lines: list[str]) -> Iterator[tuple[str, bool, list[str]]]:
    """Yield the parts of a docstring: title, whether it is of NumPy's style, and lines.

    The title is that of a section, in lower case, or a field of Sphinx; ``""`` has none.
    """
    title, numpy, block = "", False, list[str]()
    for line, after in itertools.zip_longest(lines, lines[1:], fillvalue=""):
        header, field = _HEADER.fullmatch(line.rstrip()), _FIELD.fullmatch(line)
        if line.strip().lower() in _SECTIONS and _UNDERLINE.fullmatch(after.strip()):
            yield title, numpy, block
            title, numpy, block = line.strip().lower(), True, []
        elif header and header[1].lower() in _SECTIONS:
            yield title, numpy, block
            title, numpy, block = header[1].lower(), False, []
        elif field and field[1] in _FIELDS:
            yield title, numpy, block
            title, numpy, block = field[1] + field[2], False, [field[3] or ""]
        elif title and not numpy and line[:1].strip():  # no longer indented
            yield title, numpy, block
            title, block = "", [line]
        elif not (numpy and _UNDERLINE.fullmatch(line.strip())):
            block.append(line)
    yield title, numpy, block


def _items(block: list[str], numpy: bool) -> dict[str, str]:
    """The parameters that a section describes."""
    found: dict[str, list[str]] = {}
    parts: list[str] = []
    for line in textwrap.dedent("\n".join(block)).splitlines():
        item = None if line[:1].isspace() else _ITEM.fullmatch(line)
        if numpy and line[:1].strip():
            names, parts = line.partition(":")[0], []
        elif item:
            names, parts = item[1], [item[2] or ""]
        else:
            parts.append(line)
            continue
        found.update((name.strip(" *"), parts) for name in names.split(","))
    return {name: _joined(parts) for name, parts in found.items()}


def _joined(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())
