"""Tells when a worker of gunicorn heeds signals: one that comes earlier is lost on it."""


def post_worker_init(worker):
    worker.log.info("Worker is ready")
