"""Stream an answer to the terminal, and publish it to a viewer on the way.

    VIEWER_ADDRESS=... OPENAI_API_KEY=... python examples/publish.py "Why is the sky blue?"

VIEWER_SIGNATURE is the secret of the viewer. The answer does not wait for the viewer; the end of
the program does, ten seconds at the most. It ends with 1 if there was no whole answer, and with 4
if the answer is whole but not all of it has arrived at the viewer.
"""

import os
import sys
from uuid import uuid4

from reasoning_sdk import LostEvent, ReasoningError, ResponsesClient, ViewerClient

MODEL = os.environ.get("OPENAI_MODEL", "gpt-5-mini")


def answer(question: str, viewer: ViewerClient) -> int:
    request = {"model": MODEL, "input": question}
    try:
        with ResponsesClient(MODEL) as client, client.stream(question) as stream:
            for event in viewer.tee(f"run-{uuid4()}", request, stream):
                if event.type == "response.output_text.delta":
                    print(event.data["delta"], end="", flush=True)
    except KeyboardInterrupt:
        print()
        return 130
    except ReasoningError as exc:  # the viewer has been told by tee
        print(f"\n{type(exc).__name__}: {exc}", file=sys.stderr)
        return 1
    print()
    return 0


def complain(event: LostEvent, error: Exception) -> None:
    print(f"not published ({event.reason}): {error}", file=sys.stderr)


def main(question: str) -> int:
    with ViewerClient(on_error=complain) as viewer:
        code = answer(question, viewer)
        arrived = viewer.close(timeout=10.0)
        stats = viewer.stats
    if arrived and stats.delivered == stats.submitted:
        return code
    print(f"published {stats.delivered} of {stats.submitted} events", file=sys.stderr)
    return code or 4


if __name__ == "__main__":
    sys.exit(main(" ".join(sys.argv[1:]) or "Why is the sky blue?"))
