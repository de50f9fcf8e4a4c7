"""The run of a coroutine, to its end or until it is canceled."""

import asyncio
from asyncio import CancelledError
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from reasoning_sdk.cancellation import Cancellation

__all__ = ["CancelledError", "run"]

_T = TypeVar("_T")


def run(coroutine: Coroutine[Any, Any, _T], cancellation: Cancellation) -> _T:
    """Run a coroutine in this thread, by a loop of its own.

    Raises:
        CancelledError: It was canceled, or has canceled itself.
        RuntimeError: A loop runs in this thread already.
    """
    main = _until_canceled(coroutine, cancellation)
    try:
        return asyncio.run(main)
    finally:  # where a loop runs in this thread already, neither has begun
        main.close()
        coroutine.close()


async def _until_canceled(coroutine: Coroutine[Any, Any, _T], cancellation: Cancellation) -> _T:
    loop = asyncio.get_running_loop()
    task = loop.create_task(coroutine)

    def cancel() -> None:
        with suppress(RuntimeError):  # it has ended just now
            loop.call_soon_threadsafe(task.cancel)

    with cancellation.calling(cancel):
        return await task
