"""A Flask view that relays a streamed answer to browsers, as server-sent events.

    OPENAI_API_KEY=... flask --app examples/relay_flask run
    curl -N --json '{"question": "Why is the sky blue?"}' http://127.0.0.1:5000/ask

The browser gets ``text`` events, then ``done`` or ``error``. When it goes away, so does the request
to the service, which may cost money: when a write fails, the server closes what the view gave it.
While nothing comes from the service, a comment is written every PING_SECONDS to find out.
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from queue import Empty, Queue
from threading import Thread
from typing import Any

from flask import Flask, Response, request

from reasoning_sdk import (
    APIStatusError,
    RateLimitError,
    ReasoningError,
    RequestTimeoutError,
    ResponseEvent,
    ResponsesClient,
    ResponseStream,
)

app = Flask(__name__)
app.config["PING_SECONDS"] = 15.0


@cache
def client() -> ResponsesClient:
    """One for the process: it is safe to use from any thread, and keeps connections open."""
    return ResponsesClient(os.environ.get("OPENAI_MODEL", "gpt-5-mini"))


@app.post("/ask")
def ask() -> Response:
    stream = client().stream(request.get_json()["question"])  # what fails here has a status
    return Response(
        relay(stream, app.config["PING_SECONDS"]),
        mimetype="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


@app.errorhandler(ReasoningError)
def refuse(error: ReasoningError) -> tuple[dict[str, Any], int, dict[str, str]]:
    """What went wrong before a byte was sent, as a status of ours."""
    app.logger.warning("the service could not be asked: %s", error)
    headers = {}
    if isinstance(error, RateLimitError):
        status, said = 429, "too many questions at the moment"
        if error.retry_after is not None:
            headers["Retry-After"] = str(round(error.retry_after))
    elif isinstance(error, RequestTimeoutError):
        status, said = 504, "the service does not answer"
    elif isinstance(error, APIStatusError) and error.status_code == 400:
        status, said = 400, error.message
    else:  # a wrong key is ours, not the browser's
        status, said = 502, "the service cannot be asked"
    return {"error": said}, status, headers


def relay(stream: ResponseStream, ping_seconds: float) -> Iterator[str]:
    with stream:  # closes it, too, when the server closes this generator
        try:
            for event in with_pauses(stream, ping_seconds):
                if event is None:
                    yield ": ping\n\n"
                elif event.type == "response.output_text.delta":
                    yield sse("text", event.data["delta"])
            response = stream.until_done()  # raises if somebody has closed the stream
            yield sse("done", {"id": response.id, "usage": response.usage})
        except ReasoningError as exc:  # too late for a status
            app.logger.warning("the answer was not completed: %s", exc)
            yield sse("error", {"message": "the answer broke off", "retryable": exc.retryable})


def with_pauses(stream: ResponseStream, seconds: float) -> Iterator[ResponseEvent | None]:
    """The stream's events, and None whenever none has come for so many seconds."""
    arrived: Queue[ResponseEvent | ReasoningError | None] = Queue(maxsize=100)

    def read() -> None:
        try:
            for event in stream:  # ends when the stream is closed
                arrived.put(event)
            arrived.put(None)
        except ReasoningError as exc:
            arrived.put(exc)

    reader = Thread(target=read, name="relay", daemon=True)
    reader.start()
    try:
        while True:
            try:
                event = arrived.get(timeout=seconds)
            except Empty:
                yield None
                continue
            if event is None:
                return
            if isinstance(event, ReasoningError):
                raise event
            yield event
    finally:
        stream.close()
        while reader.is_alive():  # it may be waiting for room
            with suppress(Empty):
                arrived.get(timeout=0.1)


def sse(event: str, data: Any) -> str:
    return f"event: {event}\ndata: {json.dumps(data)}\n\n"
