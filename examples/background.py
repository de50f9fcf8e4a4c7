"""Start a response in the background, leave it, and come back to it.

    OPENAI_API_KEY=... python examples/background.py "Write a long story."

Ctrl-C leaves the response running and prints how to go on with it:

    OPENAI_API_KEY=... python examples/background.py --resume resp_123 --after 42

A connection that breaks is no reason to come back: the stream takes itself up again.
"""

import argparse
import os
import sys

from reasoning_sdk import ResponsesClient, ResponseStream


def show(stream: ResponseStream, after: int | None = None) -> int:
    try:
        for event in stream:
            after = event.sequence_number
            if event.type == "response.output_text.delta":
                print(event.data["delta"], end="", flush=True)
    except KeyboardInterrupt:
        print(f"\nstill running; go on with: --resume {stream.response_id} --after {after}")
        return 130
    print()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("question", nargs="?", default="Write a long story.")
    parser.add_argument("--resume", metavar="ID", help="go on with this response")
    parser.add_argument("--after", metavar="N", type=int, help="the last event that was seen")
    given = parser.parse_args()
    with ResponsesClient(os.environ.get("OPENAI_MODEL", "gpt-5-mini")) as client:
        if given.resume:
            return show(client.resume(given.resume, starting_after=given.after), given.after)
        return show(client.stream(given.question, background=True))


if __name__ == "__main__":
    sys.exit(main())
