"""Servers that run as processes of their own, started and stopped without ever waiting blindly."""

import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import requests


def free_port() -> int:
    """A port that was free a moment ago: a server that does not take port 0 may use it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


class ServerProcess:
    """A process that serves HTTP on a port of 127.0.0.1, ready once it accepts connections.

    ``command`` makes the command line out of the port. What the process prints goes to a file (a
    pipe nobody reads would stop it), which a failed start shows.
    """

    name = "server"

    def __init__(
        self,
        command: Callable[[int], Sequence[str]],
        *,
        environment: Mapping[str, str] | None = None,
        start_timeout: float = 30.0,
    ) -> None:
        self._pause = threading.Event()
        self._session = requests.Session()
        self._session.trust_env = False
        for attempt in range(3):
            self.port = free_port()
            self.url = f"http://127.0.0.1:{self.port}"
            self.base_url = f"{self.url}/v1"
            self._output = tempfile.TemporaryFile("a+b")  # noqa: SIM115
            self._process = subprocess.Popen(
                command(self.port),
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                env={**_plain_environment(), **(environment or {})},
            )
            try:
                self._wait_until_ready(start_timeout)
                return
            except BaseException as error:
                self.stop()
                # Another process may have taken the port in the meantime.
                if attempt == 2 or not isinstance(error, RuntimeError):
                    raise

    def _wait_until_ready(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1.0):
                    return
            except OSError:
                self._pause.wait(0.02)
        raise RuntimeError(f"{self.name} did not start:\n{self.output()}")

    def output(self) -> str:
        """What the process has printed so far."""
        self._output.seek(0)
        return self._output.read().decode(errors="replace")

    def control(self, method: str, path: str, **options: Any) -> Any:
        """A request to the server's own control API: its JSON answer."""
        answer = self._session.request(method, self.url + path, timeout=10.0, **options)
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def stop(self) -> None:
        """Ends the process, gently and then not. May be called more than once."""
        self._session.close()
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(5.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(5.0)
        self._output.close()

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url}>"


def _plain_environment() -> dict[str, str]:
    """The environment without settings of the servers and without proxies."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LLMOCK_", "AIMOCK_")) and not name.lower().endswith("_proxy")
    }
