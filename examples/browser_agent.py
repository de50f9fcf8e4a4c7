"""What flask_agent.py and django_agent.py have in common: responses, carried out for browsers.

A browser asks for a response, and follows its events with an ``EventSource``. That comes back by
itself when a connection breaks, and says which event was the last it got. It then gets what it has
missed, and the response goes on: what a tool or a model has answered is not asked for again.

Nobody there, nothing done: a browser that stays away ends the work, which may cost money.
"""

import logging
import os
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from uuid import uuid4

from agent import make_loop, request_for

from reasoning_sdk import Cancellation, ReasoningError, RecordNotFoundError, ResponseLoop, SSESink

KEEP_ALIVE = float(os.environ.get("KEEP_ALIVE", "15"))
MOST = 1000
PATIENCE = 30  # seconds

PAGE = (Path(__file__).parent / "agent_page.html").read_text()
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

log = logging.getLogger("agent")


class Responses:
    """The responses of this process, each followed by one browser at a time. For any thread."""

    def __init__(self) -> None:
        self._loop = make_loop()
        self._requests: dict[str, dict[str, Any]] = {}
        self._runs: dict[str, Run] = {}
        self._lock = Lock()

    def create(self, question: str) -> str:
        """Take a question; gives the id by which its response is known, and nobody guesses it."""
        id = uuid4().hex
        self._requests[id] = request_for(question)
        with self._lock:
            for old in list(self._requests)[:-MOST]:
                self._requests.pop(old)
                self._runs.pop(old, None)
        return id

    def follow(self, id: str, last_event_id: str) -> SSESink:
        """The events that come after this one, as the body of a ``text/event-stream``.

        Raises:
            KeyError: There is no such response.
        """
        request = self._requests[id]
        after = int(last_event_id) if last_event_id.isdecimal() else None
        with self._lock:  # of two connections the later one counts
            if id in self._runs:
                self._runs[id].stop()
            self._runs[id] = Run(self._loop, id, request, after)
            return self._runs[id].sink


class Run:
    """A response that is carried out, as far as it was not before."""

    def __init__(
        self, loop: ResponseLoop, id: str, request: dict[str, Any], after: int | None
    ) -> None:
        self._cancel = Cancellation()
        self.sink = SSESink(maxsize=0, keep_alive=KEEP_ALIVE, on_close=self._cancel.cancel)
        try:
            missed = loop.store.events_after(id, after)
        except RecordNotFoundError:  # it has not begun
            missed = []
        for event in missed:
            if not event.kind.is_terminal:  # how it ends is told by who goes on with it
                self.sink.emit(event)
        options = {"request_id": id, "sink": self.sink, "cancel": self._cancel}
        options["extensions"] = {"notes": []}
        self._thread = Thread(target=self._carry_out, args=(loop, request, options), daemon=True)
        self._thread.start()

    def _carry_out(
        self, loop: ResponseLoop, request: dict[str, Any], options: dict[str, Any]
    ) -> None:
        try:
            loop.run(request, **options)
        except ReasoningError as exc:  # the browser has been told, if it is there
            log.warning("%s: %s", exc.response_id, exc)

    def stop(self) -> None:
        """End it, and wait until it has ended: two must not go on with the same response."""
        self.sink.close()
        self._thread.join(PATIENCE)
