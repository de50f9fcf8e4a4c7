"""Stream an answer to the terminal, a piece at a time.

    OPENAI_API_KEY=... python examples/stream_text.py "Why is the sky blue?"

OPENAI_MODEL chooses the model, OPENAI_BASE_URL another server. Ctrl-C stops the answer.
"""

import os
import sys

from reasoning_sdk import ReasoningError, ResponsesClient


def main(question: str) -> int:
    try:
        with ResponsesClient(os.environ.get("OPENAI_MODEL", "gpt-5-mini")) as client:
            for text in client.stream(question).text_deltas():
                print(text, end="", flush=True)
    except KeyboardInterrupt:
        print()
        return 130
    except ReasoningError as exc:  # the text that had arrived is on the screen, and in exc.text
        print(f"\n{type(exc).__name__}: {exc}", file=sys.stderr)
        return 1
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main(" ".join(sys.argv[1:]) or "Why is the sky blue?"))
