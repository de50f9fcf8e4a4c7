"""What becomes of a viewer's events in the servers that programs run in, each a real one."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from jupyter_client.manager import start_new_kernel

from tests.support.counting import CountingServer
from tests.support.processes import free_port
from tests.support.programs import (
    DEADLINE,
    PROGRAMS,
    Process,
    finish,
    python,
    run,
    started,
    wait_for_line,
)
from tests.support.signals import interrupt as interrupt_when_waiting
from tests.support.threads import InThread

pytestmark = pytest.mark.http

FIVE = list(range(5))


@pytest.fixture
def server() -> Iterator[CountingServer]:
    with CountingServer() as server:
        yield server


def ask(url: str, *ids: str) -> list[str]:
    """Has events sent with these ids; what was answered."""
    with requests.Session() as session:
        session.trust_env = False
        session.headers["Connection"] = "close"  # so that each worker gets some
        return [session.get(f"{url}/{id}", timeout=DEADLINE).text for id in ids]


def serves(process: Process, text: str) -> str:
    """The URL that a server says it serves at, in a line with this text."""
    found = re.search(r"127\.0\.0\.1:\d+", wait_for_line(process, text))
    assert found is not None
    return f"http://{found[0]}"


def check(server: CountingServer, ids: list[str], out: str = "") -> None:
    assert {id: server.numbers(id) for id in ids} == dict.fromkeys(ids, FIVE), out
    assert server.repeated() == {}


def check_imports(server: CountingServer, imports: int) -> None:
    ids = {id for id, _ in server.events if id.startswith("import-")}
    assert len(ids) == imports
    assert {tuple(server.numbers(id)) for id in ids} == {tuple(range(10))}


# -- web servers -----------------------------------------------------------------------------------

REQUESTS = [f"request-{n}" for n in range(12)]


def check_end(process: Process, server: CountingServer, url: str, *, imports: int) -> None:
    """Told to end, a server delivers what was sent while the viewer held it up."""
    server.wait_for(10 * imports)
    server.hold()
    ask(url, *REQUESTS)
    process.send_signal(signal.SIGTERM)
    server.delay = 0.02
    server.release()
    done = finish(process)
    assert (done.code, done.out.count("Traceback")) == (0, 0), done.out
    check(server, REQUESTS, done.out)
    check_imports(server, imports)


@pytest.mark.parametrize("preload", [True, False], ids=["preload", "no preload"])
@pytest.mark.parametrize("kind", ["sync", "gthread", "gevent"])
def test_gunicorn(server: CountingServer, kind: str, preload: bool, tmp_path: Path) -> None:
    """Each worker delivers what it has sent before it ends."""
    command = [sys.executable, "-m", "gunicorn", "--bind=127.0.0.1:0", "--workers=2"]
    command += [f"--worker-class={kind}", "--threads=2", f"--worker-tmp-dir={tmp_path}"]
    command += ["--config=python:gunicorn_settings", "--no-control-socket"]
    command += [*["--preload"] * preload, "serving:app"]
    with started(command, server.url, stderr=subprocess.STDOUT, cwd=tmp_path) as process:
        url = serves(process, "Listening at")
        for _ in range(2):
            wait_for_line(process, "Worker is ready")
        check_end(process, server, url, imports=1 if preload else 2)


@pytest.mark.parametrize("lazy", [True, False], ids=["lazy", "forked"])
def test_uwsgi(server: CountingServer, lazy: bool, tmp_path: Path) -> None:
    """It forks in C: Python's locks are only right in the child if it tells Python of that."""
    command = [str(Path(sys.executable).with_name("uwsgi")), "--http-socket=127.0.0.1:0"]
    command += ["--master", "--processes=2", "--enable-threads", "--module=serving:app"]
    # Told to die, it ends a worker that is at a request without Python's exit.
    command += ["--hook-master-start=unix_signal:15 gracefully_kill_them_all"]
    command += ["--lazy-apps" if lazy else "--py-call-uwsgi-fork-hooks"]
    with started(command, server.url, stderr=subprocess.STDOUT, cwd=tmp_path) as process:
        url = serves(process, "bound to TCP address")
        wait_for_line(process, "spawned uWSGI worker 2")
        check_end(process, server, url, imports=2 if lazy else 1)


def test_django_autoreload(server: CountingServer, tmp_path: Path) -> None:
    module = tmp_path / "manage.py"
    module.write_text((PROGRAMS / "manage.py").read_text())
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, str(module), "runserver", f"127.0.0.1:{port}"]
    with started(command, server.url, stderr=subprocess.STDOUT, cwd=tmp_path) as process:
        wait_for_line(process, "Quit the server")
        server.hold()
        before = ask(url, "before-1", "before-2")
        reloading = InThread(lambda: wait_for_line(process, "changed, reloading"))
        while reloading.is_alive():  # its first look may be yet to come
            module.touch()
            reloading.join(0.2)
        server.release()
        wait_for_line(process, "Quit the server")
        after = ask(url, "after-1", "after-2")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        done = finish(process)
    assert "Traceback" not in done.out, done.out
    assert len({*before, *after}) == 2
    check(server, ["before-1", "before-2", "after-1", "after-2"])


# -- Celery ----------------------------------------------------------------------------------------


def test_celery(server: CountingServer, tmp_path: Path) -> None:
    environment = {"BROKER_FOLDER": str(tmp_path)}
    publish = "import tasks\nfor n in range(8): tasks.work.delay(f'task-{n}')"
    assert run(python(publish), server.url, environment=environment).code == 0
    command = [sys.executable, "-m", "celery", "--app=tasks", "worker", "--loglevel=INFO"]
    command += ["--pool=prefork", "--concurrency=2", "--without-gossip", "--without-mingle"]
    server.hold()
    with started(
        command, server.url, stderr=subprocess.STDOUT, cwd=tmp_path, environment=environment
    ) as process:
        for _ in range(8):
            wait_for_line(process, "succeeded in")
        process.send_signal(signal.SIGTERM)
        wait_for_line(process, "Warm shutdown")
        server.delay = 0.1  # the children sleep for a second at their end
        server.release()
        done = finish(process)
    assert (done.code, done.out.count("Traceback")) == (0, 0), done.out
    check(server, [f"task-{n}" for n in range(8)])


# -- notebooks -------------------------------------------------------------------------------------


def test_a_kernel_that_is_interrupted_and_restarted(server: CountingServer) -> None:
    begin = f"from reasoning_sdk import ViewerClient\nviewer = ViewerClient({server.url!r})\n"
    sending = "for n in range(5): viewer.send_agent_completion_continue({'id': '%s', 'n': n})\n"
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        server.hold()
        client.execute(begin + sending % "first" + "print('flushing')\nviewer.flush(None)")
        while client.get_iopub_msg(timeout=DEADLINE)["msg_type"] != "stream":
            pass
        interrupt_when_waiting(manager.provisioner.pid)
        assert client.get_shell_msg(timeout=DEADLINE)["content"]["ename"] == "KeyboardInterrupt"
        client.execute_interactive(sending % "second", timeout=DEADLINE)
        server.delay = 0.02
        server.release()
        manager.restart_kernel(now=False)
        client.wait_for_ready(timeout=DEADLINE)
        check(server, ["first", "second"])
        client.execute_interactive(begin + sending % "third", timeout=DEADLINE)
        server.wait_for(15)
        check(server, ["first", "second", "third"])
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


# -- gevent ----------------------------------------------------------------------------------------

GREENLETS = """
from gevent import monkey
{before}
from sending import *
{made}
import gevent
greenlets = [gevent.spawn(send, viewer, f"greenlet-{{n}}", 5) for n in range(4)]
gevent.joinall(greenlets)
send(viewer, "main", 5)
{flush}
ends()
"""


@pytest.mark.parametrize("flush", ["", "assert viewer.flush()"], ids=["no flush", "flush"])
@pytest.mark.parametrize("when", ["before all", "before the client", "before its first event"])
def test_gevent(server: CountingServer, when: str, flush: str) -> None:
    """The modules may be patched until the first event."""
    patch, make = "monkey.patch_all()", "viewer = ViewerClient()"
    if when == "before all":
        program = GREENLETS.format(before=patch, made=make, flush=flush)
    elif when == "before the client":
        program = GREENLETS.format(before="", made=f"{patch}; {make}", flush=flush)
    else:
        program = GREENLETS.format(before="", made=f"{make}; {patch}", flush=flush)
    done = run([sys.executable, "-c", program], server.url)
    assert (done.code, done.err.count("Traceback")) == (0, 0), done.err
    check(server, [*(f"greenlet-{n}" for n in range(4)), "main"])
    assert done.seconds < 2.0
