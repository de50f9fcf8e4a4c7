"""A Django project in one file: a view sends five events with the id that the path names."""

import django.conf
import django.core.management
import django.core.wsgi
import django.http
import django.urls
from sending import ViewerClient, os, send

django.conf.settings.configure(
    DEBUG=True, ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x"
)
viewer = ViewerClient(exit_timeout=20.0)


def view(request, id):
    send(viewer, id, 5)
    return django.http.HttpResponse(str(os.getpid()))


urlpatterns = [django.urls.path("<str:id>", view)]

if __name__ == "__main__":
    django.core.management.execute_from_command_line()
