"""Background threads: no wake is lost, no two steps overlap, and forks and exits harm nothing."""

import gc
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reasoning_sdk._io import thread as module
from reasoning_sdk._io.thread import BackgroundThread, Signal, ThreadState
from tests.support.threads import InThread

SOON = 20.0  # seconds that nothing here takes, unless it hangs
LONG = 3600.0

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
needs_timer = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no setitimer here")


class Work:
    """Steps that tell when they begin; finds two that overlap."""

    def __init__(self, *gives: float | None) -> None:
        self.gives = list(gives)
        self.count = 0
        self.threads: list[threading.Thread] = []
        self.overlapped = False
        self.began = Signal()
        self.go_on: threading.Event | None = None
        self._inside = threading.Lock()

    def __call__(self) -> float | None:
        if not self._inside.acquire(blocking=False):
            self.overlapped = True
            return None
        try:
            self.count += 1
            self.threads.append(threading.current_thread())
            self.began.give()
            if self.go_on is not None:
                assert self.go_on.wait(SOON)
            return self.gives.pop(0) if self.gives else None
        finally:
            self._inside.release()


Make = Callable[..., BackgroundThread]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes background threads, and stops them."""
    made: list[BackgroundThread] = []

    def make(step: Callable[[], float | None], linger: float = LONG) -> BackgroundThread:
        made.append(BackgroundThread("test", step, linger=linger))
        return made[-1]

    yield make
    for thread in made:
        assert thread.stop(SOON)


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads that take turns as often as can be."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def until(condition: Callable[[], bool]) -> None:
    pause, deadline = threading.Event(), time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, "does not come about"
        pause.wait(0.001)


def state_of(thread: BackgroundThread) -> ThreadState:
    return thread.state


# -- signals -----------------------------------------------------------------------------------


def test_a_signal_is_taken_once_however_often_it_was_given() -> None:
    given = Signal()
    assert not given.is_given()
    given.give()
    given.give()
    assert given.is_given()
    assert given.take(0)
    assert not given.is_given()
    assert not given.take(0)
    assert not given.take(-1.0)
    assert not given.take(0.001)


@pytest.mark.parametrize("seconds", [None, LONG, 1e300])
def test_a_signal_wakes_who_waits_for_it(seconds: float | None) -> None:
    given = Signal()
    waits = InThread(lambda: given.take(seconds))
    given.give()
    assert waits.ends(SOON) is True
    assert not given.is_given()


@pytest.mark.usefixtures("restless")
def test_of_signals_given_by_many_threads_the_last_is_never_lost() -> None:
    given, posted, seen = Signal(), [0] * 8, [0] * 8

    def give(number: int) -> None:
        for _ in range(500):
            posted[number] += 1
            given.give()

    def take() -> None:
        while seen != [500] * 8:
            if not given.take(SOON):
                return
            seen[:] = posted

    taker = InThread(take)
    for giver in [InThread(lambda number=number: give(number)) for number in range(8)]:  # type: ignore[misc]
        assert giver.raises(SOON) is None
    taker.wait(SOON)
    assert seen == [500] * 8


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no SIGUSR1 here")
def test_a_signal_may_be_given_in_a_signal_handler_to_the_very_code_it_interrupts() -> None:
    given = Signal()
    before = signal.signal(signal.SIGUSR1, lambda number, frame: given.give())
    try:
        kills = InThread(lambda: os.kill(os.getpid(), signal.SIGUSR1))
        assert given.take(SOON)
        kills.wait(SOON)
        for _ in range(1000):
            os.kill(os.getpid(), signal.SIGUSR1)
            given.give()
            assert given.take(SOON)
            given.take(0)
    finally:
        signal.signal(signal.SIGUSR1, before)


# -- steps -------------------------------------------------------------------------------------


def test_nothing_is_started_before_the_first_wake(make: Make) -> None:
    work, before = Work(), threading.active_count()
    thread = make(work)
    assert threading.active_count() == before
    assert thread.state is ThreadState.NEW
    assert not thread.runs
    assert thread.join(0)
    assert work.count == 0


def test_the_first_wake_starts_a_daemon_thread_that_is_named_for_its_role(make: Make) -> None:
    work = Work()
    thread = make(work)
    assert thread.wake() is True
    assert work.began.take(SOON)
    assert thread.state is ThreadState.RUNNING
    assert thread.runs
    assert work.threads[0].daemon
    assert work.threads[0].name == "reasoning-sdk.test"


def test_one_wake_is_one_step(make: Make) -> None:
    work = Work()
    thread = make(work, linger=0.01)
    assert thread.wake()
    assert thread.join(SOON)
    assert work.count == 1


def test_a_step_that_gives_seconds_is_followed_by_one_after_them(make: Make) -> None:
    work = Work(0.05, 0, -1.0, None)
    thread = make(work, linger=0)
    began_at = time.monotonic()
    assert thread.wake()
    assert thread.join(SOON)
    assert work.count == 4
    assert time.monotonic() - began_at >= 0.05
    assert set(work.threads) == {work.threads[0]}


@pytest.mark.parametrize("gives", [None, LONG, float("inf")])
def test_a_thread_that_waits_steps_when_woken(make: Make, gives: float | None) -> None:
    work = Work(gives, gives)
    thread = make(work)
    assert thread.wake()
    assert work.began.take(SOON)
    for count in range(2, 5):
        assert thread.wake()
        assert work.began.take(SOON)
        assert work.count == count
    assert set(work.threads) == {work.threads[0]}


def test_many_wakes_during_a_step_are_one_and_it_is_not_lost(make: Make) -> None:
    work = Work()
    work.go_on = threading.Event()
    thread = make(work, linger=0)
    assert thread.wake()
    assert work.began.take(SOON)
    assert all(thread.wake() for _ in range(100))
    work.go_on.set()
    assert thread.join(SOON)
    until(lambda: thread.state is ThreadState.NEW)
    assert work.count == 2


def test_a_step_may_wake_its_own_thread(make: Make) -> None:
    woken: list[bool] = []

    def step() -> None:
        if len(woken) < 3:
            woken.append(thread.wake())

    thread = make(step, linger=0)
    assert thread.wake()
    until(lambda: len(woken) == 3)
    assert woken == [True] * 3


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize(("wakers", "rounds"), [(1, 1000), (2, 1000), (8, 1250)])
@pytest.mark.parametrize("linger", [0, 0.0001, LONG])
def test_every_wake_is_followed_by_a_step_that_began_after_it_and_no_two_overlap(
    make: Make, linger: float, wakers: int, rounds: int
) -> None:
    posted, seen = [0] * wakers, [0] * wakers
    answers = [Signal() for _ in range(wakers)]
    work = Work()

    def step() -> None:
        began = list(posted)
        work()
        seen[:] = began
        for answer in answers:
            answer.give()

    thread = make(step, linger=linger)

    def wake(number: int) -> None:
        for count in range(1, rounds + 1):
            posted[number] = count
            assert thread.wake(), "refused"
            # Whoever waits for each step of its own finds a lost wake that a later one would hide.
            while (wakers < 8 or count % 5 == 0 or count == rounds) and seen[number] < count:
                assert answers[number].take(SOON), "lost"

    threads = [InThread(lambda number=number: wake(number)) for number in range(wakers)]  # type: ignore[misc]
    assert [waker.raises(2 * SOON) for waker in threads] == [None] * wakers
    assert seen == posted
    assert not work.overlapped


def test_a_thread_with_nothing_to_do_ends_and_the_next_wake_starts_another(make: Make) -> None:
    work = Work()
    thread = make(work, linger=0.01)
    for count in range(1, 4):
        assert thread.wake()
        assert thread.join(SOON)
        until(lambda: not thread.runs)
        assert state_of(thread) is ThreadState.NEW
        assert work.count == count
    assert len(set(work.threads)) == 3


def test_where_no_thread_can_be_started_a_wake_says_so_and_a_later_one_succeeds(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    work = Work()
    thread = make(work, linger=0)

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        assert thread.wake() is False
        assert thread.wake() is False
    assert state_of(thread) is ThreadState.NEW
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]
    assert thread.wake() is True
    assert work.began.take(SOON)


def test_a_handler_that_has_interrupted_the_start_is_told_that_no_thread_runs(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it returns none will: it must not wait for one."""
    work, woken = Work(), []
    thread, start = make(work), threading.Thread.start

    def interrupted(self: threading.Thread) -> None:
        woken.append(thread.wake())
        start(self)
        woken.append(thread.wake())

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        assert thread.wake() is True
    assert woken == [False, True]
    assert work.began.take(SOON)
    assert thread.wake() is True


def test_it_shows_its_role_and_state(make: Make) -> None:
    thread = make(Work())
    assert repr(thread) == "<BackgroundThread test NEW>"
    thread.wake()
    assert repr(thread) == "<BackgroundThread test RUNNING>"
    thread.stop(SOON)
    assert repr(thread) == "<BackgroundThread test STOPPED>"


# -- the end -----------------------------------------------------------------------------------


@pytest.mark.parametrize("gives", [None, LONG])
def test_stop_ends_a_thread_that_waits_at_once_and_for_good(
    make: Make, gives: float | None
) -> None:
    work = Work(gives)
    thread = make(work)
    thread.wake()
    assert work.began.take(SOON)
    assert thread.stop(SOON)
    assert state_of(thread) is ThreadState.STOPPED
    assert not thread.runs
    assert thread.wake() is False
    assert thread.stop(0)
    assert thread.stop(None)
    assert work.count == 1


def test_stop_before_the_first_wake_has_nothing_ever_started(make: Make) -> None:
    work, before = Work(), threading.active_count()
    thread = make(work)
    assert thread.stop(0)
    assert state_of(thread) is ThreadState.STOPPED
    assert thread.wake() is False
    assert threading.active_count() == before
    assert work.count == 0


def test_stop_after_the_thread_has_retired_is_for_good_too(make: Make) -> None:
    work = Work()
    thread = make(work, linger=0)
    thread.wake()
    assert thread.join(SOON)
    assert thread.stop(0)
    assert thread.wake() is False
    assert state_of(thread) is ThreadState.STOPPED


@pytest.mark.parametrize("timeout", [0, 0.01, -1.0])
def test_stop_waits_no_longer_than_it_may_for_the_step_under_way(
    make: Make, timeout: float
) -> None:
    work = Work(0, 0, 0)
    work.go_on = threading.Event()
    thread = make(work)
    thread.wake()
    assert work.began.take(SOON)
    assert thread.stop(timeout) is False
    assert state_of(thread) is ThreadState.STOPPING
    assert thread.runs
    assert thread.wake() is False
    work.go_on.set()
    assert thread.join(SOON)
    assert state_of(thread) is ThreadState.STOPPED
    assert work.count == 1


def test_a_step_may_stop_its_own_thread(make: Make) -> None:
    stopped: list[object] = []

    def step() -> float:
        stopped.extend([thread.stop(None), state_of(thread), thread.wake()])
        return 0

    thread = make(step)
    thread.wake()
    assert thread.join(SOON)
    assert stopped == [False, ThreadState.STOPPING, False]
    assert state_of(thread) is ThreadState.STOPPED


@pytest.mark.usefixtures("restless")
def test_many_threads_may_stop_it_at_once(make: Make) -> None:
    for _ in range(20):
        thread = make(Work(0.0001, 0.0001))
        thread.wake()
        stops = [InThread(lambda thread=thread: thread.stop(SOON)) for _ in range(8)]  # type: ignore[misc]
        assert [stop.ends(SOON) for stop in stops] == [True] * 8
        assert state_of(thread) is ThreadState.STOPPED


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("linger", [0, LONG])
def test_no_step_begins_after_a_stop_has_returned_whoever_wakes_meanwhile(
    make: Make, linger: float
) -> None:
    for _ in range(100):
        late: list[bool] = []
        stopped: list[bool] = []
        thread = make(lambda late=late, stopped=stopped: late.extend(stopped), linger)  # type: ignore[misc]

        def wake(thread: BackgroundThread = thread) -> None:
            while thread.wake():
                pass

        wakers = [InThread(wake) for _ in range(2)]
        assert thread.stop(SOON)
        stopped.append(True)
        for waker in wakers:
            assert waker.raises(SOON) is None
        assert thread.wake() is False
        until(lambda thread=thread: state_of(thread) is ThreadState.STOPPED)  # type: ignore[misc]
        assert late == []


@pytest.mark.usefixtures("restless")
def test_a_stop_while_a_step_fails_ends_in_the_same_state(make: Make) -> None:
    log = logging.getLogger("reasoning_sdk.thread")
    log.disabled = True
    try:
        for _ in range(200):
            thread = make(lambda: 1 // 0)
            stops = InThread(lambda thread=thread: thread.stop(SOON))  # type: ignore[misc]
            thread.wake()
            assert stops.ends(SOON) is True
            assert state_of(thread) is ThreadState.STOPPED
    finally:
        log.disabled = False


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit, KeyboardInterrupt])
def test_an_exception_in_a_step_is_logged_once_and_kept_and_ends_it_for_good(
    make: Make, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    raised = error("on purpose")
    woken_by_the_log: list[bool] = []

    def step() -> None:
        raise raised

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            woken_by_the_log.append(thread.wake())

    handler = Handler()
    thread = make(step)
    logging.getLogger("reasoning_sdk.thread").addHandler(handler)
    try:
        assert thread.wake()
        assert thread.join(SOON)
    finally:
        logging.getLogger("reasoning_sdk.thread").removeHandler(handler)
    until(lambda: state_of(thread) is ThreadState.STOPPED)
    assert thread.error is raised
    assert thread.wake() is False
    assert woken_by_the_log == [False]
    records = [record for record in caplog.records if record.name == "reasoning_sdk.thread"]
    assert [record.getMessage() for record in records] == ["test has ended"]
    assert records[0].exc_info is not None
    assert records[0].exc_info[1] is raised


def test_what_nobody_holds_any_more_is_collected_once_its_thread_has_retired() -> None:
    gc.collect()
    before, gone = len(module._all), []
    for _ in range(50):
        thread = BackgroundThread("test", Work(), linger=0)
        assert thread.wake()
        assert thread.join(SOON)
        gone.append(weakref.ref(thread))
        del thread
    until(lambda: not gc.collect() and not [ref for ref in gone if ref() is not None])
    assert len(module._all) <= before


def test_what_was_never_woken_is_collected_without_the_garbage_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        gone = weakref.ref(BackgroundThread("test", Work()))
        assert gone() is None
    finally:
        gc.enable()


# -- other processes ---------------------------------------------------------------------------

# The module needs the standard library only: it is read from its file by Pythons without packages.
PREAMBLE = """
import atexit, faulthandler, gc, importlib.util, os, signal, sys, threading, time
faulthandler.dump_traceback_later(40, exit=True)
spec = importlib.util.spec_from_file_location("background", {path!r})
background = importlib.util.module_from_spec(spec)
sys.modules["background"] = background
spec.loader.exec_module(background)
from background import BackgroundThread, Signal, ThreadState

def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "does not come about"
        time.sleep(0.001)

class Work:
    def __init__(self):
        self.count, self.overlapped, self.inside = 0, False, threading.Lock()
        self.began = Signal()
    def __call__(self):
        if not self.inside.acquire(blocking=False):
            self.overlapped = True
            return
        self.count += 1
        self.began.give()
        self.inside.release()

def tell(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def in_child(function):
    "Forks; the child ends with status 0 if the function returns."
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        try:
            function()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return pid

def ended(pid):
    return os.waitpid(pid, 0)[1]
"""


def pythons() -> list[str]:
    """This Python, and the newest of each other version that pyenv has."""
    found = {sys.version_info[:2]: sys.executable}
    for path in sorted(Path.home().glob(".pyenv/versions/3.1[0-4].*/bin/python")):
        major, minor = path.parts[-3].split(".")[:2]
        found.setdefault((int(major), int(minor)), str(path))
    return [found[version] for version in sorted(found)]


each_python = pytest.mark.parametrize(
    "python", pythons(), ids=lambda path: "this" if path == sys.executable else path.split("/")[-3]
)


def run(
    tmp_path: Path, program: str, python: str = sys.executable, *, status: int = 0, err: str = ""
) -> list[str]:
    """The lines that a program prints, which must end with this status and this on stderr."""
    script = tmp_path / "program.py"
    preamble = PREAMBLE.format(path=module.__file__)
    script.write_text(preamble + textwrap.dedent(program))
    done = subprocess.run(
        [python, "-W", "ignore::DeprecationWarning", str(script)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert err in done.stderr
    assert bool(done.stderr) is bool(err), done.stderr
    assert done.returncode == status
    return done.stdout.splitlines()


# -- interruptions -----------------------------------------------------------------------------


@each_python
def test_ctrl_c_at_any_opcode_of_a_wake_leaves_it_usable(tmp_path: Path, python: str) -> None:
    lines = run(
        tmp_path,
        """
        def interrupted_at(number, function):
            left = number
            def trace(frame, event, arg):
                nonlocal left
                if frame.f_code.co_filename != background.__file__:
                    return None
                frame.f_trace_opcodes = True
                if event in ("opcode", "line"):
                    left -= 1
                    if left == 0:
                        raise KeyboardInterrupt
                return trace
            sys.settrace(trace)
            try:
                function()
            except KeyboardInterrupt:
                return True
            finally:
                sys.settrace(None)
            return False

        number = 1
        for kind in ["new", "running", "stop"]:
            number = 0
            goes_on = True
            while goes_on:
                number += 1
                work = Work()
                thread = BackgroundThread("test", work, linger=20 if kind == "running" else 0)
                if kind == "running":
                    assert thread.wake() and work.began.take(20)
                goes_on = interrupted_at(number, lambda: (
                    thread.stop(20) if kind == "stop" else thread.wake()))
                if kind == "stop":
                    assert thread.stop(20) and not thread.wake()
                    continue
                until(lambda: kind == "running" or thread.state is ThreadState.NEW
                      and not thread.runs)
                work.began.take(0)
                count = work.count
                assert thread.wake(), number
                until(lambda: work.count > count)
                assert thread.stop(20), number
                assert thread.state is ThreadState.STOPPED, number
                assert not work.overlapped
            assert number > 3  # Python 3.12.1 stops at lines only
        tell("done")
        """,
        python,
    )
    assert lines == ["done"]


@needs_timer
@each_python
def test_a_real_ctrl_c_at_any_moment_of_a_wake_leaves_it_usable(
    tmp_path: Path, python: str
) -> None:
    lines = run(
        tmp_path,
        """
        import random
        random.seed(7)
        work, hits, fired = Work(), 0, False
        def interrupt(number, frame):
            global fired
            fired = True
            raise KeyboardInterrupt
        def unraisable(unraisable):  # it hit a callback of a weak reference
            assert unraisable.exc_type is KeyboardInterrupt
        def wake_until_fired():
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 3e-4))
            while not fired:
                thread.wake()
        signal.signal(signal.SIGALRM, interrupt)
        sys.unraisablehook = unraisable
        thread = BackgroundThread("test", work, linger=0)
        for _ in range(1000):
            fired = False
            try:
                wake_until_fired()
            except KeyboardInterrupt:
                hits += 1
            count = work.count
            assert thread.wake()
            until(lambda: work.count > count)
        assert hits > 500, hits
        assert thread.stop(20)
        assert not work.overlapped
        tell("done")
        """,
        python,
    )
    assert lines == ["done"]


@needs_timer
@each_python
def test_it_may_be_woken_in_signal_handlers_whatever_they_interrupt(
    tmp_path: Path, python: str
) -> None:
    lines = run(
        tmp_path,
        """
        held, handled, depth = [], 0, 0
        def handle(number, frame):
            global handled, depth
            handled += 1
            if depth == 5:
                return  # on a slow machine they would interrupt each other until a RecursionError
            depth += 1
            for thread in held:
                thread.wake()
            depth -= 1
        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline or handled < 300:
            works = [Work() for _ in range(3)]
            threads = [BackgroundThread("test", work, linger=linger)
                       for work, linger in zip(works, [0, 0.0001, 20])]
            held[:] = threads
            for thread, work in zip(threads, works):
                for _ in range(5):
                    assert thread.wake()
                threading.enumerate()
                until(lambda: work.count)
            for thread, work in zip(threads, works):
                assert thread.stop(20)
                assert not thread.wake()
                assert not work.overlapped
        signal.setitimer(signal.ITIMER_REAL, 0)
        tell("done")
        """,
        python,
    )
    assert lines == ["done"]


@each_python
def test_it_may_be_woken_in_finalisers_whenever_garbage_is_collected(
    tmp_path: Path, python: str
) -> None:
    lines = run(
        tmp_path,
        """
        held, finalised = [], 0
        class Garbage:
            def __init__(self):
                self.itself = self
            def __del__(self):
                global finalised
                finalised += 1
                for thread in held:
                    thread.wake()
        class Littering(Work):
            def __call__(self):
                if self.count < 10:  # as each piece of garbage brings about more of it
                    Garbage()
                super().__call__()
        gc.set_threshold(3, 10, 10)
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline or finalised < 100:
            works = [Littering() for _ in range(3)]
            threads = [BackgroundThread("test", work, linger=linger)
                       for work, linger in zip(works, [0, 0.0001, 20])]
            held[:] = threads
            for thread, work in zip(threads, works):
                for _ in range(5):
                    Garbage()
                    assert thread.wake()
                    threading.enumerate()
                until(lambda: work.count)
            for thread, work in zip(threads, works):
                Garbage()
                assert thread.stop(20)
                assert not thread.wake()
                assert not work.overlapped
        held.clear()
        tell("done")
        """,
        python,
    )
    assert lines == ["done"]


# -- forks -------------------------------------------------------------------------------------


@needs_fork
@each_python
def test_in_a_forked_child_it_is_new_and_the_parents_goes_on(tmp_path: Path, python: str) -> None:
    lines = run(
        tmp_path,
        """
        def make(name, linger=20):
            work = Work()
            forks = []
            thread = BackgroundThread(name, work, linger=linger, on_fork=lambda: forks.append(1))
            return thread, work, forks
        running, stopped, unwoken = made = [make("running"), make("stopped"), make("unwoken")]
        for thread, work, _ in made[:2]:
            assert thread.wake() and work.began.take(20)
        stopped[0].stop(20)
        stopped[0].error = None
        count = running[1].count

        def child():
            for thread, work, forks in made:
                assert thread.state is ThreadState.NEW and not thread.runs, thread
                assert not thread._signal.is_given()
                assert forks == [1], forks
                before = work.count
                assert thread.join(0)
                assert threading.active_count() == 1 or thread is not running[0]
                assert thread.wake() and work.began.take(20)
                assert thread.state is ThreadState.RUNNING and work.count == before + 1
                assert thread.stop(20) and thread.state is ThreadState.STOPPED
                assert forks == [1], forks
        assert ended(in_child(child)) == 0
        for thread, work, forks in made:
            assert forks == []
        assert running[0].state is ThreadState.RUNNING and running[1].count == count
        assert running[0].wake() and running[1].began.take(20)
        assert stopped[0].state is ThreadState.STOPPED and not stopped[0].wake()
        assert running[0].stop(20)
        tell("done")
        """,
        python,
    )
    assert lines == ["done"]


@needs_fork
@each_python
def test_all_are_new_before_any_is_told_of_the_fork_and_one_that_raises_hides_none(
    tmp_path: Path, python: str
) -> None:
    lines = run(
        tmp_path,
        """
        import logging
        logging.getLogger("reasoning_sdk").addHandler(logging.NullHandler())
        states = []
        def on_fork():
            states.append([thread.state for thread in threads])
            raise ValueError
        threads = [BackgroundThread("test", lambda: None, on_fork=on_fork) for _ in range(3)]
        for thread in threads:
            assert thread.wake()
        def child():
            assert states == [[ThreadState.NEW] * 3] * 3, states
            assert all(thread.wake() for thread in threads)
        assert ended(in_child(child)) == 0
        tell("done")
        """,
        python,
    )
    assert lines == ["done"]


@needs_fork
@each_python
def test_forks_while_threads_are_being_started_harm_nobody(tmp_path: Path, python: str) -> None:
    lines = run(
        tmp_path,
        """
        sys.setswitchinterval(1e-5)
        works = [Work() for _ in range(2)]
        forked = []
        threads = [
            BackgroundThread("test", work, linger=0, on_fork=lambda: forked.append(1))
            for work in works
        ]
        over, problems = threading.Event(), []

        def child():
            assert forked == [1, 1], forked
            for thread in threads:
                assert thread.wake()
            for thread in threads:
                done = threading.Event()
                thread._step = done.set
                assert thread.wake()
                assert done.wait(20)
                assert thread.stop(20)

        def forks():
            for _ in range(25):
                if ended(in_child(child)):
                    problems.append("child")

        def wakes():
            while not over.is_set():
                for thread in threads:
                    if not thread.wake():
                        problems.append("wake")

        forkers = [threading.Thread(target=forks) for _ in range(4)]
        wakers = [threading.Thread(target=wakes) for _ in range(2)]
        for thread in forkers + wakers:
            thread.start()
        for thread in forkers:
            thread.join()
        over.set()
        for thread in wakers:
            thread.join()
        assert not problems, problems
        for thread, work in zip(threads, works):
            assert thread.wake()
            assert thread.stop(20)
            assert not work.overlapped
        tell("done")
        """,
        python,
    )
    assert lines == ["done"]


@needs_fork
@each_python
@pytest.mark.parametrize("end", ["return", "exit", "raise", "go on"])
def test_a_step_may_fork(tmp_path: Path, python: str, end: str) -> None:
    lines = run(
        tmp_path,
        f"""
        import logging
        logging.getLogger("reasoning_sdk").addHandler(logging.NullHandler())
        end = {end!r}
        parent, pids, count, done = os.getpid(), [], 0, threading.Event()
        ours = Work()

        def step():
            global count
            count += 1
            if os.getpid() != parent:
                # A thread of the child's own. The one that forked must not step again as well.
                ours()
                if ours.count == 1:
                    thread.wake()
                    return 0.1
                tell("child", count, threading.active_count(), thread.error, ours.overlapped)
                os._exit(0)
            if count == 1:
                pids.append(os.fork())
                if pids[0] == 0:
                    signal.alarm(30)
                    if end == "exit":
                        os._exit(0)
                    if end == "raise":
                        raise ValueError
                    if end == "go on":
                        thread.wake()
                        return 0
                    return 0
            if count == 3:
                done.set()
                return None
            return 0

        thread = BackgroundThread("test", step)
        thread.wake()
        assert done.wait(20)
        assert ended(pids[0]) == 0
        assert thread.wake() and thread.stop(20) and thread.error is None
        tell("done")
        """,
        python,
    )
    # Its count is 1 at the fork.
    assert lines == (["child 3 2 None False"] if end == "go on" else []) + ["done"]


@pytest.mark.skipif(sys.platform != "linux", reason="calls the C library's fork")
@each_python
def test_a_fork_that_python_is_not_told_of_is_noticed_at_the_next_use(
    tmp_path: Path, python: str
) -> None:
    lines = run(
        tmp_path,
        """
        import ctypes
        work, forks = Work(), []
        thread = BackgroundThread("test", work, linger=20, on_fork=lambda: forks.append(1))
        other = BackgroundThread("test", work, linger=20)
        assert thread.wake() and work.began.take(20)
        assert other.wake() and work.began.take(20)
        until(lambda: thread._signal._lock.locked())
        time.sleep(0.05)
        pid = ctypes.PyDLL(None).fork()
        if pid == 0:
            signal.alarm(30)
            try:
                assert thread.state is ThreadState.NEW and not thread.runs
                assert forks == []
                assert thread.join(None)
                assert thread.wake() and work.began.take(20)
                assert forks == [1]
                assert thread.stop(20)
                assert other.stop(20) and not other.wake()
                assert other.state is ThreadState.STOPPED
                os._exit(0)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
        assert ended(pid) == 0
        assert forks == []
        assert thread.wake() and work.began.take(20)
        assert thread.stop(20)
        tell("done")
        """,
        python,
    )
    assert lines == ["done"]


# -- the interpreter's exit --------------------------------------------------------------------


@each_python
@pytest.mark.parametrize(
    ("end", "status", "err"),
    [
        ("pass", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("raise ValueError('unhandled')", 1, "ValueError: unhandled"),
    ],
)
@pytest.mark.parametrize("woken", [True, False])
def test_at_exit_the_hook_is_called_once_with_the_time_at_which_that_began(
    tmp_path: Path, python: str, end: str, status: int, err: str, woken: bool
) -> None:
    lines = run(
        tmp_path,
        f"""
        def on_exit(began_at):
            tell("exit", before <= began_at <= time.monotonic())
        threads = [BackgroundThread("test", lambda: None, on_exit=on_exit) for _ in range(3)]
        silent = BackgroundThread("test", lambda: None)
        if {woken}:
            for thread in threads:
                assert thread.wake()
        before = time.monotonic()
        {end}
        """,
        python,
        status=status,
        err=err,
    )
    assert lines == ["exit True"] * 3


def test_all_hooks_are_given_the_same_time_however_long_one_takes(tmp_path: Path) -> None:
    lines = run(
        tmp_path,
        """
        def on_exit(began_at):
            times.append(began_at)
            time.sleep(0.01)
            if len(times) == 3:
                tell(len(set(times)))
        times = []
        threads = [BackgroundThread("test", lambda: None, on_exit=on_exit) for _ in range(3)]
        """,
    )
    assert lines == ["1"]


@each_python
def test_os_exit_calls_no_hook(tmp_path: Path, python: str) -> None:
    lines = run(
        tmp_path,
        """
        thread = BackgroundThread("test", lambda: None, on_exit=lambda began_at: tell("exit"))
        assert thread.wake()
        os._exit(0)
        """,
        python,
    )
    assert lines == []


@each_python
def test_a_hook_that_raises_at_exit_is_logged_and_keeps_no_other_from_being_called(
    tmp_path: Path, python: str
) -> None:
    lines = run(
        tmp_path,
        """
        import logging
        class Handler(logging.Handler):
            def emit(self, record):
                tell("logged", record.getMessage(), record.exc_info[0].__name__)
        logging.getLogger("reasoning_sdk").addHandler(Handler())
        def on_exit(began_at):
            tell("exit")
            raise ValueError
        threads = [BackgroundThread("test", lambda: None, on_exit=on_exit) for _ in range(2)]
        """,
        python,
    )
    assert lines == ["exit", "logged a hook of test has failed ValueError"] * 2


@each_python
def test_at_exit_a_wake_says_whether_a_thread_can_still_be_had(tmp_path: Path, python: str) -> None:
    lines = run(
        tmp_path,
        """
        works = [Work(), Work()]
        running = BackgroundThread("test", works[0], linger=20)
        assert running.wake() and works[0].began.take(20)
        def on_exit(began_at):
            woken = late.wake()
            stepped = works[1].began.take(20 if woken else 0)
            assert (woken, stepped, late.state) in [
                (True, True, ThreadState.RUNNING), (False, False, ThreadState.NEW)]
            tell(sys.version_info[:2] == (3, 12) and woken, late.wake() is woken)
            tell(running.wake(), works[0].began.take(20))
        late = BackgroundThread("test", works[1], linger=20, on_exit=on_exit)
        """,
        python,
    )
    assert lines == ["False True", "True True"]


@each_python
@pytest.mark.parametrize("blocks", ["time.sleep(3600)", "near.recv(1)", "spin()"])
def test_a_step_that_is_under_way_does_not_delay_the_exit(
    tmp_path: Path, python: str, blocks: str
) -> None:
    lines = run(
        tmp_path,
        f"""
        import socket
        near, far = socket.socketpair()
        began = threading.Event()
        def spin():
            while True:
                pass
        def step():
            began.set()
            {blocks}
        thread = BackgroundThread("test", step, on_exit=lambda began_at: tell("exit"))
        assert thread.wake()
        assert began.wait(20)
        """,
        python,
    )
    assert lines == ["exit"]


@needs_fork
@each_python
def test_a_forked_child_that_exits_calls_its_own_hook(tmp_path: Path, python: str) -> None:
    lines = run(
        tmp_path,
        """
        def on_exit(began_at):
            tell("child" if os.getpid() != parent else "parent")
        parent = os.getpid()
        # Its thread is awaited at exit: in vain, in a child.
        faulthandler.cancel_dump_traceback_later()
        thread = BackgroundThread("test", lambda: None, on_exit=on_exit)
        assert thread.wake()
        pid = os.fork()
        if pid:
            assert ended(pid) == 0
        """,
        python,
    )
    assert lines == ["child", "parent"]


# -- children of multiprocessing ---------------------------------------------------------------

CHILDREN = """
import multiprocessing

def on_exit(began_at):
    tell("exit", multiprocessing.current_process().name)

work = Work()
{make}

def child(depth):
    {in_child}
    if depth:
        process = multiprocessing.get_context({method!r}).Process(
            target=child, args=(depth - 1,), name=f"child-{{depth}}")
        process.start()
        process.join()
        assert process.exitcode == 0, process.exitcode

if __name__ == "__main__":
    {in_parent}
    child(2)
    multiprocessing.current_process().name = "parent"
"""
WAKE = "assert thread.wake() and work.began.take(20)"


@needs_fork
@each_python
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing_call_the_hook_once_at_their_end(
    tmp_path: Path, python: str, method: str
) -> None:
    make = "thread = BackgroundThread('test', work, on_exit=on_exit)"
    program = CHILDREN.format(make=make, in_child=WAKE, in_parent="", method=method)
    lines = run(tmp_path, program, python)
    assert lines == ["exit child-1", "exit child-2", "exit parent"]


@needs_fork
@each_python
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_so_do_children_in_which_it_is_woken_before_they_begin(
    tmp_path: Path, python: str, method: str
) -> None:
    """While the main module is imported again, or when it is told of the fork."""
    make = f"""
thread = BackgroundThread(
    "test", work, on_exit=on_exit, on_fork=lambda: thread.wake())
{WAKE}
"""
    program = CHILDREN.format(
        make=make, in_child="assert thread.wake()", in_parent="", method=method
    )
    lines = run(tmp_path, program, python)
    assert lines == ["exit child-1", "exit child-2", "exit parent"]


@needs_fork
@each_python
def test_a_child_of_multiprocessing_in_which_nothing_is_woken_ends_as_it_would(
    tmp_path: Path, python: str
) -> None:
    make = "thread = BackgroundThread('test', work, on_exit=on_exit)"
    program = CHILDREN.format(make=make, in_child="pass", in_parent=WAKE, method="fork")
    assert run(tmp_path, program, python) == ["exit parent"]


# -- gevent ------------------------------------------------------------------------------------

GEVENT = """
import gevent, gevent.monkey, gevent.hub
{before}
gevent.monkey.patch_all()
{after}
ticks = 0
def tick():
    global ticks
    while True:
        ticks += 1
        gevent.sleep(0.001)
ticker = gevent.spawn(tick)

class Count:
    count = 0
    def __call__(self):
        self.count += 1
        assert gevent.hub.get_hub() is hub
        assert type(gevent.getcurrent()) is not gevent.hub.Hub
hub = gevent.hub.get_hub()
count = Count()

def goes_on(condition):
    before, deadline = ticks, time.monotonic() + 20
    while not condition() or ticks < before + 20:
        assert time.monotonic() < deadline
        gevent.sleep(0.001)
"""


def test_it_works_with_greenlets_and_blocks_no_hub(tmp_path: Path) -> None:
    pytest.importorskip("gevent")
    lines = run(
        tmp_path,
        GEVENT.format(before="", after="")
        + textwrap.dedent("""
        thread = BackgroundThread("test", count, linger=3600)
        assert thread.wake()
        goes_on(lambda: count.count == 1)
        assert thread.runs
        assert thread.wake()
        goes_on(lambda: count.count == 2)
        assert thread.stop(20) and not thread.wake()
        assert thread.state is ThreadState.STOPPED
        thread = BackgroundThread("test", count, linger=0.05)
        assert thread.wake()
        goes_on(lambda: count.count == 3 and thread.state is ThreadState.NEW)
        assert thread.wake()
        goes_on(lambda: count.count == 4)
        assert thread.stop(20)
        def fails():
            raise GreenletOver
        GreenletOver = type("GreenletOver", (Exception,), {})
        import logging
        logging.getLogger("reasoning_sdk").addHandler(logging.NullHandler())
        thread = BackgroundThread("test", fails)
        assert thread.wake() and thread.join(20)
        assert type(thread.error) is GreenletOver
        tell("done")
        """),
    )
    assert lines == ["done"]
