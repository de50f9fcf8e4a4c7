"""Runs the response loop against `transformers serve`, and judges what comes of it.

Usage: run.py DIRECTORY, where `install` has put the server and its model. The model has random
weights: what it says makes no sense, but how it is sent is what people meet.
"""

import itertools
import signal
import sys
from pathlib import Path
from typing import Any

from reasoning_sdk import LoopEventKind, RecordingSink, ResponseLoop, UpstreamTarget
from tests.support.open_responses import check_response, check_stream
from tests.support.processes import ServerProcess

SECONDS_TO_START = 180.0
TOKENS = 24
APIS = ["chat_completions", "responses"]
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "CUDA_VISIBLE_DEVICES": ""}
CALLED: list[dict[str, Any]] = [
    {"role": "user", "content": "What is 1 + 2?"},
    {"type": "function_call", "call_id": "call_1", "name": "add", "arguments": '{"a":1,"b":2}'},
    {"type": "function_call_output", "call_id": "call_1", "output": "3"},
]


class TransformersServer(ServerProcess):
    """``transformers serve`` with one model."""

    name = "transformers serve"

    def __init__(self, directory: Path) -> None:
        self.model = str(directory / "model")
        command = [str(directory / "env" / "bin" / "transformers"), "serve", self.model]
        command += ["--host", "127.0.0.1", "--device", "cpu"]
        super().__init__(
            lambda port: [*command, "--port", str(port)],
            environment=OFFLINE,
            start_timeout=SECONDS_TO_START,
        )


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def main(directory: Path) -> int:
    """Run all; 1 if something was wrong."""
    failed = 0
    with TransformersServer(directory) as server:
        for api, streamed in itertools.product(APIS, [True, False]):
            with ResponseLoop(UpstreamTarget(server.base_url, api=api), tools=[add]) as loop:
                name = f"{api}, {'streamed' if streamed else 'whole'}"
                try:
                    print(f"{name}: {converse(loop, server.model, streamed)}")
                except Exception as exc:  # the others have to be tried all the same
                    print(f"{name}: {type(exc).__name__}: {exc}")
                    failed += 1
    return int(failed > 0)


def converse(loop: ResponseLoop, model: str, streamed: bool) -> str:
    """Have two responses made, the second a continuation of the first; what is to be said of it."""
    request = {"model": model, "stream": streamed, "max_output_tokens": TOKENS}
    first = judged(loop, {**request, "input": CALLED, "instructions": "Be brief."})
    second = judged(loop, {**request, "input": "And?", "previous_response_id": first["id"]})
    usage = second["usage"]
    assert usage["input_tokens"] > first["usage"]["input_tokens"], usage
    assert 0 < usage["output_tokens"] <= TOKENS, usage
    statuses = f"{first['status']}, then {second['status']}"
    return f"{statuses}; {usage['input_tokens']} tokens in, {usage['output_tokens']} out"


def judged(loop: ResponseLoop, request: dict[str, Any]) -> dict[str, Any]:
    """A response whose events and whose object keep the rules."""
    sink = RecordingSink()
    response = loop.run(request, sink=sink)
    check_response(response)
    check_stream([event.data for event in sink.events])
    deltas = [e.data for e in sink.events if e.kind is LoopEventKind.OUTPUT_TEXT_DELTA]
    assert deltas, "the model has said nothing"
    assert len(deltas) > 1 or not request["stream"], "the text came in one piece"
    return response


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # else the server would stay
    sys.exit(main(Path(sys.argv[1]).resolve()))
