"""Follow server-sent events, through connections that break.

    python examples/event_source.py https://example.com/events

It ends when the server says so (status 204), or with Ctrl-C.
"""

import sys

from reasoning_sdk import EventSource, ReasoningError


def main(url: str) -> int:
    source = EventSource(
        url,
        idle_timeout=60.0,  # a connection that brings no event for so long is made anew
        on_reconnect=lambda attempt: print(f"reconnecting, attempt {attempt}", file=sys.stderr),
    )
    try:
        with source:
            for event in source:
                print(f"{event.id or '-'} {event.event}: {event.data}", flush=True)
    except KeyboardInterrupt:
        return 130
    except ReasoningError as exc:
        print(f"{type(exc).__name__}: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
