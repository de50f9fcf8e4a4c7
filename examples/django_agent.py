"""A Django app with an agent: a page that shows the text, the calls and their results as they come.

    OPENAI_API_KEY=... python examples/django_agent.py runserver     # http://127.0.0.1:8000

Settings and URLs are in this file to have it in one piece; take the views. One process with many
threads under WSGI: responses are kept in its memory. browser_agent.py has what is not Django's.
"""

import json
import sys
from functools import cache

from browser_agent import HEADERS, PAGE, Responses
from django.conf import settings
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import path
from django.views.decorators.http import require_GET, require_POST

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="only for this example",  # noqa: S106
)


@cache
def responses() -> Responses:
    """Those of the process, made when the first one is asked for: after a fork."""
    return Responses()


@require_GET
def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(PAGE)


@require_POST
def create(request: HttpRequest) -> HttpResponse:
    if request.content_type != "application/json":  # what another site's form cannot send
        return HttpResponse(status=415)
    return JsonResponse({"id": responses().create(json.loads(request.body)["question"])})


@require_GET
def events(request: HttpRequest, id: str) -> HttpResponseBase:
    after = request.headers.get("Last-Event-ID") or request.GET.get("starting_after", "")
    try:
        body = responses().follow(id, after)
    except KeyError:
        return HttpResponse(status=404)
    return StreamingHttpResponse(body, content_type="text/event-stream", headers=HEADERS)


urlpatterns = [
    path("", page),
    path("responses", create),
    path("responses/<id>/events", events),
]
application = get_wsgi_application()

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
