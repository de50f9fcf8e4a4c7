"""An agent with three tools and a helper, which tells what it does while it does it.

    OPENAI_API_KEY=... python examples/agent.py "Which is warmer today, Oslo or Rome?"

OPENAI_MODEL chooses the model, OPENAI_BASE_URL a server of chat completions. Ctrl-C stops it all.
"""

import datetime
import os
import sys
from typing import Annotated, Any, Literal

from reasoning_sdk import (
    AgentTools,
    Context,
    FunctionTools,
    LoopConfig,
    LoopEvent,
    LoopEventKind,
    ReasoningError,
    ResponseLoop,
    UpstreamTarget,
)

DEGREES = {"Oslo": 4, "Paris": 15, "Rome": 21}
INSTRUCTIONS = "You plan trips. Call tools side by side where you can. Note what was decided."

functions = FunctionTools()


@functions.register(idempotent=True, timeout=10.0)
def get_weather(city: str, unit: Literal["celsius", "fahrenheit"] = "celsius") -> dict[str, Any]:
    """The weather in a city, now.

    Args:
        city: Its English name.
        unit: That of the temperature.
    """
    if city not in DEGREES:  # the model sees this, and the loop goes on
        raise LookupError(f"no weather is known of {city}, only of {', '.join(DEGREES)}")
    celsius = DEGREES[city]
    return {"city": city, "degrees": celsius if unit == "celsius" else celsius * 9 / 5 + 32}


@functions.register(idempotent=True)
def find_trains(
    origin: str, destination: str, day: Annotated[datetime.date, "The day of departure"]
) -> list[dict[str, str]]:
    """Find trains from one city to another."""
    return [{"from": origin, "to": destination, "at": f"{day}T{hour}:00"} for hour in ("08", "14")]


@functions.register
def note(text: str, context: Context) -> str:
    """Write something down for the traveller."""
    context.request.extensions["notes"].append(text)
    return "noted"


agents = AgentTools()
agents.register(
    "translator",
    description="Translates a text. Say which language it is to be in.",
    instructions="Translate what you are asked to. Answer with the translation alone.",
    tools=[],
)


def make_loop() -> ResponseLoop:
    """The loop: one for a whole process."""
    upstream = UpstreamTarget(
        os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1"),
        api_key=os.environ.get("OPENAI_API_KEY"),
    )
    return ResponseLoop(upstream, tools=[functions, agents], config=LoopConfig(tool_timeout=30.0))


def request_for(question: str) -> dict[str, Any]:
    """The body of a ``POST /v1/responses``."""
    model = os.environ.get("OPENAI_MODEL", "gpt-5-mini")
    return {"model": model, "instructions": INSTRUCTIONS, "input": question}


def show(event: LoopEvent) -> None:
    """Print what an event says: text as it comes, calls and their results when they are there."""
    if event.kind is LoopEventKind.OUTPUT_TEXT_DELTA:
        print(event.data["delta"], end="", flush=True)
    elif event.kind is LoopEventKind.OUTPUT_ITEM_DONE:
        item = event.data["item"]
        if item["type"] == "message":
            print()
        elif item["type"] == "function_call":
            print(f"-> {item['name']}({item['arguments']}) [{item['call_id']}]", flush=True)
        elif item["type"] == "function_call_output":  # in the order in which they end
            failed = "" if item["status"] == "completed" else "failed: "
            print(f"<- [{item['call_id']}] {failed}{item['output']}", flush=True)


def main(question: str) -> int:
    notes: list[str] = []
    try:
        with (
            make_loop() as loop,
            loop.stream(request_for(question), extensions={"notes": notes}) as stream,
        ):
            for event in stream:
                show(event)
    except KeyboardInterrupt:
        print()
        return 130
    except ReasoningError as exc:
        print(f"\n{type(exc).__name__}: {exc}", file=sys.stderr)
        return 1
    usage = stream.response["usage"] or {}
    print(f"-- {usage.get('total_tokens', '?')} tokens, notes: {notes}")
    return 0


if __name__ == "__main__":
    sys.exit(main(" ".join(sys.argv[1:]) or "Which is warmer today, Oslo or Rome?"))
