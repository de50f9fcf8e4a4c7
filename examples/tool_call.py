"""Let a model call a function: one round, by hand.

    OPENAI_API_KEY=... python examples/tool_call.py "What is the weather in Paris?"

The first stream ends with function calls. Their results go into the second, which answers.
"""

import json
import os
import sys
from typing import Any

from reasoning_sdk import ResponsesClient

TOOLS = [
    {
        "type": "function",
        "name": "get_weather",
        "description": "The weather in a city, now.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
        "strict": True,
    }
]


def get_weather(city: str, unit: str) -> dict[str, Any]:
    return {"city": city, "temperature": 21, "unit": unit}


FUNCTIONS = {"get_weather": get_weather}


def call(item: dict[str, Any]) -> dict[str, Any]:
    """Run a function call; what goes wrong is a result too, which the model can react to."""
    try:
        result = FUNCTIONS[item["name"]](**json.loads(item["arguments"]))
    except Exception as exc:
        result = {"error": f"{type(exc).__name__}: {exc}"}
    return {
        "type": "function_call_output",
        "call_id": item["call_id"],  # says which call this is the result of
        "output": json.dumps(result),
    }


def main(question: str) -> None:
    conversation: list[dict[str, Any]] = [{"role": "user", "content": question}]
    with ResponsesClient(os.environ.get("OPENAI_MODEL", "gpt-5-mini")) as client:
        stream = client.stream(conversation, tools=TOOLS)
        results = []
        for item in stream.output_items():  # each as soon as it is finished
            if item["type"] == "function_call":
                print(f"-> {item['name']}({item['arguments']})")
                results.append(call(item))
        if not results:
            print(stream.text)
            return
        conversation += [*stream.items, *results]
        for text in client.stream(conversation, tools=TOOLS).text_deltas():
            print(text, end="", flush=True)
        print()


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "What is the weather in Paris?")
