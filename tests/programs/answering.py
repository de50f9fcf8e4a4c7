"""WSGI applications that answer ``POST /v1/responses``: one of Flask, one of Django.

The header ``Model`` says where the model is, ``Api`` what is spoken there. Run as a program, it
serves the one of Flask with werkzeug, on the port that it is given.
"""

import json
import sys
import time
from functools import cache

import flask
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from werkzeug.serving import make_server

from reasoning_sdk import ConfigurationError, Context, LoopError, ResponseLoop, UpstreamTarget

EVENTS = "text/event-stream"
KEEP_ALIVE = 0.1


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def shout(text: str) -> str:
    """Say it louder."""
    return text.upper()


def linger(context: Context) -> None:
    """Do nothing until told to stop."""
    deadline = time.monotonic() + 20
    while not context.canceled and time.monotonic() < deadline:
        time.sleep(0.005)


@cache
def loop(upstream):
    """The loop of the process for a model."""
    return ResponseLoop(upstream, tools=[add, shout, linger])


def answer(headers, body):
    """What is said to a request: bytes of events, or JSON and a status."""
    asked = loop(UpstreamTarget(headers["Model"], api=headers.get("Api", "chat_completions")))
    request = json.loads(body)
    try:
        if request.get("stream"):
            return asked.sse(request, keep_alive=KEEP_ALIVE), 200
        return asked.run(request), 200
    except ConfigurationError as error:
        return {"error": {"type": "invalid_request_error", "message": str(error)}}, 400
    except LoopError as error:
        return {"error": {"type": "server_error", "message": str(error)}}, 502


def state(headers):
    """What a process has done so far, for one model."""
    stats = loop(UpstreamTarget(headers["Model"], api=headers.get("Api", "chat_completions"))).stats
    return {name: getattr(stats, name) for name in ("running", "completed", "failed")}


# -- Flask -----------------------------------------------------------------------------------------

flask_app = flask.Flask(__name__)


@flask_app.post("/v1/responses")
def create():
    told, status = answer(flask.request.headers, flask.request.get_data())
    if isinstance(told, dict):
        return told, status
    return flask.Response(told, mimetype=EVENTS)


@flask_app.get("/state")
def tell():
    return state(flask.request.headers)


# -- Django ----------------------------------------------------------------------------------------


@csrf_exempt
def django_create(request):
    told, status = answer(request.headers, request.body)
    if isinstance(told, dict):
        return JsonResponse(told, status=status)
    return StreamingHttpResponse(told, content_type=EVENTS)


def django_tell(request):
    return JsonResponse(state(request.headers))


urlpatterns = [path("v1/responses", django_create), path("state", django_tell)]
settings.configure(ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF=__name__, SECRET_KEY="of tests")
django_app = get_wsgi_application()


if __name__ == "__main__":
    make_server("127.0.0.1", int(sys.argv[1]), flask_app, threaded=True).serve_forever()
