"""A Flask app with an agent: a page that shows the text, the calls and their results as they come.

    OPENAI_API_KEY=... flask --app examples/flask_agent run     # http://127.0.0.1:5000

One process with many threads, such as ``gunicorn --chdir examples --worker-class gthread --threads
32 flask_agent:app``: responses are kept in its memory. browser_agent.py has what is not Flask's.
"""

from functools import cache

from browser_agent import HEADERS, PAGE, Responses
from flask import Flask, Response, request

app = Flask(__name__)


@cache
def responses() -> Responses:
    """Those of the process, made when the first one is asked for: after a fork."""
    return Responses()


@app.get("/")
def page() -> str:
    return PAGE


@app.post("/responses")
def create() -> dict[str, str]:
    return {"id": responses().create(request.get_json()["question"])}


@app.get("/responses/<id>/events")
def events(id: str) -> Response:
    after = request.headers.get("Last-Event-ID") or request.args.get("starting_after", "")
    try:
        body = responses().follow(id, after)
    except KeyError:
        return Response(status=404)
    return Response(body, mimetype="text/event-stream", headers=HEADERS)
