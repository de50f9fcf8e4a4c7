"""A scripted model behind a real server, in both dialects.

A :class:`ModelServer` answers ``POST /v1/chat/completions`` and ``POST /v1/responses``, streamed or
not as the body's ``stream`` says. What it answers is a *turn*: one of a list, in the order in which
the requests arrive, or what a function makes of the request's JSON, which serves agents and others
that ask side by side::

    turns = [Call(("add", {"a": 1, "b": 2}), ("add", {"a": 3, "b": 4})), Say("3 and 7")]
    with ModelServer(turns) as model:
        run(UpstreamTarget(model.url))
    assert model.bodies[1]["messages"][-1]["content"] == "7"

A turn can be held in the middle of its stream until the test opens a gate::

    model = ModelServer([Say("Hello, world!", gate="held")])
    …                       # another thread asks
    model.wait_at("held")   # the first delta of the text was sent
    model.open("held")

``model.http`` is the :class:`ScriptedServer` beneath, for all that is about connections. A request
for which there is no turn, and a function that raises, fail the test at the end.
"""

import itertools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import attrs

from tests.support import recordings
from tests.support.recordings import CREATED_AT, JSON, dumps, pieces
from tests.support.scripted import (
    Connection,
    Handler,
    Request,
    ScriptedServer,
    json_answer,
    reset,
    silence,
    sse,
)

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
DONE = b"data: [DONE]\n\n"

_REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}


@attrs.frozen
class Usage:
    """The tokens that a turn counts."""

    input: int = 11
    output: int = 7
    cached: int = 0
    reasoning: int = 0

    @property
    def of_chat(self) -> JSON:
        return {
            "prompt_tokens": self.input,
            "completion_tokens": self.output,
            "total_tokens": self.input + self.output,
            "prompt_tokens_details": {"cached_tokens": self.cached, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning, "audio_tokens": 0},
        }

    @property
    def of_response(self) -> JSON:
        return {
            "input_tokens": self.input,
            "input_tokens_details": {"cached_tokens": self.cached},
            "output_tokens": self.output,
            "output_tokens_details": {"reasoning_tokens": self.reasoning},
            "total_tokens": self.input + self.output,
        }


@attrs.frozen
class Say:
    """The model says something, and may call tools.

    Args:
        text: What it says.
        calls: The tools, each ``(name, arguments)`` or ``(name, arguments, call_id)``; arguments
            that are a text are sent as they are. Call ids not given are ``call_1``, ``call_2`` …
        reasoning: What it thinks before.
        refusal: What it refuses with.
        usage: The tokens it counts; ``None`` tells none. A streamed chat completion tells them
            only to who asks with ``stream_options.include_usage``.
        finish_reason: As in a chat completion; what fits when it is ``None``.
        gate: The name of a gate: a streamed answer waits there after its first delta that says
            something, another one before it begins.
        pieces: In how many deltas each text is streamed.
    """

    text: str = ""
    calls: Sequence[tuple[Any, ...]] = attrs.field(default=(), kw_only=True)
    reasoning: str = attrs.field(default="", kw_only=True)
    refusal: str = attrs.field(default="", kw_only=True)
    usage: Usage | None = attrs.field(default=Usage(), kw_only=True)
    finish_reason: str | None = attrs.field(default=None, kw_only=True)
    gate: str | None = attrs.field(default=None, kw_only=True)
    pieces: int = attrs.field(default=3, kw_only=True)

    @property
    def reason(self) -> str:
        return self.finish_reason or ("tool_calls" if self.calls else "stop")


def Call(*calls: tuple[Any, ...], text: str = "", **options: Any) -> Say:  # noqa: N802  # reads as a turn
    """The model calls tools; ``options`` are those of :class:`Say`."""
    return Say(text, calls=calls, **options)


@attrs.frozen
class Refuse:
    """The server answers with an error."""

    status: int
    body: Any = attrs.field(factory=lambda: {"error": {"message": "refused", "type": "refused"}})
    headers: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen
class Cut:
    """The stream breaks off after so many of its events; without a stream, there is no answer."""

    after: int = 2
    turn: Say = Say("Hello, world!")
    reset: bool = False


@attrs.frozen
class Hang:
    """The server falls silent until the client is gone: after so many events of a stream.

    Without a stream, or with ``after=None``, it sends not even a status line.
    """

    after: int | None = None
    turn: Say = Say("Hello, world!")


#: What can be answered: bytes are the body of an event stream.
Turn: TypeAlias = Say | Refuse | Cut | Hang | bytes | Handler


class ModelServer:
    """Plays turns.

    Args:
        turns: One turn for each request, or a function that makes a turn of a request's JSON; it
            is called in the threads of the connections.
        chunk_size: Send pieces of so many bytes; else one for every event.
        timeout: Seconds after which any wait gives up.
    """

    def __init__(
        self,
        turns: Iterable[Turn] | Callable[[JSON], Turn] = (),
        *,
        chunk_size: int | None = None,
        timeout: float = 20.0,
    ) -> None:
        self._turns = turns if callable(turns) else list(turns)
        self._chunk_size = chunk_size
        self._lock = threading.Lock()
        self._answers = itertools.count(1)
        self._calls = itertools.count(1)
        self.http = ScriptedServer(self._serve, repeat_last=True, timeout=timeout)

    @property
    def url(self) -> str:
        """The base URL, ending in ``/v1``."""
        return self.http.base_url

    @property
    def requests(self) -> list[Request]:
        """The requests so far, in the order in which they arrived."""
        return list(self.http.requests)

    @property
    def bodies(self) -> list[JSON]:
        """The JSON of the requests so far."""
        return [request.json() for request in self.requests]

    def then(self, *turns: Turn) -> "ModelServer":
        """Add turns to the end of the list."""
        assert isinstance(self._turns, list)
        self._turns.extend(turns)
        return self

    def open(self, gate: str) -> None:
        """Let the turns go on that wait at the gate, or will come to it."""
        self.http.open(gate)

    def wait_at(self, gate: str, timeout: float | None = None) -> None:
        """Wait until a turn has come to the gate."""
        self.http.wait_at(gate, timeout)

    def wait_for_requests(self, count: int, timeout: float | None = None) -> list[Request]:
        """Wait until so many requests have come, and get them all."""
        return self.http.wait_for_requests(count, timeout)

    def stop(self) -> None:
        """Close everything. A second call does nothing."""
        self.http.stop()

    def check(self) -> None:
        """Raise for what went wrong on the server's side."""
        self.http.check()

    def __enter__(self) -> "ModelServer":
        self.http.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self.http.__exit__(*exc)

    # -- answers -------------------------------------------------------------------------------

    def _serve(self, connection: Connection) -> None:
        self._handler(connection.request)(connection)

    def _handler(self, request: Request) -> Handler:
        if request.path not in (CHAT, RESPONSES):
            return json_answer(404, {"error": {"message": f"no such path: {request.path}"}})
        body = request.json()
        turn = self._turn(request, body)
        if isinstance(turn, Refuse):
            return json_answer(turn.status, turn.body, turn.headers)
        if isinstance(turn, bytes):
            return self._events([turn])
        if isinstance(turn, Say):
            return self._answer(turn, request.path, body)
        if isinstance(turn, Cut):
            return self._cut(turn, request.path, body)
        if isinstance(turn, Hang):
            return self._hang(turn, request.path, body)
        return turn

    def _turn(self, request: Request, body: JSON) -> Turn:
        if callable(self._turns):
            return self._turns(body)
        with self._lock:  # requests that arrive side by side get their turns in that order, too
            asked = [one for one in self.http.requests if one.path in (CHAT, RESPONSES)]
            at = next(n for n, one in enumerate(asked) if one is request)
            if at < len(self._turns):
                return self._turns[at]
            self.http.unscripted.append(request)
        return Refuse(400, {"error": {"message": f"there is no turn for request {at}"}})

    def _answer(self, turn: Say, path: str, body: JSON) -> Handler:
        answer = self._written(turn, path, body)
        if body.get("stream"):
            events = answer.events()
            middle = next((n for n, event in enumerate(events, 1) if _says(event)), 0)
            return self._events(events, gates={middle: turn.gate} if turn.gate else None)
        whole = json_answer(200, answer.body())
        return whole if turn.gate is None else _gated(turn.gate, whole)

    def _cut(self, cut: Cut, path: str, body: JSON) -> Handler:
        if not body.get("stream"):
            return reset()
        events = self._written(cut.turn, path, body).events()
        return self._events(events[: cut.after], then="reset" if cut.reset else "close")

    def _hang(self, hang: Hang, path: str, body: JSON) -> Handler:
        if hang.after is None or not body.get("stream"):
            return silence(headers=False)
        events = self._written(hang.turn, path, body).events()
        return self._events(events[: hang.after], then="silence")

    def _events(self, events: Sequence[bytes | JSON], **options: Any) -> Handler:
        return sse(events, one_chunk_per_event=True, chunk_size=self._chunk_size, **options)

    def _written(self, turn: Say, path: str, body: JSON) -> "_Answer":
        with self._lock:
            number = next(self._answers)
            calls = [
                (
                    name,
                    _arguments(arguments),
                    call_id[0] if call_id else f"call_{next(self._calls)}",
                )
                for name, arguments, *call_id in turn.calls
            ]
        return (_Chat if path == CHAT else _Response)(turn, calls, number, body)


@attrs.frozen
class _Answer:
    """A turn, in one of the dialects."""

    turn: Say
    calls: list[tuple[str, str, str]]
    number: int
    request: JSON

    def body(self) -> JSON:
        """The answer to who does not stream."""
        raise NotImplementedError

    def events(self) -> list[bytes | JSON]:
        """The answer to who does."""
        raise NotImplementedError


class _Chat(_Answer):
    def body(self) -> JSON:
        turn = self.turn
        message: JSON = {"role": "assistant", "content": turn.text or None}
        if turn.reasoning:
            message["reasoning_content"] = turn.reasoning
        if turn.refusal:
            message["refusal"] = turn.refusal
        if self.calls:
            message["tool_calls"] = [
                {"id": call_id, "type": "function", "function": {"name": n, "arguments": arguments}}
                for n, arguments, call_id in self.calls
            ]
        choice = {"index": 0, "message": message, "finish_reason": turn.reason}
        usage = {} if turn.usage is None else {"usage": turn.usage.of_chat}
        return {**self._head("chat.completion"), "choices": [choice], **usage}

    def events(self) -> list[bytes | JSON]:
        chunks = [self._chunk({"role": "assistant", "content": ""})]
        chunks += map(self._chunk, self._deltas())
        chunks.append(self._chunk({}, self.turn.reason))
        asked = (self.request.get("stream_options") or {}).get("include_usage")
        if asked and self.turn.usage is not None:
            head = self._head("chat.completion.chunk")
            chunks.append({**head, "choices": [], "usage": self.turn.usage.of_chat})
        return [*chunks, DONE]

    def _deltas(self) -> Iterable[JSON]:
        turn = self.turn
        said = {"reasoning_content": turn.reasoning, "content": turn.text, "refusal": turn.refusal}
        for name, text in said.items():
            for piece in pieces(text, turn.pieces) if text else ():
                yield {name: piece}
        for index, (name, arguments, call_id) in enumerate(self.calls):
            first = {"id": call_id, "type": "function", "function": {"name": name, "arguments": ""}}
            yield {"tool_calls": [{"index": index, **first}]}
            for piece in pieces(arguments, turn.pieces):
                yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}

    def _chunk(self, delta: JSON, finish_reason: str | None = None) -> JSON:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def _head(self, kind: str) -> JSON:
        return {
            "id": f"chatcmpl_{self.number}",
            "object": kind,
            "created": CREATED_AT,
            "model": self.request.get("model"),
        }


class _Response(_Answer):
    def body(self) -> JSON:
        incomplete = _REASONS.get(self.turn.reason)
        return recordings.response_object(
            self._items(),
            **self._fields(),
            status="incomplete" if incomplete else "completed",
            incomplete_details={"reason": incomplete} if incomplete else None,
            usage=None if self.turn.usage is None else self.turn.usage.of_response,
        )

    def events(self) -> list[bytes | JSON]:
        body = self.body()
        end = {"type": f"response.{body['status']}", "response": body}
        return [*recordings.response(self._items(), end=end, **self._fields())]

    def _fields(self) -> JSON:
        return {"response_id": f"resp_{self.number}", "model": self.request.get("model")}

    def _items(self) -> list[recordings.Item]:
        turn, number, deltas = self.turn, self.number, self.turn.pieces
        items = []
        if turn.reasoning:
            id = f"rs_{number}"
            items.append(
                recordings.reasoning(turn.reasoning, kind="text", item_id=id, deltas=deltas)
            )
        if turn.text:
            items.append(recordings.message(turn.text, item_id=f"msg_{number}", deltas=deltas))
        if turn.refusal:
            items.append(recordings.refusal(turn.refusal, item_id=f"msg_{number}_refusal"))
        for place, (name, arguments, call_id) in enumerate(self.calls):
            id = f"fc_{number}_{place}"
            items.append(
                recordings.function_call(
                    name, arguments, call_id=call_id, item_id=id, deltas=deltas
                )
            )
        if items and turn.reason in _REASONS:
            items[-1].done["status"] = "incomplete"
        return items


def _arguments(value: Any) -> str:
    return value if isinstance(value, str) else dumps(value)


def _says(event: bytes | JSON) -> bool:
    """Whether an event of either dialect is a delta with a text in it."""
    if isinstance(event, bytes):
        return False
    deltas = [choice["delta"] for choice in event.get("choices", ())]
    return event.get("type", "").endswith(".delta") or any(d and "role" not in d for d in deltas)


def _gated(name: str, handler: Handler) -> Handler:
    def handle(connection: Connection) -> None:
        connection.gate(name)
        handler(connection)

    return handle
