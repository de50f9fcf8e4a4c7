"""A WSGI application that opens WebSockets, and shares one that it opens as it is loaded."""

import json

from connecting import StateError, connect, os, take

shared = connect("/echo")


def stream(environ):
    """The messages of a connection of the request's own, as they come."""
    with connect(f"/count?{environ['QUERY_STRING']}") as connection:
        for message in take(connection, 5):
            yield message["n"]


def send(environ):
    """Sends what the query says, over the connection of all requests."""
    shared.send({"n": int(environ["QUERY_STRING"])})
    yield "sent"


def receive(environ):
    """So many messages of that connection."""
    yield from (message["n"] for message in take(shared, int(environ["QUERY_STRING"])))


def give_up(environ):
    """Waits for a message as long as gevent lets it, and then for one that comes."""
    import gevent

    try:
        with gevent.Timeout(0.1):
            shared.next_message()
    except gevent.Timeout:
        yield "timeout"
    shared.send({"n": 0})
    yield shared.next_message(timeout=5.0)["n"]


def use(environ):
    """What becomes of the connection that was opened before the fork."""
    for act in (shared.next_message, lambda: shared.send(1), lambda: next(shared)):
        try:
            act()
        except StateError:
            yield "StateError"
    yield shared.state.value


def app(environ, start_response):
    view = {"stream": stream, "send": send, "receive": receive, "give_up": give_up, "use": use}
    told = view[environ["PATH_INFO"][1:]](environ)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([os.getpid(), *told]).encode()]
