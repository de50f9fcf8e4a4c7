"""The command ``run``: the steps of a response loop, as a tree that is alive or as lines."""

import atexit
import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import attrs
import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.segment import SegmentLines
from rich.text import Text
from rich.tree import Tree

from reasoning_sdk.arguments import has_methods
from reasoning_sdk.cli_output import tell, visible
from reasoning_sdk.encoding import parse_json
from reasoning_sdk.errors import ConfigurationError, LoopFailedError, ResponseIncompleteError
from reasoning_sdk.events import LoopEvent, LoopEventKind
from reasoning_sdk.loop import LoopStream
from reasoning_sdk.steps import StepState

__all__ = [
    "LiveTree",
    "PlainText",
    "Step",
    "StepTree",
    "leaving_tools_behind",
    "show",
    "tools_of",
]

_MOST_CHARACTERS = 300
_GRACE = 0.2  # seconds
_MODEL_CALL = "model call"
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_FRAMES_PER_SECOND = 10
_MARKS = {
    StepState.PENDING: ("·", "dim"),
    StepState.COMPLETED: ("✓", "green"),
    StepState.FAILED: ("✗", "red"),
    StepState.CANCELED: ("-", "yellow"),
}
_STATES = {
    "completed": StepState.COMPLETED,
    "cancelled": StepState.CANCELED,
}


# -- the tools -------------------------------------------------------------------------------------


def tools_of(names: Iterable[str]) -> list[Any]:
    """The tools that are named as ``MODULE:ATTR``, or ``FILE.py:ATTR``.

    Each name is that of a function, an executor, or a list of these.

    Raises:
        ConfigurationError: There is nothing of this name, it cannot be imported, or is no tool.
    """
    return [tool for name in names for tool in _tools_named(name)]


def _tools_named(name: str) -> list[Any]:
    module_name, _, attribute = name.rpartition(":")
    if not (module_name and attribute):
        raise ConfigurationError(f"--tools must be MODULE:ATTR, got {name!r}")
    module = _imported(module_name)
    try:
        found = attrgetter(attribute)(module)
    except AttributeError as exc:
        raise ConfigurationError(f"--tools {name}: {exc}") from exc
    tools = list(found) if isinstance(found, (list, tuple)) else [found]
    for tool in tools:
        _check_tool(name, tool)
    return tools


def _check_tool(name: str, tool: Any) -> None:
    if isinstance(tool, type):
        said = f"the class {tool.__name__}"
    elif callable(tool) or has_methods(tool, "tools", "execute"):
        return
    else:
        said = f"a {type(tool).__name__}"
    kinds = "a function, a ToolExecutor, or a list of them"
    raise ConfigurationError(f"--tools {name} must be {kinds}, got {said}")


def _imported(name: str) -> ModuleType:
    """A module by its name, also of the current directory, or by its file."""
    file = Path(name) if name.endswith(".py") else None
    if file is not None and not file.is_file():
        raise ConfigurationError(f"cannot import {name}: no such file")
    sys.path.insert(0, "" if file is None else str(file.resolve().parent))
    try:
        module = import_module(name if file is None else file.stem)
    except (Exception, SystemExit) as exc:  # whatever a module may do
        said = " ".join(f"{type(exc).__name__}: {exc}".split())
        raise ConfigurationError(f"cannot import {name}: {said}") from exc
    if file is not None:
        _check_file(module, file)
    return module


def _check_file(module: ModuleType, file: Path) -> None:
    origin = getattr(module, "__file__", None)
    if origin is None or not file.samefile(origin):
        where = "of Python's" if origin is None else origin
        raise ConfigurationError(f"cannot import {file}: there is another {file.stem}, {where}")


@contextmanager
def leaving_tools_behind() -> Iterator[None]:
    """End the process here, when the command is done, if there are tools that do not end.

    At its own end Python stops a thread wherever it is, and aborts if that is in a ``print``.
    """
    code = 0
    try:
        yield
    except typer.Exit as exc:
        code = exc.exit_code
    if _do_tools_run():
        atexit._run_exitfuncs()
        os._exit(code)
    if code:
        raise typer.Exit(code)


def _do_tools_run() -> bool:
    """Whether tools still run, a moment after the loop was closed."""
    workers = [one for one in threading.enumerate() if one.name == "reasoning-sdk.worker"]
    deadline = time.monotonic() + _GRACE
    for worker in workers:
        worker.join(max(deadline - time.monotonic(), 0.0))
    return any(worker.is_alive() for worker in workers)


# -- the steps, as events tell of them -------------------------------------------------------------


@attrs.define(eq=False)
class Step:
    """A response, a model call, or a tool call.

    Args:
        name: What it is called.
        began_at: When it began, in seconds of whatever clock.
        agents: The agents that it is part of, the outermost first.
        state: What has become of it.
        ended_at: When it ended.
        call_id: The id of a tool call.
        arguments: What a tool was called with.
        outcome: What came of it, or its error.
        said: What a model has said, piece by piece.
        steps: Of a response and of an agent, its model calls; of a model call, those of tools.
    """

    name: str
    began_at: float
    agents: tuple[str, ...] = ()
    state: StepState = StepState.PROCESSING
    ended_at: float | None = None
    call_id: str = ""
    arguments: str = ""
    outcome: str = ""
    said: list[str] = attrs.field(factory=list)
    steps: list["Step"] = attrs.field(factory=list)

    @property
    def text(self) -> str:
        """What a model has said so far."""
        return "".join(self.said)

    def seconds(self, now: float) -> float:
        """How long it has taken so far."""
        return (now if self.ended_at is None else self.ended_at) - self.began_at


class StepTree:
    """The steps of a response, as its events tell of them. One thread changes it, any may read it.

    No event says that a model is asked: it is when a response or an agent begins, and when all the
    tools have ended that it has called.

    Args:
        name: What to call the response.
        now: The time, in seconds.

    Attributes:
        response: What all steps are part of.
    """

    def __init__(self, name: str, now: float) -> None:
        self.response = Step(name, now)
        self._calls: dict[str, Step] = {}  # by the ids of the items that tell of them
        self._agents: dict[str, Step] = {}  # by the ids of the items that their calls end with
        self._ended: list[Step] = []

    @property
    def answer(self) -> str:
        """What the model has said, if that may be the answer."""
        turns = self.response.steps
        return turns[-1].text if turns and not turns[-1].steps else ""

    def apply(self, event: LoopEvent, now: float) -> list[Step]:
        """Take in an event; gives the steps that have ended with it, the response apart."""
        self._ended = []
        if self.response.state.is_terminal:
            return []  # an agent may not have noticed yet
        if event.kind is LoopEventKind.IN_PROGRESS:
            self._turn(event, now)
        elif event.kind is LoopEventKind.OUTPUT_ITEM_ADDED:
            self._begin_item(event, now)
        elif event.kind is LoopEventKind.OUTPUT_ITEM_DONE:
            self._end_item(event, now)
        elif event.kind.is_terminal:
            self._end_response(event.data["response"], now)
        elif text := text_of(event):
            self._turn(event, now).said.append(text)
        return self._ended

    def cancel(self, now: float) -> None:
        """Nothing more will be told."""
        self._end(self.response, StepState.CANCELED, {}, now)

    def _scope(self, event: LoopEvent) -> Step:
        """The response, or the agent, that an event is about."""
        agent = event.data.get("agent")
        return self._agents[agent["item_id"]] if agent else self.response

    def _turn(self, event: LoopEvent, now: float) -> Step:
        """The model call that an event is about."""
        scope = self._scope(event)
        if not scope.steps:
            self._begin_turn(scope, scope.began_at)
        return scope.steps[-1]

    def _begin_turn(self, scope: Step, now: float) -> None:
        agents = () if scope is self.response else (*scope.agents, scope.name)
        scope.steps.append(Step(_MODEL_CALL, now, agents))

    def _begin_item(self, event: LoopEvent, now: float) -> None:
        item, turn = event.data["item"], self._turn(event, now)
        if item["type"] == "function_call":
            call = Step(item["name"], now, turn.agents, StepState.PENDING, call_id=item["call_id"])
            turn.steps.append(call)
            self._calls[item["id"]] = call
        elif item["type"] == "function_call_output":
            self._settle(turn, StepState.COMPLETED, "", now)
            call = self._begin_call(turn, item["call_id"], now)
            self._calls[item["id"]] = self._agents[item["id"]] = call  # it may be one

    def _begin_call(self, turn: Step, call_id: str, now: float) -> Step:
        """A tool is called, as a model has said."""
        pending = (step for step in turn.steps if step.state is StepState.PENDING)
        call = next(step for step in pending if step.call_id == call_id)
        call.state, call.began_at = StepState.PROCESSING, now
        return call

    def _end_item(self, event: LoopEvent, now: float) -> None:
        item = event.data["item"]
        call = self._calls.pop(item["id"], None)
        if call is None:  # something that a model has said
            return
        if item["type"] == "function_call":
            call.name, call.call_id = item["name"], item["call_id"]
            call.arguments = item["arguments"]
            return
        self._end_call(call, item, now)
        scope = self._scope(event)
        if all(step.state.is_terminal for step in scope.steps[-1].steps):
            self._begin_turn(scope, now)

    def _end_call(self, call: Step, item: Mapping[str, Any], now: float) -> None:
        output = item["output"]
        if item["status"] == "completed":
            self._end(call, StepState.COMPLETED, {}, now)
            call.outcome = output if isinstance(output, str) else json.dumps(output)
        else:
            error = parse_json(output)["error"]
            self._end(call, StepState.FAILED, error, now)
            call.outcome = error["message"] or error["type"]

    def _end_response(self, response: Mapping[str, Any], now: float) -> None:
        incomplete = (response.get("incomplete_details") or {}).get("reason")
        error = response.get("error") or {"message": f"incomplete: {incomplete}"}
        state = _STATES.get(response["status"], StepState.FAILED)
        self.response.outcome = _tokens(response.get("usage") or {})
        self._end(self.response, state, error, now)

    def _end(self, scope: Step, state: StepState, error: Mapping[str, Any], now: float) -> None:
        """End the response or a tool call, with whatever is left open below it."""
        if error.get("code", error.get("type")) == "max_iterations_exceeded":
            self._end_early(scope.steps, now)
        elif scope.steps:
            message = str(error["message"]) if state is StepState.FAILED else ""
            self._settle(scope.steps[-1], state, message, now)
        for step in _below(scope):
            self._settle(step, StepState.CANCELED, "", now)
        self._settle(scope, state, scope.outcome, now)

    def _end_early(self, turns: list[Step], now: float) -> None:
        """The model is not asked any more, or what it has called is not called any more."""
        if turns[-1].steps:
            self._settle(turns[-1], StepState.COMPLETED, "", now)
        else:
            turns.pop()

    def _settle(self, step: Step, state: StepState, outcome: str, now: float) -> None:
        """End a step that has not ended."""
        if not step.state.is_terminal:
            step.state, step.outcome, step.ended_at = state, outcome, now
            if step is not self.response:
                self._ended.append(step)


def text_of(event: LoopEvent) -> str:
    """The text that an event adds to what a model has said."""
    if event.kind is LoopEventKind.OUTPUT_TEXT_DELTA:
        return str(event.data["delta"])
    if event.kind is LoopEventKind.REFUSAL_DONE:
        return f"refusal: {event.data['refusal']}"
    return ""


def _below(step: Step) -> Iterator[Step]:
    for child in step.steps:
        yield child
        yield from _below(child)


def _tokens(usage: Mapping[str, Any]) -> str:
    counts = [usage.get("input_tokens"), usage.get("output_tokens")]
    return f"{counts[0]} → {counts[1]} tokens" if None not in counts else ""


# -- showing them ----------------------------------------------------------------------------------


class _View(Protocol):
    """Shows events as they come."""

    def show(self, event: LoopEvent) -> None: ...


def show(stream: LoopStream, view: AbstractContextManager[_View]) -> None:
    """Show a response as it comes.

    Raises:
        ResponseIncompleteError: The model was stopped early.
        ReasoningError: The response has failed. It has no ``response_id`` if the model could not
            be asked.
    """
    answered = False
    try:
        with stream, view as shown:
            for event in stream:
                answered = answered or event.kind is LoopEventKind.OUTPUT_ITEM_ADDED
                shown.show(event)
    except LoopFailedError as exc:
        refused = exc.status_code is not None or exc.code == "upstream_error"
        if refused and not answered:
            exc.response_id = None
        raise
    details = stream.response.get("incomplete_details")
    if details:
        reason = details["reason"]
        raise ResponseIncompleteError(f"response incomplete: {reason}", reason=reason)


def _line(step: Step, name: str, now: float) -> Text:
    """A step in a line."""
    running = _SPINNER[int(now * _FRAMES_PER_SECOND) % len(_SPINNER)], "cyan"
    pieces: list[tuple[str, str]] = [_MARKS.get(step.state, running), (f" {_short(name)}", "")]
    if step.state is not StepState.PENDING:
        pieces.append((f" {step.seconds(now):.1f} s", "dim"))
    if step.steps and step.said:  # else it is the answer
        pieces.append((f" {_short(step.text)}", "dim"))
    if step.arguments:
        pieces.append((f" {_short(step.arguments)}", "cyan"))
    if step.outcome and step.state is StepState.FAILED:
        pieces.append((f": {_short(step.outcome)}", "red"))
    elif step.outcome:
        pieces.append((f"{' →' if step.call_id else ''} {_short(step.outcome)}", "dim"))
    return Text.assemble(*pieces, no_wrap=True, overflow="ellipsis")


def _short(text: str) -> str:
    """How a text begins, in one line."""
    start = " ".join(text[:_MOST_CHARACTERS].split())
    return visible(start) + ("…" if len(text) > _MOST_CHARACTERS else "")


class PlainText:
    """The text as it comes, and on standard error a line for each step that has ended."""

    def __init__(self, name: str) -> None:
        self._tree = StepTree(name, time.monotonic())
        self._is_for_people = sys.stdout.isatty()
        self._in_line = False

    def show(self, event: LoopEvent) -> None:
        """Print what an event brings."""
        now = time.monotonic()
        for step in self._tree.apply(event, now):
            tell(_line(step, "/".join([*step.agents, step.name]), now))
        if "agent" not in event.data:
            self._print(event)

    def _print(self, event: LoopEvent) -> None:
        if text := text_of(event):
            print(visible(text) if self._is_for_people else text, end="", flush=True)
            self._in_line = not text.endswith("\n")
        elif event.kind is LoopEventKind.OUTPUT_ITEM_DONE and self._in_line:
            print(flush=True)
            self._in_line = False


class LiveTree:
    """All steps, and the answer as it grows; at the end they stay on the screen."""

    def __init__(self, name: str, console: Console) -> None:
        self._tree = StepTree(name, time.monotonic())
        self._console = console
        # Drawn so often by a thread of its own, however fast the events come.
        self._live = Live(
            console=console,
            refresh_per_second=_FRAMES_PER_SECOND,
            transient=True,
            get_renderable=self._growing,
        )

    def __enter__(self) -> "LiveTree":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._tree.cancel(time.monotonic())
        self._live.stop()
        if self._tree.response.steps:
            self._console.print(self._branches())
        if answer := visible(self._tree.answer):
            self._console.print(Text(answer), soft_wrap=True)

    def show(self, event: LoopEvent) -> None:
        """Take in an event."""
        self._tree.apply(event, time.monotonic())

    def _growing(self) -> RenderableType:
        """As many of the last lines as there is room for."""
        whole = Group(self._branches(), Text(visible(self._tree.answer)))
        lines = self._console.render_lines(whole, pad=False)
        return SegmentLines(lines[-max(self._console.height - 1, 1) :], new_lines=True)

    def _branches(self) -> Tree:
        return _branch(self._tree.response, time.monotonic())


def _branch(step: Step, now: float) -> Tree:
    tree = Tree(_line(step, step.name, now), guide_style="dim")
    tree.children += [_branch(child, now) for child in tuple(step.steps)]
    return tree
