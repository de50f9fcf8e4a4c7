"""A WSGI application that sends five events with the id that a request's path names."""

from sending import ViewerClient, os, send

viewer = ViewerClient(exit_timeout=20.0)
send(viewer, f"import-{os.getpid()}", 10)


def app(environ, start_response):
    send(viewer, environ["PATH_INFO"][1:], 5)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]


application = app
