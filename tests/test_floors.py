"""The floors of the package: who may import whom. docs/topics/design.md says why."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

PACKAGE = "reasoning_sdk"
ROOT = Path(__file__).resolve().parent.parent / PACKAGE

# The modules of each floor. In ORDERED floors a module also sees those listed above it. A name that
# ends in ".*" stands for a package, whose modules see each other.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("_version", "errors"),
    ("arguments", "retry", "cancellation", "encoding", "events", "steps", "typing"),
    (
        "_core",
        "_core.sse",
        "_core.frames",
        "_core.inbox",
        "_core.keepalive",
        "_core.reconnect",
        "_core.outbox",
        "_core.display",
        "_core.responses",
        "_core.turn",
        "_core.chat",
        "_core.translation",
        "_core.transition",
        "_core.assembly",
        "_core.narrator",
        "_core.wording",
        "_core.docstrings",
        "_core.shapes",
        "_core.signatures",
    ),
    (
        "_io",
        "_io.clock",
        "_io.thread",
        "_io.spool",
        "_io.reader",
        "_io.exchange",
        "_io.translate",
        "_io.http",
        "_io.post",
        "_io.publisher",
        "_io.dial",
        "_io.websocket",
        "_io.link",
        "_io.workers",
        "_io.model",
    ),
    (
        "viewer",
        "event_source",
        "websocket",
        "responses",
        "sinks",
        "tools.*",
        "stores",
        "stores.memory",
        "stores.sql",
    ),
    ("loop.*",),
    ("processing.*",),
    ("reasoning_layer.*",),
    ("cli_output", "cli_watch", "cli_run"),
    ("", "cli", "__main__"),  # "" is the package itself
)
ORDERED = {1, 2, 3, 8}
# What is allowed beside that: importer (".*" as above) and imported.
BESIDE = {("stores.*", "stores.sql"), ("__main__", "cli")}

NOT_IN_CORE = {
    "queue",
    "random",
    "requests",
    "socket",
    "sqlite3",
    "threading",
    "time",
    "websocket",
}

PLACES = {
    name: (floor, place) for floor, names in enumerate(FLOORS) for place, name in enumerate(names)
}


def is_in(module: str, pattern: str) -> bool:
    """Whether a module is the one named, or in the package that a pattern "name.*" stands for."""
    package = pattern.removesuffix(".*")
    return module == package or (pattern != package and module.startswith(package + "."))


def entry_of(module: str) -> str | None:
    """The entry of the table that a module belongs to, None when it has no place in it."""
    return next((entry for entry in PLACES if is_in(module, entry)), None)


def may_import(importer: str, imported: str) -> bool:
    if any(is_in(importer, who) and imported == what for who, what in BESIDE):
        return True
    from_, to = entry_of(importer), entry_of(imported)
    if from_ is None or to is None:
        return False
    (floor, place), (other_floor, other_place) = PLACES[from_], PLACES[to]
    if floor != other_floor:
        return other_floor < floor
    return from_ == to if from_.endswith(".*") else floor in ORDERED and other_place < place


def module_of(path: Path) -> str:
    """The name of the module in a file, the path being relative to the package."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(tree: ast.AST, path: Path) -> Iterator[tuple[int, str, str]]:
    """Every import, wherever it stands: its line, the module, and the name taken from it or ""."""
    package = [PACKAGE, *path.parent.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            for alias in node.names:
                yield node.lineno, module, alias.name
        elif isinstance(node, ast.Call) and node.args:
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            name = node.args[0]
            if (
                called in {"import_module", "__import__"}
                and isinstance(name, ast.Constant)
                and isinstance(name.value, str)
            ):
                relative = name.value.startswith(".")
                yield node.lineno, ".".join(package) + name.value if relative else name.value, ""


def violations(sources: dict[str, str]) -> list[str]:
    """What breaks the rules, in sources by their path relative to the package."""
    modules = {module_of(Path(path)) for path in sources}
    found = []
    for name, source in sorted(sources.items()):
        path = Path(name)
        module = module_of(path)
        if entry_of(module) is None:
            found.append(f"{name}: has no place in the table of floors")
            continue
        tree = ast.parse(source, name)
        for node in ast.walk(tree):
            if "TYPE_CHECKING" in (getattr(node, "id", ""), getattr(node, "attr", "")):
                found.append(f"{name}:{node.lineno}: hides imports under TYPE_CHECKING")
        for line, origin, taken in imported_names(tree, path):
            top, _, inner = origin.partition(".")
            if top != PACKAGE:
                if is_in(module, "_core.*") and top in NOT_IN_CORE:
                    found.append(f"{name}:{line}: imports {origin} into _core")
                continue
            # "from package import name" means a module where there is one of that name.
            submodule = f"{inner}.{taken}".strip(".")
            imported = submodule if taken and submodule in modules else inner
            if imported != module and not may_import(module, imported):
                found.append(f"{name}:{line}: imports {PACKAGE}.{imported}".rstrip("."))
    return found


def sources_of(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
        for path in root.rglob("*.py")
    }


def test_every_module_imports_only_from_the_floors_below_it():
    sources = sources_of(ROOT)
    assert "errors.py" in sources
    assert violations(sources) == []


# -- the check itself ----------------------------------------------------------------------------


def checked(path: str, source: str, others: Iterable[str] = ()) -> list[str]:
    """The violations of one source among modules that are there, but empty."""
    existing = {
        f"{entry.removesuffix('.*').replace('.', '/') or '__init__'}.py": "" for entry in PLACES
    }
    return violations({**existing, **dict.fromkeys(others, ""), path: source})


ALLOWED = [
    ("retry.py", "from reasoning_sdk.errors import ConfigurationError"),
    ("retry.py", "import attrs, random, time"),
    ("steps.py", "from reasoning_sdk import encoding, events"),
    ("steps.py", "from . import encoding"),
    ("_core/responses.py", "from reasoning_sdk._core.sse import SSEDecoder"),
    ("_core/responses.py", "from .sse import SSEDecoder\nfrom ..events import ResponseEvent"),
    ("_core/sse.py", "import json, re, codecs"),
    ("_io/http.py", "import requests, socket\nfrom reasoning_sdk._io.clock import Clock"),
    ("responses.py", "from reasoning_sdk._core import display\nfrom reasoning_sdk._io import http"),
    ("stores/memory.py", "from reasoning_sdk.stores.sql import rows"),
    ("stores/memory.py", "from .sql import rows"),
    ("loop.py", "from reasoning_sdk.stores import memory"),
    ("processing/__init__.py", "from reasoning_sdk.processing.local import LocalWorker"),
    ("processing/local.py", "from reasoning_sdk.loop import ResponseLoop"),
    ("cli.py", "from reasoning_sdk.responses import ResponsesClient"),
    ("__main__.py", "from reasoning_sdk.cli import main"),
    ("__init__.py", "from reasoning_sdk.responses import ResponsesClient"),
]

FORBIDDEN = [
    # a floor above
    ("errors.py", "from reasoning_sdk.retry import RetryPolicy"),
    ("events.py", "from reasoning_sdk._core.sse import SSEDecoder"),
    ("_core/sse.py", "from reasoning_sdk._io.clock import Clock"),
    ("_io/http.py", "from reasoning_sdk.responses import ResponsesClient"),
    ("processing/local.py", "from reasoning_sdk.reasoning_layer import ReasoningLayerClient"),
    # the package itself, which imports everything
    ("responses.py", "import reasoning_sdk"),
    ("responses.py", "from reasoning_sdk import ResponseStream"),
    ("_io/http.py", "from .. import __version__"),
    ("cli.py", "from reasoning_sdk import ResponsesClient"),
    # the same floor, listed below
    ("errors.py", "from reasoning_sdk._version import __version__"),
    ("events.py", "from reasoning_sdk.steps import StepKind"),
    ("_core/sse.py", "from reasoning_sdk._core.responses import ResponseState"),
    ("_core/__init__.py", "from reasoning_sdk._core.sse import SSEDecoder"),
    ("_io/clock.py", "from . import http"),
    # beside it, on a floor without an order
    ("responses.py", "from reasoning_sdk.event_source import EventSource"),
    ("stores/sql.py", "from reasoning_sdk.stores.memory import MemoryStore"),
    ("cli.py", "import reasoning_sdk.__main__"),
    # wherever and however it is said
    ("retry.py", "def f():\n    if True:\n        import reasoning_sdk.loop"),
    ("retry.py", "import importlib\nimportlib.import_module('reasoning_sdk.loop')"),
    ("retry.py", "import_module('.loop', __package__)"),
    ("retry.py", "__import__('reasoning_sdk.loop')"),
    ("retry.py", "import reasoning_sdk.loop as _"),
    ("retry.py", "from reasoning_sdk import *"),
    ("retry.py", "from reasoning_sdk.nowhere import x"),
    # hidden
    ("retry.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import attrs"),
    ("retry.py", "import typing\nif typing.TYPE_CHECKING:\n    import attrs"),
    # no place in the table
    ("utils.py", ""),
    ("_core/helpers.py", ""),
    ("stores/common.py", ""),
]  # fmt: skip


@pytest.mark.parametrize(("path", "source"), ALLOWED)
def test_an_import_from_below_is_allowed(path, source):
    assert checked(path, source, ["processing/local.py"]) == []


@pytest.mark.parametrize(("path", "source"), FORBIDDEN)
def test_any_other_import_is_found(path, source):
    found = checked(path, source, ["processing/local.py"])
    assert len(found) == 1
    assert found[0].startswith(path)


@pytest.mark.parametrize("library", sorted(NOT_IN_CORE))
@pytest.mark.parametrize("form", ["import {}", "import {}.inner", "from {} import name"])
def test_core_imports_nothing_that_blocks_or_wanders(library, form):
    source = form.format(library)
    assert checked("_core/sse.py", source)
    assert checked("_io/http.py", source) == []
