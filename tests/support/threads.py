"""A function in another thread, and what came of it."""

import threading
from collections.abc import Callable
from typing import Any


class InThread(threading.Thread):
    """Runs a function in another thread, at once."""

    def __init__(self, function: Callable[[], Any]) -> None:
        super().__init__()
        self._function = function
        self.value: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.value = self._function()
        except BaseException as error:
            self.error = error

    def wait(self, seconds: float = 1.0) -> None:
        """Waits for its end, which must come in time."""
        self.join(seconds)
        assert not self.is_alive(), f"still running after {seconds} seconds"

    def ends(self, seconds: float = 1.0) -> Any:
        """What the function returned; None if it raised."""
        self.wait(seconds)
        return self.value

    def raises(self, seconds: float = 1.0) -> BaseException | None:
        """What the function raised; None if it returned."""
        self.wait(seconds)
        return self.error
