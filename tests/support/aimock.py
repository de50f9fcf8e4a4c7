"""The real ``aimock`` server (npm ``@copilotkit/aimock``): a second dialect of the Responses API.

Its streams carry no ``sequence_number``, an in-progress response with six keys, and a usage of
zeros without details unless a fixture gives one; ``finishReason`` ``length`` ends the stream with a
``response.completed`` whose response is ``incomplete``.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from tests.support.processes import ServerProcess

PROJECT = Path(__file__).resolve().parents[2]
FIXTURES = PROJECT / "tests" / "data" / "aimock.json"
PACKAGE = Path("@copilotkit") / "aimock"


def find_aimock() -> Path | None:
    """The directory of the installed package: in ``AIMOCK_DIR``, or in the project's ``.node``."""
    for place in (os.environ.get("AIMOCK_DIR"), PROJECT / ".node"):
        if place:
            for package in (Path(place), Path(place) / "node_modules" / PACKAGE):
                if (package / "dist" / "cli.js").is_file():
                    return package
    return None


def missing_aimock() -> str:
    """Why the server cannot run here and what to do about it; empty when it can."""
    if shutil.which("node") is None:
        return "aimock needs node, which is not on the PATH: install Node.js 20 or later"
    if find_aimock() is None:
        return (
            "aimock is not installed: run `npm install --prefix .node @copilotkit/aimock`, "
            "or let AIMOCK_DIR name the directory that has its node_modules"
        )
    return ""


class AimockServer(ServerProcess):
    """The server on a free port, with the fixtures of ``tests/data/aimock.json``."""

    name = "aimock"

    def __init__(self, fixtures: Path = FIXTURES, *, chunk_size: int = 8) -> None:
        package = find_aimock()
        assert package is not None, missing_aimock()
        self._fixtures = json.loads(fixtures.read_text())["fixtures"]
        serve = ["node", str(package / "dist" / "cli.js"), "-h", "127.0.0.1", "-f", str(fixtures)]
        serve += ["-c", str(chunk_size), "--log-level", "warn", "--validate-on-load"]
        super().__init__(lambda port: [*serve, "-p", str(port)])

    def add(self, *fixtures: dict[str, Any]) -> None:
        """Adds fixtures after those of the file; the first that matches answers."""
        self.control("POST", "/__aimock/fixtures", json={"fixtures": fixtures})

    def next_error(self, status: int, message: str, *, kind: str = "server_error") -> None:
        """Answers the next request, and only it, with this error."""
        body = {"message": message, "type": kind}
        self.control("POST", "/__aimock/error", json={"status": status, "body": body})

    def chaos(self, **rates: float) -> None:
        """Sets ``dropRate``, ``malformedRate``, ``disconnectRate``, ``rateLimitRate`` (0 to 1) or
        ``latencyMs``, for the requests to come.
        """
        self.control("POST", "/__aimock/chaos", json=rates)

    def requests(self) -> list[dict[str, Any]]:
        """The journal: ``method``, ``path``, ``headers``, ``body`` (turned into a chat completion),
        ``response``.
        """
        entries: list[dict[str, Any]] = self.control("GET", "/__aimock/journal")
        return entries

    def reset(self) -> None:
        """Forgets requests, counts, errors and chaos; the fixtures are those of the file again."""
        self.control("POST", "/__aimock/reset")
        self.control("DELETE", "/__aimock/chaos")
        self.add(*self._fixtures)
