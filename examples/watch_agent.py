"""Follow what a cognitive agent does, through connections that break.

    REASONING_LAYER_URL=... REASONING_LAYER_TENANT_ID=... TOKEN_FILE=... \
        python examples/watch_agent.py AGENT_ID

TOKEN_FILE has the token, which something else keeps fresh. It ends with Ctrl-C.
"""

import os
import sys
from pathlib import Path

from reasoning_sdk import (
    Connected,
    Disconnected,
    GoalCompletedEvent,
    HeartbeatEvent,
    HitlRequestEvent,
    Message,
    ReasoningError,
    ReasoningLayerClient,
    WebSocketConnection,
)


def token() -> str:
    """The token of now: called for each attempt."""
    return Path(os.environ["TOKEN_FILE"]).read_text().strip()


def show(event: object) -> None:
    match event:
        case HeartbeatEvent():
            pass
        case HitlRequestEvent():
            print(f"to be reviewed: {event.review_id}, {event.action_sort}", flush=True)
        case GoalCompletedEvent():
            print(f"goal {event.goal_id}: {'done' if event.success else 'failed'}", flush=True)
        case _:
            print(event, flush=True)


def watch(client: ReasoningLayerClient, agent_id: str) -> None:
    def catch_up(connection: WebSocketConnection) -> None:
        # It runs for each connection, before its first event: the place to ask for what was
        # missed, or to send what subscribes to something.
        state = client.request("GET", f"/api/v1/cognitive/agents/{agent_id}/extended-state")
        print(f"-- {len(state['agent']['goals'])} goals", flush=True)

    with client.cognitive.agent_events(
        agent_id,
        on_connect=catch_up,
        on_reconnect=lambda attempt: print(f"reconnecting, attempt {attempt}", file=sys.stderr),
        idle_timeout=90.0,  # three heartbeats
    ) as connection:
        for happening in connection.events():
            match happening:
                case Message():
                    show(happening.data)
                case Disconnected():
                    print(f"-- events may be missing here: {happening.error}", flush=True)
                case Connected(attempt=0):
                    pass
                case Connected():
                    print("-- connected again", flush=True)


def main(agent_id: str) -> int:
    try:
        with ReasoningLayerClient(token=token) as client:
            watch(client, agent_id)
    except KeyboardInterrupt:
        return 130
    except ReasoningError as exc:  # refused, or lost for good
        print(f"{type(exc).__name__}: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
