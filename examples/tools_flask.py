"""A Flask view that runs tools, and publishes each execution to the viewer of its tenant.

    VIEWER_ADDRESS=... flask --app examples/tools_flask run
    curl --json '{"city": "Oslo"}' http://127.0.0.1:5000/tools/get_weather

A view does not wait for a viewer, and no tenant for the viewer of another. Events wait on disk, in
SPOOL, until they have arrived: a worker that is killed loses none, the next one sends them.
"""

import os
from functools import cache
from typing import Any
from uuid import uuid4

from flask import Flask, request

from reasoning_sdk import ViewerClient

app = Flask(__name__)
app.config["TENANTS"] = {}  # the address and the secret of each tenant's viewer


@cache
def viewer() -> ViewerClient:
    """One for the process; made before a fork, it serves each worker with a thread of its own."""
    return ViewerClient(spool=os.environ.get("SPOOL"), exit_timeout=5.0)


def get_weather(city: str) -> dict[str, Any]:
    if city == "Atlantis":
        raise LookupError(f"there is no weather in {city}")
    return {"city": city, "celsius": 21}


TOOLS = {"get_weather": get_weather}


@app.post("/tools/<name>")
def run_tool(name: str) -> dict[str, Any]:
    address, signature = app.config["TENANTS"].get(request.headers.get("X-Tenant"), (None, None))
    asked = {"name": name, "arguments": request.get_json()}
    with viewer().function_execution(
        f"call-{uuid4()}", asked, address=address, signature=signature
    ) as run:  # what is raised in here is published, too
        result = TOOLS[name](**request.get_json())
        run.continue_({"output": result})
    return result


@app.errorhandler(LookupError)
def not_found(error: LookupError) -> tuple[dict[str, str], int]:
    return {"error": str(error)}, 404


@app.get("/health")
def health() -> dict[str, Any]:
    stats = viewer().stats
    return {"waiting": stats.queued, "delivered": stats.delivered, "lost": dict(stats.dropped)}
