"""Turns of a model and its tools, by the response loop and by others, over loopback.

The server is in a process of its own and has its answers ready. It reads from a request how far
the conversation has come, so it needs to remember nothing; one that lacks the result of a call
that it has made is refused, and who has sent it has no figure.
"""

import asyncio
import json
import re
import socket
import statistics
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache, partial
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import attrs
import requests

from benchmarks.harness import Candidate, Comparison, Result, is_installed, serving
from reasoning_sdk import (
    CallbackSink,
    LoopConfig,
    LoopEvent,
    LoopEventKind,
    ResponseLoop,
    UpstreamTarget,
    iter_events,
)
from reasoning_sdk._io.model import ModelCaller

__all__ = ["SMALL", "Sizes", "comparisons", "server"]

Event = dict[str, Any]

CHAT, RESPONSES = "chat_completions", "responses"
_PATHS = {CHAT: "/chat/completions", RESPONSES: "/responses"}


@attrs.frozen(kw_only=True)
class Sizes:
    """How long conversations are, and how many.

    Args:
        turns: How many calls of a tool come before the text, one in a turn.
        runs: How many conversations make a figure.
        runs_of_peers: The same of peers, which take many times as long.
        at_once: How many calls come in one turn, of a tool that takes ``_NAP``.
        deltas: How many deltas come one by one, ``_PAUSE`` apart.
        times: How often a round has them come.
        steps: The late step of a long chain, which the tenth is compared with.
        short_chains: How many chains have the tenth.
    """

    turns: int = 20
    runs: int = 10
    runs_of_peers: int = 2
    at_once: int = 8
    deltas: int = 100
    times: int = 4
    steps: int = 1000
    short_chains: int = 20


SMALL = Sizes(
    turns=3, runs=2, runs_of_peers=1, at_once=3, deltas=5, times=1, steps=60, short_chains=2
)


# -- the tools ---------------------------------------------------------------------------------

_NAP = 0.2  # seconds
_B = 1_000_000
_results: list[int] = []  # of the calls of a run


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: One.
        b: The other.
    """
    _results.append(a + b)
    return a + b


def add_slowly(a: int, b: int) -> int:
    """Add two numbers, and take one's time.

    Args:
        a: One.
        b: The other.
    """
    time.sleep(_NAP)
    return add(a, b)


Tool = Callable[..., int]

_TEXT = " ".join(["That", "is", "the", "sum", "of", "all", "these", "numbers"] * 2)


# -- the server --------------------------------------------------------------------------------

_PAUSE = 0.002  # seconds
_PIECES = {"function_call": 18, "message": 16}  # which make 24 events in all


def server() -> AbstractContextManager[int]:
    """A server in a process of its own; gives its port."""
    return serving(_answer_all)


def _answer_all(accepted: socket.socket) -> None:
    """Answer what one connection asks of ``/TOOL/AT_ONCE/TURNS/v1`` or ``/say/0/DELTAS/v1``."""
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with accepted, accepted.makefile("rb") as lines, suppress(ConnectionError):
        while (request := _read(lines)) is not None:
            path, body = request
            tool, at_once, count = path.split("/")[1:4]
            api = RESPONSES if path.endswith(_PATHS[RESPONSES]) else CHAT
            if tool == "say":
                _say(accepted, api, int(count))
            else:
                accepted.sendall(_next(api, tool, int(at_once), int(count), body))


def _next(api: str, tool: str, at_once: int, turns: int, body: bytes) -> bytes:
    """The answer. Calls have numbers, and so the last one in a request says how far it has come."""
    done = max(map(int, re.findall(rb"call_t(\d{4})", body)), default=0)
    last = range(max(done - at_once, 0) + 1, done + 1)
    if not all(b"%d" % (_B + number) in body for number in last):
        return b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
    streamed = re.search(rb'"stream": ?true', body) is not None
    if done == at_once * turns:
        return _text(api, streamed, b'"final_answer"' in body)
    return _calls(api, streamed, tool, done + 1, at_once)


def _read(lines: Any) -> tuple[str, bytes] | None:
    """The path and the body of a request; ``None`` at the end."""
    path, length = "", 0
    while (line := lines.readline()) not in (b"\r\n", b""):
        path = path or line.split()[1].decode()
        if line.lower().startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    return (path, lines.read(length)) if path else None


@cache
def _calls(api: str, streamed: bool, tool: str, first: int, at_once: int) -> bytes:
    """An answer with calls of the tool."""
    numbers = range(first, first + at_once)
    return _answer(api, streamed, [_call(f"t{n:04d}", tool, {"a": n, "b": _B}) for n in numbers])


@cache
def _text(api: str, streamed: bool, by_tool: bool) -> bytes:
    """The last answer: a text, or the call that a peer of ours wants instead."""
    item = _call("final", "final_answer", {"answer": _TEXT}) if by_tool else _message(_TEXT)
    return _answer(api, streamed, [item])


def _answer(api: str, streamed: bool, items: Sequence[Event]) -> bytes:
    if streamed:
        [item] = items
        return _HEAD + b"".join(map(_chunk, _STREAMS[api](item, _cut(item)))) + _END
    body = json.dumps(_BODIES[api](items)).encode()
    head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return (head % len(body)).encode() + body


_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_END = b"0\r\n\r\n"


def _chunk(event: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(event), event)


def _cut(item: Event) -> list[str]:
    """The text of an item in the pieces in which it is streamed."""
    whole, count = _whole(item), _PIECES[item["type"]]
    cuts = [len(whole) * number // count for number in range(count + 1)]
    return [whole[start:end] for start, end in pairwise(cuts)]


def _whole(item: Event) -> str:
    return item["arguments"] if "arguments" in item else item["content"][0]["text"]


def _say(accepted: socket.socket, api: str, count: int) -> None:
    """Stream a text, some milliseconds between its deltas, and tell in the last when they went."""
    sent: list[int] = []

    def pieces() -> Iterator[str]:
        for _ in range(count):
            time.sleep(_PAUSE)
            yield "word "
        yield json.dumps(sent[-count:])

    accepted.sendall(_HEAD)
    for event in _STREAMS[api](_message(""), pieces()):
        data = _chunk(event)
        sent.append(time.monotonic_ns())
        accepted.sendall(data)
    accepted.sendall(_END)


# -- the server's answers ----------------------------------------------------------------------

_USAGE = {"input_tokens": 120, "output_tokens": 30, "total_tokens": 150}
_RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1_760_000_000,
    "status": "in_progress",
    "background": False,
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "max_output_tokens": None,
    "model": "m",
    "output": [],
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "store": False,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
    "usage": None,
    "metadata": {},
}


def _call(id: str, tool: str, arguments: Event) -> Event:
    return {
        "id": f"fc_{id}",
        "type": "function_call",
        "status": "completed",
        "arguments": json.dumps(arguments),
        "call_id": f"call_{id}",
        "name": tool,
    }


def _message(text: str) -> Event:
    part = {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
    return {
        "id": "msg_1",
        "type": "message",
        "status": "completed",
        "content": [part],
        "role": "assistant",
    }


def _response(items: Sequence[Event]) -> Event:
    details = {"input_tokens_details": {"cached_tokens": 0}}
    details["output_tokens_details"] = {"reasoning_tokens": 0}
    return {**_RESPONSE, "status": "completed", "output": items, "usage": {**_USAGE, **details}}


def _completion(items: Sequence[Event]) -> Event:
    """A chat completion that says the same."""
    calls = [
        {
            "id": item["call_id"],
            "type": "function",
            "function": {"name": item["name"], "arguments": item["arguments"]},
        }
        for item in items
        if item["type"] == "function_call"
    ]
    text = None if calls else _whole(items[0])
    message: Event = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
    choice = {
        "index": 0,
        "message": {**message, "tool_calls": calls} if calls else message,
        "logprobs": None,
        "finish_reason": "tool_calls" if calls else "stop",
    }
    usage = {"prompt_tokens": 120, "completion_tokens": 30, "total_tokens": 150}
    return {**_COMPLETION, "object": "chat.completion", "choices": [choice], "usage": usage}


_COMPLETION = {
    "id": "chatcmpl-1",
    "created": 1_760_000_000,
    "model": "m",
    "service_tier": "default",
    "system_fingerprint": "fp_1",
}


def _stream_of_response(item: Event, pieces: Iterable[str]) -> Iterator[bytes]:
    """The events of a response that is an item; its text is made of the pieces."""
    for number, event in enumerate(_events_of_response(item, pieces)):
        data = json.dumps({**event, "sequence_number": number})
        yield f"event: {event['type']}\ndata: {data}\n\n".encode()


def _events_of_response(item: Event, pieces: Iterable[str]) -> Iterator[Event]:
    is_call = item["type"] == "function_call"
    empty: Event = {"arguments": ""} if is_call else {"content": []}
    begun = {**item, "status": "in_progress", **empty}
    place: Event = {"item_id": item["id"], "output_index": 0}
    yield {"type": "response.created", "response": _RESPONSE}
    yield {"type": "response.in_progress", "response": _RESPONSE}
    yield {"type": "response.output_item.added", "output_index": 0, "item": begun}
    if is_call:
        for piece in pieces:
            yield {"type": "response.function_call_arguments.delta", **place, "delta": piece}
        done = {"arguments": item["arguments"], "name": item["name"]}
        yield {"type": "response.function_call_arguments.done", **place, **done}
    else:
        item = yield from _events_of_part({**place, "content_index": 0}, pieces)
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}
    yield {"type": "response.completed", "response": _response([item])}


def _events_of_part(place: Event, pieces: Iterable[str]) -> Generator[Event, None, Event]:
    """The events of a message's text; returns the whole message."""
    [part] = _message("")["content"]
    yield {"type": "response.content_part.added", **place, "part": part}
    text = ""
    for piece in pieces:
        text += piece
        yield {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []}
    message = _message(text)
    yield {"type": "response.output_text.done", **place, "text": text, "logprobs": []}
    yield {"type": "response.content_part.done", **place, "part": message["content"][0]}
    return message


def _stream_of_completion(_: Event, pieces: Iterable[str]) -> Iterator[bytes]:
    """The chunks of a chat completion that is a message; its text is made of the pieces."""
    yield _chunk_of_completion({"role": "assistant", "content": ""}, None)
    for piece in pieces:
        yield _chunk_of_completion({"content": piece}, None)
    yield _chunk_of_completion({}, "stop")
    yield b"data: [DONE]\n\n"


def _chunk_of_completion(delta: Event, finish_reason: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    chunk = {**_COMPLETION, "object": "chat.completion.chunk", "choices": [choice]}
    return f"data: {json.dumps(chunk)}\n\n".encode()


_BODIES = {CHAT: _completion, RESPONSES: _response}
_STREAMS = {CHAT: _stream_of_completion, RESPONSES: _stream_of_response}


# -- conversations -----------------------------------------------------------------------------

_INPUT = "What is the sum of all these numbers?"
_ENDLESS = 100_000  # turns

Ask = Callable[[], str]
"""Has a whole conversation; gives the text at its end."""


def talk(make: Callable[[int], Ask], port: int, runs: int) -> Result:
    """Some conversations, one after the other."""
    ask, text = make(port), ""
    _results.clear()
    for _ in range(runs):
        text = ask()
    return Result(len(_results), text)


def talk_once(make: Callable[[int], Ask], port: int, _: int) -> Result:
    """The time of one conversation by the clock."""
    ask = make(port)
    _results.clear()
    start = time.monotonic()
    text = ask()
    return Result(len(_results), text, time.monotonic() - start)


def nap(count: int) -> Result:
    """What calls of the slow tool take when nothing is in their way."""
    start = time.monotonic()
    time.sleep(_NAP)
    return Result(count, _TEXT, time.monotonic() - start)


@cache
def ours(tool: Tool, path: str, api: str, streamed: bool, port: int) -> Ask:
    """This library; what is streamed goes to a sink."""
    loop = _our_loop(tool, path, api, port)
    request = {"model": "m", "input": _INPUT, "stream": streamed}
    sink = CallbackSink(lambda _: None) if streamed else None
    return lambda: _text_of(loop.run(request, sink=sink))


@cache
def ours_iterated(tool: Tool, path: str, api: str, port: int) -> Ask:
    """This library, iterated."""
    loop = _our_loop(tool, path, api, port)

    def ask() -> str:
        stream = loop.stream({"model": "m", "input": _INPUT})
        for _ in stream:
            pass
        return _text_of(stream.response)

    return ask


def _text_of(response: Event) -> str:
    return response["output"][-1]["content"][0]["text"]


def _our_loop(tool: Tool, path: str, api: str, port: int) -> ResponseLoop:
    upstream = UpstreamTarget(f"http://127.0.0.1:{port}{path}/v1", api_key="key", api=api)
    return ResponseLoop(upstream, tools=[tool], config=LoopConfig(max_iterations=_ENDLESS))


@cache
def bare(tool: Tool, path: str, port: int) -> Ask:
    """The loop that one writes by hand."""
    url = f"http://127.0.0.1:{port}{path}/v1/chat/completions"
    session = requests.Session()
    session.headers["Authorization"] = "Bearer key"
    tools, schemas = {tool.__name__: tool}, [_schema(tool)]

    def ask() -> str:
        messages: list[Event] = [{"role": "user", "content": _INPUT}]
        while True:
            body = {"model": "m", "messages": messages, "tools": schemas}
            response = session.post(url, json=body, timeout=60)
            response.raise_for_status()
            message = response.json()["choices"][0]["message"]
            messages.append(message)
            if not message.get("tool_calls"):
                return message["content"]
            for call in message["tool_calls"]:
                function = call["function"]
                result = tools[function["name"]](**json.loads(function["arguments"]))
                answer = {"role": "tool", "tool_call_id": call["id"], "content": json.dumps(result)}
                messages.append(answer)

    return ask


def _schema(tool: Tool) -> Event:
    number = {"type": "integer"}
    function = {
        "name": tool.__name__,
        "description": (tool.__doc__ or "").partition("\n")[0],
        "parameters": {
            "type": "object",
            "properties": {"a": number, "b": number},
            "required": ["a", "b"],
        },
    }
    return {"type": "function", "function": function}


@cache
def openai_agents(tool: Tool, path: str, api: str, streamed: bool, port: int) -> Ask:
    """openai-agents."""
    import agents  # noqa: PLC0415  # most processes do without
    from openai import AsyncOpenAI  # noqa: PLC0415

    agents.set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=f"http://127.0.0.1:{port}{path}/v1", api_key="key")
    of_api = {CHAT: agents.OpenAIChatCompletionsModel, RESPONSES: agents.OpenAIResponsesModel}
    model = of_api[api](model="m", openai_client=client)
    agent = agents.Agent(name="bench", model=model, tools=[agents.function_tool(tool)])

    async def stream() -> str:
        result = agents.Runner.run_streamed(agent, _INPUT, max_turns=_ENDLESS)
        async for _ in result.stream_events():
            pass
        return result.final_output

    if streamed:
        return partial(_run_async, asyncio.new_event_loop(), stream)
    return lambda: agents.Runner.run_sync(agent, _INPUT, max_turns=_ENDLESS).final_output


def _run_async(loop: asyncio.AbstractEventLoop, ask: Callable[[], Any]) -> str:
    return loop.run_until_complete(ask())


@cache
def pydantic_ai(tool: Tool, path: str, api: str, streamed: bool, port: int) -> Ask:
    """pydantic-ai."""
    from pydantic_ai import Agent, UsageLimits  # noqa: PLC0415
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel  # noqa: PLC0415
    from pydantic_ai.providers.openai import OpenAIProvider  # noqa: PLC0415

    provider = OpenAIProvider(base_url=f"http://127.0.0.1:{port}{path}/v1", api_key="key")
    of_api = {CHAT: OpenAIChatModel, RESPONSES: OpenAIResponsesModel}
    agent = Agent(of_api[api]("m", provider=provider), tools=[tool])
    limits = UsageLimits(request_limit=None)

    async def read(_: Any, events: Any) -> None:
        async for _event in events:
            pass

    handler = read if streamed else None
    return lambda: agent.run_sync(_INPUT, usage_limits=limits, event_stream_handler=handler).output


@cache
def smolagents(tool: Tool, path: str, port: int) -> Ask:
    """smolagents, which speaks no Responses API."""
    import smolagents as peer  # noqa: PLC0415

    url = f"http://127.0.0.1:{port}{path}/v1"
    model = peer.OpenAIServerModel(model_id="m", api_base=url, api_key="key")
    agent = peer.ToolCallingAgent(
        tools=[peer.tool(tool)],
        model=model,
        max_steps=_ENDLESS,
        verbosity_level=peer.LogLevel.OFF,
    )
    return lambda: agent.run(_INPUT)


# -- deltas on their way -----------------------------------------------------------------------


def delay_ours(port: int, path: str, api: str, _: int) -> Result:
    """The median time until a delta is in this library's sink."""
    came: list[int] = []
    texts: list[str] = []

    def take(event: LoopEvent) -> None:
        if event.kind is LoopEventKind.OUTPUT_TEXT_DELTA:
            came.append(time.monotonic_ns())
            texts.append(event.data["delta"])

    with _our_loop(add, path, api, port) as loop:
        loop.run({"model": "m", "input": _INPUT, "stream": True}, sink=CallbackSink(take))
    return _delay(came, texts)


def delay_direct(port: int, path: str, api: str, _: int) -> Result:
    """The median time until who reads the answer itself has it."""
    came: list[int] = []
    texts: list[str] = []
    url = f"http://127.0.0.1:{port}{path}/v1{_PATHS[api]}"
    with requests.post(url, json={"stream": True}, stream=True, timeout=60) as response:
        for event in iter_events(response.iter_content(None)):
            if event.data == "[DONE]":
                break
            text = _DELTAS[api](json.loads(event.data))
            if text:
                came.append(time.monotonic_ns())
                texts.append(text)
    return _delay(came, texts)


_DELTAS: dict[str, Callable[[Event], str | None]] = {
    CHAT: lambda chunk: chunk["choices"][0]["delta"].get("content"),
    RESPONSES: lambda event: event.get("delta"),
}


def _delay(came: Sequence[int], texts: Sequence[str]) -> Result:
    """The last text tells when the others were sent."""
    delays = [c - s for c, s in zip(came, json.loads(texts[-1]), strict=False)]
    return Result(len(delays), texts[0], statistics.median(delays) / 1e9)


# -- a long chain ------------------------------------------------------------------------------

_TURNS = 10  # whose median is the figure of the step in their middle
_STEPS = 2  # of a turn: the call of the model, and that of its tool


def chain(port: int, turns: int, runs: int) -> Result:
    """CPU time of a turn at the end of a chain, outside JSON and HTTP, in the memory store.

    A turn's bodies are written, sent, received and read by the one function that asks the model. So
    the rest of a turn is what lies between that function's return and the next call of it, in all
    threads of the process: the tool, the steps, the events, and what is to be done next.
    """
    text, outside = "", list[float]()
    _results.clear()
    with _our_loop(add, f"/add/1/{turns}", CHAT, port) as loop:
        for _ in range(runs):
            with _timed_calls() as times:
                text = _text_of(loop.run({"model": "m", "input": _INPUT}))
            rests = [end - start for start, end in zip(times[1::2], times[2::2], strict=False)]
            outside += rests[-_TURNS:]
    return Result(len(_results), text, statistics.median(outside))


@contextmanager
def _timed_calls() -> Iterator[list[float]]:
    """The CPU times at which each call of a model begins and ends."""
    times: list[float] = []
    call, now = ModelCaller.call, time.process_time

    def timed(*args: Any, **kwargs: Any) -> Any:
        times.append(now())
        try:
            return call(*args, **kwargs)
        finally:
            times.append(now())

    with patch.object(ModelCaller, "call", timed):
        yield times


# -- comparisons -------------------------------------------------------------------------------

_WITHOUT_SPEED = ("msgspec",)
_BARE = "`requests` + `json`"
_NAMES = {CHAT: "Chat Completions", RESPONSES: "Responses"}
_DIRECT = "`requests` + `iter_events` + `json`"
_EARLY = "itself, step 10"


def comparisons(sizes: Sizes, port: int) -> list[Comparison]:
    """All figures of this file."""
    return [
        *_calls_of(sizes, port, CHAT, streamed=False, bounds=(1.8, 0.15)),
        *_calls_of(sizes, port, RESPONSES, streamed=False, bounds=(None, None)),
        *_calls_of(sizes, port, RESPONSES, streamed=True, bounds=(3, 0.1)),
        _iterated(sizes, port),
        _side_by_side(sizes, port),
        *(_delays(sizes, port, api) for api in (CHAT, RESPONSES)),
        _chain(sizes, port),
    ]


def _calls_of(
    sizes: Sizes,
    port: int,
    api: str,
    *,
    streamed: bool,
    bounds: tuple[float | None, float | None],
) -> list[Comparison]:
    """CPU time per call of the model: against a loop by hand, which never streams, and peers."""
    path = f"/add/1/{sizes.turns}"
    what = f"loop, {_NAMES[api]}{', streamed' if streamed else ''}, per model call"
    run = partial(ours, add, path, api, streamed)
    found = partial(
        Comparison,
        what=what,
        ours=_talking("ours, loop", run, sizes, port, sizes.runs, without=_WITHOUT_SPEED),
        unit=(1e3, "ms"),
    )
    by_hand = [_talking(_BARE, partial(bare, add, path), sizes, port, sizes.runs)]
    peers = [
        _talking(name, make, sizes, port, sizes.runs_of_peers)
        for name, make in _peers(add, path, api, streamed).items()
    ]
    at_most, at_most_of_peers = bounds
    return [
        found(others=by_hand, at_most=at_most, judge=[_BARE]),
        found(others=peers, at_most=at_most_of_peers, judge=[peer.name for peer in peers]),
    ]


def _iterated(sizes: Sizes, port: int) -> Comparison:
    """The same where events are not given to a sink, but iterated in the caller's thread."""
    path = f"/add/1/{sizes.turns}"
    run = partial(ours_iterated, add, path, RESPONSES)
    return Comparison(
        what="loop, Responses, `stream` iterated, per model call",
        ours=_talking("ours, loop", run, sizes, port, sizes.runs, without=_WITHOUT_SPEED),
        others=[_talking(_BARE, partial(bare, add, path), sizes, port, sizes.runs)],
        unit=(1e3, "ms"),
    )


def _talking(
    name: str, make: Callable[[int], Ask], sizes: Sizes, port: int, runs: int, **options: Any
) -> Candidate:
    return Candidate(
        name=name,
        run=partial(talk, make, port),
        given=partial(int, runs),
        count=runs * sizes.turns,
        last=_TEXT,
        per=runs * (sizes.turns + 1),
        **options,
    )


def _peers(tool: Tool, path: str, api: str, streamed: bool) -> dict[str, Callable[[int], Ask]]:
    """Those that are installed, and can do it."""
    found: dict[str, Callable[[int], Ask]] = {}
    if is_installed("openai-agents"):
        found["openai-agents"] = partial(openai_agents, tool, path, api, streamed)
    if is_installed("pydantic-ai-slim"):
        found["pydantic-ai"] = partial(pydantic_ai, tool, path, api, streamed)
    if is_installed("smolagents") and api == CHAT:
        found["smolagents"] = partial(smolagents, tool, path)
    return found


def _side_by_side(sizes: Sizes, port: int) -> Comparison:
    """The time by the clock for calls that could all be made at once."""
    path, count = f"/add_slowly/{sizes.at_once}/1", sizes.at_once
    of = partial(Candidate, given=partial(int, count), count=count, last=_TEXT)
    makes = _peers(add_slowly, path, CHAT, False)
    peers = [of(name=n, run=partial(talk_once, make, port)) for n, make in makes.items()]
    make = partial(ours, add_slowly, path, CHAT, False)
    return Comparison(
        what=f"loop, {count} tools of {_NAP:g} s in one turn",
        ours=of(name="ours, loop", run=partial(talk_once, make, port), without=_WITHOUT_SPEED),
        others=[of(name="`time.sleep`", run=nap), *peers],
        at_most=1.15,
        judge=["`time.sleep`"],
        unit=(1e3, "ms"),
    )


def _delays(sizes: Sizes, port: int, api: str) -> Comparison:
    """The time from the server's write of a delta until it is seen."""
    of = partial(Candidate, given=partial(int, sizes.deltas), count=sizes.deltas, last="word ")
    path = f"/say/0/{sizes.deltas}"
    return Comparison(
        what=f"loop, {_NAMES[api]}, from write to sink, p50",
        ours=of(
            name="ours, deltas", run=partial(delay_ours, port, path, api), without=_WITHOUT_SPEED
        ),
        others=[of(name=_DIRECT, run=partial(delay_direct, port, path, api))],
        at_most=1.5,
        judge=[_DIRECT],
        turns=sizes.times,
    )


def _chain(sizes: Sizes, port: int) -> Comparison:
    """What a step takes late in a chain, against early."""

    def of(steps: int, runs: int, name: str) -> Candidate:
        turns = (steps + _TURNS) // _STEPS
        return Candidate(
            name=name,
            run=partial(chain, port, turns),
            given=partial(int, runs),
            count=turns * runs,
            last=_TEXT,
            without=_WITHOUT_SPEED,
        )

    return Comparison(
        what=f"loop, step {sizes.steps:,} of a chain, outside JSON and HTTP",
        ours=of(sizes.steps, 1, "ours, chain"),
        others=[of(10, sizes.short_chains, _EARLY)],
        at_most=3,
        judge=[_EARLY],
    )
