"""A Celery application whose broker is a directory: a task sends five events."""

import celery
from sending import ViewerClient, os, send

viewer = ViewerClient(exit_timeout=20.0)
folder = os.environ["BROKER_FOLDER"]
app = celery.Celery("tasks", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": folder,
    "data_folder_out": folder,
    "control_folder": folder,
    "polling_interval": 0.05,
}
app.conf.broker_connection_retry_on_startup = False


@app.task
def work(id):
    send(viewer, id, 5)
