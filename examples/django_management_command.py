"""A Django management command that follows an agent, and keeps its events.

Save it as ``yourapp/management/commands/follow_agent.py``, and keep it running, as a service of its
own beside the web server::

    python manage.py follow_agent AGENT_ID

The settings need ``REASONING_LAYER = {"base_url": …, "tenant_id": …, "token": …}``. It ends cleanly
with SIGTERM, as systemd, Docker and Kubernetes send it, and with Ctrl-C: what has come is kept.
"""

import json
import signal
from argparse import ArgumentParser
from pathlib import Path
from types import FrameType
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from reasoning_sdk import (
    Disconnected,
    HeartbeatEvent,
    Message,
    ReasoningError,
    ReasoningLayerClient,
    RetryPolicy,
    WebSocketConnection,
)


class Command(BaseCommand):
    """Follows an agent until it is told to end."""

    help = "Follow what a cognitive agent does, and append its events to a file."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """What it can be given."""
        parser.add_argument("agent_id")
        parser.add_argument("--file", type=Path, default=Path("agent-events.jsonl"))

    def handle(self, *args: Any, agent_id: str, file: Path, **options: Any) -> None:
        """Do it."""
        self.stopping = False
        self.connection: WebSocketConnection | None = None
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGINT, self.stop)
        try:
            with ReasoningLayerClient(**settings.REASONING_LAYER) as client:
                self.follow(client, agent_id, file)
        except ReasoningError as exc:
            if not self.stopping:
                raise CommandError(f"{agent_id}: {exc}") from exc  # ends with the status 1
        self.stdout.write("ended")

    def stop(self, number: int, frame: FrameType | None) -> None:
        """End the loop: it gets no more events once the connection is closed."""
        self.stopping = True
        if self.connection is None:
            raise SystemExit(0)  # it still connects for the first time
        self.connection.close(0)

    def follow(self, client: ReasoningLayerClient, agent_id: str, file: Path) -> None:
        """Keep what comes, with a mark wherever something may be missing."""
        with (
            client.cognitive.agent_events(
                agent_id,
                idle_timeout=90.0,
                retry=RetryPolicy(initial_interval=1.0, max_attempts=None),  # as long as it takes
            ) as self.connection,
            file.open("a") as records,
        ):
            self.stdout.write(f"following {agent_id}")
            for happening in self.connection.events():
                match happening:
                    case Message(data=HeartbeatEvent()):
                        continue
                    case Message():
                        event = happening.data
                        record = {
                            "at": happening.received_at,
                            "type": event.type,
                            "data": event.data,
                        }
                    case Disconnected():
                        self.stderr.write(f"disconnected: {happening.error}")
                        record = {"type": "gap", "why": str(happening.error)}
                    case _:
                        continue
                # In your own command, make a model of it: Event.objects.create(data=record). Call
                # django.db.close_old_connections() before, as the last event may be hours ago.
                records.write(json.dumps(record) + "\n")
                records.flush()
