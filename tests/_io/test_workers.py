"""Threads that are kept: side by side when needed, used again, and gone in the end."""

import contextvars
import gc
import threading
import weakref

import pytest

from reasoning_sdk._io import workers
from reasoning_sdk._io.workers import Workers


def names() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name == "reasoning-sdk.worker"]


@pytest.fixture
def team():
    made = Workers()
    yield made
    made.close()


def ran(team: Workers, function=lambda: None) -> int:
    """Runs a function there; gives the id of its thread."""
    done, found = threading.Event(), []

    def run() -> None:
        found.append(threading.get_ident())
        function()
        done.set()

    team.start(run)
    assert done.wait(5)
    return found[0]


def test_as_many_functions_run_side_by_side_as_are_started(team):
    together = threading.Barrier(21)
    for _ in range(20):
        team.start(lambda: together.wait(5))
    together.wait(5)


def test_a_function_runs_on_another_thread(team):
    assert ran(team) != threading.get_ident()


def test_a_thread_is_used_again(team):
    first = ran(team)
    pause = threading.Event()
    for _ in range(100):  # until it has put itself back
        if team._idle:
            break
        pause.wait(0.005)
    assert ran(team) == first


def test_a_function_sees_the_context_variables_of_who_starts_it(team):
    user = contextvars.ContextVar("user", default="nobody")
    token = user.set("ada")
    seen = []
    ran(team, lambda: seen.append(user.get()))
    user.reset(token)
    ran(team, lambda: seen.append(user.get()))
    assert seen == ["ada", "nobody"]


def test_what_a_function_changes_in_its_context_stays_there(team):
    user = contextvars.ContextVar("user", default="nobody")
    ran(team, lambda: user.set("eve"))
    assert user.get() == "nobody"


def test_to_close_ends_the_threads_that_are_idle_and_then_the_others():
    team, begun, release = Workers(), threading.Event(), threading.Event()
    ran(team)

    def busy() -> None:
        begun.set()
        release.wait(5)

    team.start(busy)
    assert begun.wait(5)
    team.close()
    release.set()
    for thread in threading.enumerate():
        if thread.name == "reasoning-sdk.worker":
            thread.join(2)
    assert names() == []


def test_what_is_started_after_the_close_runs_and_leaves_no_thread():
    team = Workers()
    team.close()
    ran(team)
    for thread in threading.enumerate():
        if thread.name == "reasoning-sdk.worker":
            thread.join(2)
    assert names() == []


def test_nothing_of_a_function_is_held_when_it_has_run(team):
    class Big:
        pass

    big = Big()
    gone = weakref.ref(big)
    ran(team, lambda big=big: None)
    del big
    pause = threading.Event()
    for _ in range(200):
        gc.collect()
        if gone() is None:
            break
        pause.wait(0.005)
    assert gone() is None


def test_a_function_can_be_run_on_a_thread_of_its_own():
    done = threading.Event()
    workers.start(done.set)
    assert done.wait(5)
