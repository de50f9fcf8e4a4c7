"""Ctrl-C for a process that waits."""

import os
import signal
import threading
import time
from pathlib import Path


def interrupt(pid: int) -> None:
    """Sends SIGINT once the main thread of a process waits.

    A signal that comes just before a system call that blocks is noticed only after it, by any
    Python program. A test that wants to interrupt a wait must not send it then.
    """
    wait_until_it_waits(pid)
    os.kill(pid, signal.SIGINT)


def wait_until_it_waits(pid: int, timeout: float = 10.0) -> None:
    """Waits until the main thread of a process sleeps in the kernel, where that can be seen."""
    status = Path(f"/proc/{pid}/task/{pid}/stat")
    if status.exists():
        pause, deadline = threading.Event(), time.monotonic() + timeout
        while status.read_text().rpartition(")")[2].split()[0] != "S":
            assert time.monotonic() < deadline, f"process {pid} does not come to wait"
            pause.wait(0.005)
