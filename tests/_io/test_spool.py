"""Events on disk: kept until settled, whatever dies, and given to one process only."""

import errno
import gc
import json
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning_sdk.encoding import encode_json
from reasoning_sdk.errors import ConfigurationError, InvalidEventError
from tests.support.threads import InThread

pytest.importorskip("fcntl")

from reasoning_sdk._io import spool as spool_module
from reasoning_sdk._io.spool import Kept, Segment, Spool

ROOT = Path(__file__).resolve().parents[2]
HEAD = b'"path":"/agent/completions","address":"https://x","signature":"s"'
BODY = b'{"n":1}'
LARGE_BODY = b'"%b"' % (b"x" * 70_000)

#: What every script of a process of its own begins with; its first argument is the directory.
PRELUDE = """
import os, resource, signal, sys
from reasoning_sdk._io.spool import Spool
HEAD, BODY = b'"path":"/p"', b'{"n":1}'
directory = sys.argv[1]
def say(*words): print(*words, flush=True)
"""


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Spool]]:
    """Opens spools on one directory, and closes them."""
    spools: list[Spool] = []

    def open_one(directory: Path = tmp_path) -> Spool:
        spools.append(Spool(directory))
        return spools[-1]

    yield open_one
    for spool in spools:
        spool.close()


@contextmanager
def process(script: str, directory: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that runs a script; killed in the end."""
    child = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + script, str(directory)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def said(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def tell(child: subprocess.Popen[str], line: str) -> None:
    assert child.stdin is not None
    child.stdin.write(line + "\n")
    child.stdin.flush()


def crash(spool: Spool) -> None:
    """What is left of a spool when its process dies."""
    for segment in spool._owned:
        os.close(segment.fd)
    spool._owned.clear()


def added(spool: Spool, key: str, body: bytes = BODY) -> Segment:
    segment = spool.add(key, HEAD, body)
    assert segment is not None, spool.failure
    return segment


def keys(spool: Spool) -> list[str]:
    """The keys of all events that can be taken over."""
    return [event.key for _, kept in spool.orphans() for event in kept]


def segments(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir() if "events-" in p.name)


def leave(directory: Path, content: bytes, name: str = "events-1-a.jsonl") -> Path:
    """A segment that a dead process has left."""
    path = directory / name
    path.write_bytes(content)
    return path


def line(key: str, head: bytes = HEAD, body: bytes = BODY) -> bytes:
    return b'{"key":"%b",%b,"body":%b}\n' % (key.encode(), head, body)


def done(key: str) -> bytes:
    return b'{"done":"%b"}\n' % key.encode()


# -- what is written -----------------------------------------------------------------------------


def test_an_event_is_written_before_add_returns_and_survives_kill_9(opened, tmp_path):
    body = encode_json({"text": 'Ünï "quoted" \\ \u2028', "n": [1.5, None]})
    script = f"Spool(directory).add('k', {HEAD!r}, {body!r}); say('added'); signal.pause()"
    spool = opened()
    with process(script, tmp_path) as child:
        assert said(child) == "added"
        assert keys(spool) == []  # it lives
        child.kill()
        child.wait()
        [(_, [event])] = spool.orphans()
    assert event == Kept(
        key="k", path="/agent/completions", address="https://x", signature="s", body=body
    )


def test_the_line_is_as_documented(opened, tmp_path):
    segment = added(opened(), "k")
    assert Path(segment.path).read_bytes() == line("k")


def test_a_settled_event_is_not_found_again(opened):
    spool = opened()
    segments_of = {key: added(spool, key) for key in "abc"}
    spool.settle(segments_of["b"], "b")
    crash(spool)
    assert keys(opened()) == ["a", "c"]


def test_settling_twice_writes_once(opened):
    spool = opened()
    segment = added(spool, "a")
    added(spool, "b")
    for _ in range(2):
        spool.settle(segment, "a")
    spool.settle(segment, "never added")
    assert Path(segment.path).read_bytes() == line("a") + line("b") + done("a")


def test_what_a_second_process_leaves_is_found_by_the_third(opened):
    first, second, third = opened(), opened(), opened()
    for key in "abc":
        added(first, key)
    crash(first)
    [(segment, kept)] = second.orphans()
    assert [event.key for event in kept] == ["a", "b", "c"]
    second.settle(segment, "b")
    assert keys(third) == []
    crash(second)
    assert keys(third) == ["a", "c"]


def test_kept_shows_neither_body_nor_signature():
    kept = Kept(key="k", path="/p", address="https://x", signature="SIGNED", body=b"BODY")
    assert "SIGNED" not in repr(kept)
    assert "BODY" not in repr(kept)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        kept.key = "x"


def test_a_repr_tells_where_it_is(opened, tmp_path):
    spool = opened()
    assert repr(spool) == f"<Spool {str(tmp_path)!r}>"
    assert repr(added(spool, "k")) == f"<Segment {segments(tmp_path)[0]}>"


# -- what is read --------------------------------------------------------------------------------

AWKWARD = ["", '"', "\\", '\\"', ',"body":', '","body":"', "ä€😀\u2028", "\n\r\x00\x18", "}\n{"]


@pytest.mark.parametrize("text", AWKWARD)
def test_any_text_comes_back_as_it_was(opened, text):
    head = encode_json({"path": "/p" + text, "address": text, "signature": text})[1:-1]
    body = encode_json({"body": text, text: [text, {"key": text, "done": text}]})
    spool = opened()
    assert spool.add("k", head, body)
    crash(spool)
    [(_, [event])] = opened().orphans()
    assert event == Kept(key="k", path="/p" + text, address=text, signature=text, body=body)


def test_address_and_signature_may_be_missing_or_null(opened):
    spool = opened()
    spool.add("a", b'"path":"/p"', BODY)
    spool.add("b", b'"path":"/p","address":null,"signature":null', BODY)
    crash(spool)
    [(_, kept)] = opened().orphans()
    assert [(event.address, event.signature) for event in kept] == [(None, None)] * 2


def test_wherever_the_last_record_is_cut_the_others_are_given(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    whole = line("a") + line("b") + done("a") + line("c")
    last = line("d", body=encode_json({"text": 'ä"}', "key": "x"}))
    for cut in range(len(last)):
        directory = tmp_path / str(cut)
        directory.mkdir()
        leave(directory, whole + last[:cut])
        spool = Spool(directory)
        assert keys(spool) == ["b", "c"]
        crash(spool)
    assert caplog.records == []


def test_what_is_settled_after_a_torn_line_stays_settled(tmp_path, opened, caplog):
    caplog.set_level(logging.WARNING)
    last = line("c", body=b'{"x":[{"key":"d","path":"/p","body":1}\n'[:-1] + b"]}")
    for cut in range(1, len(last)):
        path = leave(tmp_path, line("a") + line("b") + last[:cut])
        spool = opened()
        [(segment, _)] = spool.orphans()
        spool.settle(segment, "a")
        crash(spool)
        spool = opened()
        assert keys(spool) == ["b"]
        crash(spool)
        path.unlink()
    assert caplog.records == []


@pytest.mark.parametrize(
    "garbage",
    [
        b"garbage",
        b"{}",
        b"[]",
        b"1",
        b"\x00" * 100,
        b"\xff\xfe{\x00",
        b"[" * 100_000,
        b'{"key":"k"}',
        b'{"key":"k","path":"/p"}',
        b'{"key":1,"path":"/p","body":{}}',
        b'{"key":"k","path":1,"body":{}}',
        b'{"key":"k","path":"/p","signature":1,"body":{}}',
        b'{"key":"k","path":"/p", "body":{}}',
        b'{"key":"k","path":"/p","body":{}} ',
        b'{"key":"k","path":"/p","body":{}',
        b'{"done":1}',
        b'{"done":"a"',
        b'{"key":"' * 100_000,
    ],
    ids=lambda garbage: repr(garbage[:50]),
)
def test_a_line_that_is_no_record_is_passed_over_and_said(garbage, tmp_path, opened, caplog):
    leave(tmp_path, line("a") + garbage + b"\n" + line("b"))
    assert keys(opened()) == ["a", "b"]
    [record] = caplog.records
    assert record.name == "reasoning_sdk.spool"
    assert record.getMessage() == "events-1-a.jsonl: cannot read line 2"


def test_many_such_lines_are_said_at_once(tmp_path, opened, caplog):
    leave(tmp_path, line("a") + b"SECRET\n" * 3)
    assert keys(opened()) == ["a"]
    assert [r.getMessage() for r in caplog.records] == [
        "events-1-a.jsonl: cannot read line 2 and 2 more"
    ]


def test_empty_lines_are_nothing(tmp_path, opened, caplog):
    leave(tmp_path, b"\n" + line("a") + b"\n\n\x18\n")
    assert keys(opened()) == ["a"]
    assert caplog.records == []


def test_an_event_may_come_after_the_line_that_settles_it(tmp_path, opened):
    leave(tmp_path, done("b") + line("a") + line("b") + line("c") + done("a"))
    assert keys(opened()) == ["c"]


def test_a_record_glued_to_a_torn_one_is_found(tmp_path, opened):
    nested = b'{"x":[{"key":"n","path":"/p","body":1},{"done":"b"}]}'
    torn = line("a", body=nested)
    for cut in range(1, len(torn) - 1):
        path = leave(tmp_path, torn[:cut] + line("b", body=nested) + torn[:cut] + done("c"))
        spool = opened()
        assert keys(spool) == ["b"]
        crash(spool)
        path.unlink()


def test_the_oldest_segment_comes_first_and_each_is_taken_when_asked_for(tmp_path, opened):
    for key in "abc":
        spool = opened()
        added(spool, key)
        crash(spool)
    one, other = opened(), opened()
    taken = one.orphans()
    assert [event.key for event in next(taken)[1]] == ["a"]
    assert keys(other) == ["b", "c"]
    assert list(taken) == []


def test_files_of_others_are_left_alone(tmp_path, opened):
    names = ["dead-letter.jsonl", "events-1-a.txt", "notes", ".hidden", ".events-1"]
    for name in names:
        leave(tmp_path, line("a"), name)
    assert keys(opened()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names)


def test_a_segment_that_cannot_be_opened_is_said_and_left(tmp_path, opened, caplog):
    leave(tmp_path, line("a"), "elsewhere")
    (tmp_path / "events-1-a.jsonl").symlink_to(tmp_path / "elsewhere")
    leave(tmp_path, line("b"), "events-2-b.jsonl")
    assert keys(opened()) == ["b"]
    [record] = caplog.records
    assert record.getMessage().startswith("cannot take over events-1-a.jsonl: ")


def test_a_segment_that_cannot_be_read_is_said_and_left(tmp_path, opened, caplog, monkeypatch):
    leave(tmp_path, line("a"))

    def failing(*args: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    spool = opened()
    with monkeypatch.context() as patch:
        patch.setattr(spool_module, "_pending", failing)
        assert keys(spool) == []
    assert [r.getMessage() for r in caplog.records] == [
        "cannot take over events-1-a.jsonl: Input/output error"
    ]
    assert keys(spool) == ["a"]


def test_a_segment_that_cannot_be_locked_is_said_and_left(tmp_path, opened, caplog, monkeypatch):
    leave(tmp_path, line("a"))
    spool = opened()
    with monkeypatch.context() as patch:
        patch.setattr(spool_module.fcntl, "flock", out_of_locks)
        assert keys(spool) == []
    assert [r.getMessage() for r in caplog.records] == [
        "cannot take over events-1-a.jsonl: No locks available"
    ]
    assert keys(spool) == ["a"]


def out_of_locks(fd: int, operation: int) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.parametrize("replaced", [False, True])
def test_a_segment_whose_owner_removes_it_meanwhile_is_not_taken(
    replaced, tmp_path, opened, monkeypatch
):
    path = leave(tmp_path, line("a"))
    flock = spool_module.fcntl.flock

    def late(fd: int, operation: int) -> None:
        path.unlink()
        if replaced:
            path.touch()
        flock(fd, operation)

    spool = opened()
    monkeypatch.setattr(spool_module.fcntl, "flock", late)
    assert keys(spool) == []
    assert spool._owned == set()


# -- who owns a segment --------------------------------------------------------------------------


def test_ones_own_segments_are_never_given(opened):
    spool, other = opened(), opened()
    added(spool, "a")
    crash_of = opened()
    added(crash_of, "b")
    crash(crash_of)
    assert keys(spool) == ["b"]
    assert keys(spool) == []
    assert keys(other) == []


TAKER = """
for line in sys.stdin:
    spool = Spool(os.path.join(directory, line.strip()))
    keys = []
    for segment, kept in spool.orphans():
        for event in kept:
            keys.append(event.key)
            spool.settle(segment, event.key)
    say(*keys)
    spool.close()
"""


def test_of_two_processes_one_gets_each_event(tmp_path):
    with process(TAKER, tmp_path) as one, process(TAKER, tmp_path) as other:
        shared = 0  # rounds in which both got something; how many there are is up to the machine
        for number in range(300):
            directory = tmp_path / str(number)
            directory.mkdir()
            expected = []
            for file in range(6):
                own = [f"{file}{key}" for key in "abc"]
                leave(directory, b"".join(map(line, own)), f"events-{file}-x.jsonl")
                expected += own
            for child in (one, other):
                tell(child, str(number))
            shares = [said(child).split() for child in (one, other)]
            assert sorted(shares[0] + shares[1]) == expected
            assert segments(directory) == []
            shared += all(shares)
            if number >= 100 and shared >= 20:
                break


THIEF = """
say("ready")
spool, stop = Spool(directory), set()
import threading
threading.Thread(target=lambda: stop.add(sys.stdin.readline()), daemon=True).start()
rounds = taken = 0
while not stop:
    rounds += 1
    taken += len(list(spool.orphans()))
say(rounds, taken)
"""


def test_a_segment_is_never_taken_while_it_is_made(tmp_path, opened):
    with process(THIEF, tmp_path) as thief:
        assert said(thief) == "ready"
        for number in range(100):
            spool = opened()
            spool.settle(added(spool, "x"), "x")
            added(spool, str(number))
        tell(thief, "stop")
        rounds, taken = map(int, said(thief).split())
    assert rounds > 0
    assert taken == 0
    assert len(segments(tmp_path)) == 100


def test_what_was_never_opened_does_not_stay(tmp_path, opened):
    path = leave(tmp_path, b"", ".events-1-a.jsonl")
    spool = opened()
    assert keys(spool) == []
    assert path.exists()  # whoever makes it may not have locked it yet
    os.utime(path, (0, 0))
    with path.open() as file:
        spool_module.fcntl.flock(file, spool_module.fcntl.LOCK_EX)
        assert keys(spool) == []
        assert path.exists()
    assert keys(spool) == []
    assert list(tmp_path.iterdir()) == []


def test_a_new_segment_that_others_lock_or_remove_is_made_again(opened, monkeypatch):
    flock = spool_module.fcntl.flock
    trouble: list[BaseException] = [BlockingIOError(), FileNotFoundError()]

    def refused(fd: int, operation: int) -> None:
        if trouble:
            raise trouble.pop()
        flock(fd, operation)

    spool = opened()
    monkeypatch.setattr(spool_module.fcntl, "flock", refused)
    added(spool, "a")
    assert trouble == []
    assert len(spool._owned) == 1
    monkeypatch.setattr(spool_module, "_ATTEMPTS", 0)
    spool._current.retired = True
    assert spool.add("b", HEAD, BODY) is None
    assert spool.failure is not None
    assert spool.failure.errno == errno.EAGAIN


@pytest.mark.parametrize("operation", ["open", "rename"])
def test_others_that_look_while_a_segment_is_made_cost_no_event(operation, opened, monkeypatch):
    spool, other = opened(), opened()
    monkeypatch.setattr(spool_module, "_UNOPENED_SECONDS", -1.0)
    real, looked = getattr(os, operation), []

    def watched(*args: Any) -> Any:
        result = real(*args)
        if not looked:
            looked.append(None)
            looked.append(keys(other))
        return result

    with monkeypatch.context() as patch:
        patch.setattr(os, operation, watched)
        segment = added(spool, "a")
    assert looked == [None, []]
    assert os.path.exists(segment.path)
    crash(spool)
    assert keys(other) == ["a"]


def test_a_segment_that_cannot_be_locked_leaves_nothing(tmp_path, opened, monkeypatch):
    spool = opened()
    with monkeypatch.context() as patch:
        patch.setattr(spool_module.fcntl, "flock", out_of_locks)
        assert spool.add("a", HEAD, BODY) is None
    assert list(tmp_path.iterdir()) == []
    assert spool._owned == set()
    assert (spool.failures, spool.failure.errno) == (1, errno.ENOLCK)
    added(spool, "b")
    assert spool.failure is None


FORKING = """
spool = Spool(directory)
segment = spool.add("parents", HEAD, BODY)
if os.fork() == 0:
    {child}
    say("ready")
    sys.stdin.read()
    os._exit(0)
signal.pause()
"""


@pytest.mark.parametrize(
    ("child", "expected"),
    [
        ("spool.abandon()", ["parents"]),
        ("spool.abandon(); assert list(spool.orphans()) == []", ["parents"]),
        ("spool.abandon(); spool.abandon(); spool.settle(segment, 'parents')", ["parents"]),
        (
            "spool.abandon(); spool.settle(segment, 'parents'); assert not spool.failures",
            ["parents"],
        ),
        ("spool.abandon(); assert spool.add('childs', HEAD, BODY)", ["parents"]),
        # forked by code that does not tell Python
        ("assert spool.add('childs', HEAD, BODY)", ["parents"]),
        ("assert list(spool.orphans()) == []", ["parents"]),
        ("spool.close()", ["parents"]),
        # why it matters
        ("pass", []),
        ("spool.settle(segment, 'parents')", []),
    ],
)
def test_a_forked_child_holds_the_parents_segments_until_it_abandons_them(
    child, expected, tmp_path, opened
):
    spool = opened()
    with process(FORKING.format(child=child), tmp_path) as parent:
        assert said(parent) == "ready"
        assert keys(spool) == []  # both live
        parent.kill()
        os.waitpid(parent.pid, 0)
        assert keys(spool) == expected
        parent.stdin.close()
        parent.stdin = None
        parent.stdout.read()  # the child has ended
        if not expected:
            assert keys(spool) == ["parents"]
        if "childs" in child:
            assert keys(spool) == ["childs"]


def test_after_a_fork_the_childs_spool_is_as_new(tmp_path):
    script = """
    spool = Spool(directory)
    spool.add("a", HEAD, BODY)
    spool.close()
    spool.failures = 3
    if os.fork() == 0:
        say(spool.add("b", HEAD, BODY) is not None, spool.failures)
        os._exit(0)
    os.wait()
    say(spool.add("c", HEAD, BODY), spool.failures)
    """.replace("\n    ", "\n")
    with process(script, tmp_path) as child:
        assert said(child) == "True 0"
        assert said(child) == "None 3"


def test_a_number_that_means_another_file_by_now_is_not_closed(tmp_path):
    script = """
    spool = Spool(directory)
    fd = spool.add("a", HEAD, BODY).fd
    if os.fork() == 0:
        os.dup2(1, fd)  # as a daemon that closes all files does
        spool.abandon()
        os.write(fd, b"open\\n")
        os._exit(0)
    os.wait()
    """.replace("\n    ", "\n")
    with process(script, tmp_path) as child:
        assert said(child) == "open"


def test_in_the_process_that_made_them_abandon_changes_nothing(opened):
    spool = opened()
    segment = added(spool, "a")
    spool.abandon()
    assert added(spool, "b") is segment
    assert keys(opened()) == []


# -- rotation and size ---------------------------------------------------------------------------


def test_a_segment_is_used_until_it_is_large(tmp_path, opened):
    spool = opened()
    first = added(spool, "a", b'"%b"' % (b"x" * 60_000))
    spool.settle(first, "a")
    second = added(spool, "b", b'"%b"' % (b"x" * 10_000))
    assert second is first
    spool.settle(second, "b")
    assert segments(tmp_path) == []
    third = added(spool, "c")
    assert third is not first
    assert segments(tmp_path) == [os.path.basename(third.path)]


def test_a_large_segment_with_pending_events_is_used_up_to_four_megabytes(tmp_path, opened):
    spool = opened()
    first = added(spool, "stays")
    body = b'"%b"' % (b"x" * 500_000)
    for number in range(8):
        assert added(spool, str(number), body) is first
        spool.settle(first, str(number))
    spool.settle(added(spool, "8", body), "8")
    second = added(spool, "9")
    assert second is not first
    assert len(segments(tmp_path)) == 2
    spool.settle(first, "stays")
    assert segments(tmp_path) == [os.path.basename(second.path)]


def test_a_segment_taken_over_is_removed_once_settled_and_takes_no_new_events(tmp_path, opened):
    leave(tmp_path, line("a") + line("b"))
    spool = opened()
    [(segment, _)] = spool.orphans()
    assert added(spool, "c") is not segment
    spool.settle(segment, "a")
    assert len(segments(tmp_path)) == 2
    spool.settle(segment, "b")
    assert "events-1-a.jsonl" not in segments(tmp_path)


def test_a_segment_without_pending_events_is_removed_and_not_given(tmp_path, opened):
    leave(tmp_path, line("a") + done("a"))
    leave(tmp_path, b"", "events-0-a.jsonl")
    assert list(opened().orphans()) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stuck", [False, True])
def test_neither_files_nor_memory_grow_with_rotations(stuck, tmp_path, opened):
    spool = opened()
    segment = added(spool, "stuck", LARGE_BODY)
    if not stuck:
        spool.settle(segment, "stuck")
    descriptors = Path("/proc/self/fd") if os.path.exists("/proc/self/fd") else Path("/dev/fd")

    def rotate(times: int) -> tuple[int, int]:
        for number in range(times):
            spool.settle(added(spool, str(number), LARGE_BODY), str(number))
        gc.collect()
        known = sum(type(thing) is Segment for thing in gc.get_objects())
        return known, len(list(descriptors.iterdir()))

    segment.retired = True
    before = rotate(20)
    assert rotate(50) == before
    assert len(spool._owned) == stuck
    assert len(segments(tmp_path)) == stuck


# -- permissions ---------------------------------------------------------------------------------


def test_nobody_else_may_read_it(tmp_path):
    umask = os.umask(0)
    try:
        spool = Spool(tmp_path / "a" / "b")
        segment = added(spool, "a")
        spool.bury({"n": 1})
    finally:
        os.umask(umask)
    modes = {
        path: path.stat().st_mode & 0o777
        for path in (tmp_path / "a").rglob("*")
    } | {tmp_path / "a": (tmp_path / "a").stat().st_mode & 0o777}  # fmt: skip
    assert modes == {
        tmp_path / "a": 0o700,
        tmp_path / "a" / "b": 0o700,
        Path(segment.path): 0o600,
        tmp_path / "a" / "b" / "dead-letter.jsonl": 0o600,
    }
    spool.close()


def test_opening_makes_no_segment_and_removes_nothing(tmp_path):
    path = leave(tmp_path, line("a") + done("a"))
    Spool(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("below", ["file", "file/below", "dangling", "nul\0", "/proc/self/nowhere"])
def test_what_cannot_be_a_directory_is_refused(below, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigurationError, match="spool must be a directory to write to, got"):
        Spool(tmp_path / below)


def test_a_directory_without_locks_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(spool_module.fcntl, "flock", out_of_locks)
    with pytest.raises(ConfigurationError, match="No locks available"):
        Spool(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_platform_without_locks_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(spool_module, "fcntl", None)
    with pytest.raises(ConfigurationError, match="fcntl"):
        Spool(tmp_path)


def test_a_relative_directory_is_that_of_its_making(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spool = Spool("spool")
    monkeypatch.chdir("/")
    assert Path(added(spool, "a").path).parent == tmp_path / "spool"
    spool.close()


# -- when it cannot be written -------------------------------------------------------------------

FULL = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
spool = Spool(directory)
kept, segments = [], set()
for number in range(1000):
    segment = spool.add(str(number), HEAD, b'"%b"' % (b"x" * (100 + number)))
    if segment is None:
        assert spool.failure is not None
    else:
        assert spool.failure is None
        segments.add(segment)
        kept.append((segment, str(number)))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
for segment, key in kept[::2]:
    spool.settle(segment, key)
say(spool.failures, len(segments))
say(*[key for _, key in kept[1::2]])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_when_the_disk_is_full_exactly_what_add_has_taken_is_kept(tmp_path, opened, caplog):
    caplog.set_level(logging.WARNING)
    with process(FULL, tmp_path) as child:
        failures, used = map(int, said(child).split())
        expected = said(child).split()
        child.wait()
    assert failures > 10
    assert used == failures + 1  # after each failure a new one
    assert keys(opened()) == expected
    # The last of the torn lines have nothing after them, the others were ended by a settled one.
    assert caplog.records == []


def test_an_event_larger_than_what_is_left_leaves_no_segment(tmp_path):
    script = """
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    spool = Spool(directory)
    for number in range(100):
        assert spool.add("k", HEAD, b'"%b"' % (b"x" * 2000)) is None
    say(spool.failures, spool.failure.__traceback__, len(os.listdir(directory)))
    say(len(os.listdir("/proc/self/fd")) < 20 if os.path.exists("/proc/self/fd") else True)
    """.replace("\n    ", "\n")
    with process(script, tmp_path) as child:
        assert said(child) == "100 None 0"
        assert said(child) == "True"


def test_settling_on_a_full_disk_is_a_failure_and_no_error(tmp_path, opened, monkeypatch):
    spool = opened()
    first = added(spool, "a")
    added(spool, "b")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: len(data) - 1)
        spool.settle(first, "a")
    assert (spool.failures, spool.failure.errno) == (1, errno.ENOSPC)
    second = added(spool, "c")
    assert second is not first
    assert spool.failure is None
    spool.settle(first, "b")
    assert segments(tmp_path) == [os.path.basename(second.path)]


def test_without_its_directory_events_are_not_kept_until_it_is_back(tmp_path, opened):
    directory = tmp_path / "spool"
    spool = opened(directory)
    segment = added(spool, "a")
    shutil.rmtree(directory)
    spool.settle(segment, "a")  # notices
    assert spool.add("b", HEAD, BODY) is None
    assert isinstance(spool.failure, FileNotFoundError)
    assert list(spool.orphans()) == []
    with pytest.raises(FileNotFoundError):
        spool.bury({})
    directory.mkdir()
    added(spool, "c")
    assert spool.failure is None


def test_a_signal_handler_that_raises_leaves_nothing_behind(tmp_path, opened, monkeypatch):
    spool = opened()
    spool.settle(added(spool, "a"), "a")

    def interrupted(fd: int, data: bytes) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            spool.add("b", HEAD, BODY)
    spool.close()
    assert segments(tmp_path) == []


# -- dead letters --------------------------------------------------------------------------------


def test_dead_letters_are_lines_of_json(tmp_path, opened):
    spool = opened()
    letters = [{"reason": "ünfit", "n": n} for n in range(3)]
    for letter in letters:
        spool.bury(letter)
    lines = (tmp_path / "dead-letter.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(text) for text in lines] == letters


def test_a_dead_letter_after_a_torn_one_is_whole(tmp_path, opened):
    (tmp_path / "dead-letter.jsonl").write_bytes(b'{"n":0}\n{"n":')
    opened().bury({"n": 2})
    assert (tmp_path / "dead-letter.jsonl").read_bytes() == b'{"n":0}\n{"n":\n{"n":2}\n'


def test_a_dead_letter_that_is_not_written_whole_is_an_error(opened, monkeypatch):
    spool = opened()
    with pytest.raises(InvalidEventError):
        spool.bury({"n": object()})
    monkeypatch.setattr(os, "write", lambda fd, data: len(data) - 1)
    with pytest.raises(OSError, match="in part") as raised:
        spool.bury({"n": 1})
    assert raised.value.errno == errno.ENOSPC


# -- the end -------------------------------------------------------------------------------------


def test_close_leaves_pending_events_to_others_and_removes_the_rest(tmp_path, opened):
    leave(tmp_path, line("x"), "events-0-a.jsonl")
    spool = opened()
    [(taken, _)] = spool.orphans()
    segment = added(spool, "a")
    spool.close()
    spool.close()
    assert spool._owned == set()
    assert spool.add("b", HEAD, BODY) is None
    assert spool.failure is None
    spool.settle(segment, "a")
    spool.settle(taken, "x")
    assert list(spool.orphans()) == []
    assert keys(opened()) == ["x", "a"]


def test_close_without_pending_events_leaves_an_empty_directory(tmp_path, opened):
    spool = opened()
    spool.settle(added(spool, "a"), "a")
    assert len(segments(tmp_path)) == 1
    spool.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["add", "settle"])
def test_close_waits_for_nobody_and_what_is_being_written_is_given_back_after(
    name, tmp_path, opened, monkeypatch
):
    spool = opened()
    segment = added(spool, "a")
    added(spool, "b")
    write, inside, go_on = os.write, threading.Event(), threading.Event()

    def slow(fd: int, data: bytes) -> int:
        inside.set()
        assert go_on.wait(10)
        return write(fd, data)

    monkeypatch.setattr(os, "write", slow)
    calls = {
        "add": lambda: spool.add("c", HEAD, BODY),
        "settle": lambda: spool.settle(segment, "a"),
    }
    thread = InThread(calls[name])
    assert inside.wait(10)
    spool.close()
    assert keys(opened()) == []  # it is still ours
    go_on.set()
    thread.wait(10)
    assert thread.error is None
    assert spool._owned == set()
    assert keys(opened()) == (["a", "b", "c"] if name == "add" else ["b"])


def test_a_segment_made_while_the_spool_closes_is_given_back(tmp_path, opened, monkeypatch):
    spool = opened()
    rename = os.rename

    def closing(*args: Any) -> None:
        rename(*args)
        spool.close()

    monkeypatch.setattr(os, "rename", closing)
    assert spool.add("a", HEAD, BODY) is None
    assert spool._owned == set()
    assert list(tmp_path.iterdir()) == []


def test_a_segment_being_taken_over_while_the_spool_closes_stays(tmp_path, opened, monkeypatch):
    path = leave(tmp_path, line("a"))
    spool = opened()
    pending = spool_module._pending

    def closing(*args: Any) -> Any:
        spool.close()
        return pending(*args)

    with monkeypatch.context() as patch:
        patch.setattr(spool_module, "_pending", closing)
        assert list(spool.orphans()) == []
    assert path.exists()
    assert spool._owned == set()
    assert keys(opened()) == ["a"]


# -- many at once --------------------------------------------------------------------------------


@pytest.fixture
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Segments are retired often, and threads take turns often."""
    monkeypatch.setattr(spool_module, "_LARGE", 2_000)
    monkeypatch.setattr(spool_module, "_LARGEST", 20_000)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("_small_segments")
def test_eight_threads_that_add_and_settle_leave_exactly_what_is_not_settled(tmp_path, opened):
    spool = opened()
    handed: list[tuple[Segment, str]] = []

    def work(thread: int) -> list[str]:
        left = []
        for number in range(2_000):
            key = f"{thread}-{number}"
            segment = added(spool, key, b'{"key":"%b"}' % key.encode())
            if number % 10 == 0:
                left.append(key)
            elif number % 2:
                spool.settle(segment, key)
            else:
                handed.append((segment, key))
                spool.settle(*handed.pop())
        return left

    threads = [InThread(lambda number=number: work(number)) for number in range(8)]
    left = [thread.ends(50) for thread in threads]
    assert [thread.error for thread in threads] == [None] * 8
    expected = {key for keys_of in left for key in keys_of}
    assert spool.failures == 0
    for segment in spool._owned:
        assert segment.pending == segment.idle
    assert {key for segment in spool._owned for key in segment.pending} == expected
    crash(spool)
    found = [e for _, kept in opened().orphans() for e in kept]
    assert sorted(e.key for e in found) == sorted(expected)
    assert all(e.body == b'{"key":"%b"}' % e.key.encode() for e in found)
    for number in range(8):  # each thread's in its order
        own = [k for k in (e.key for e in found) if k.startswith(f"{number}-")]
        assert len(own) == 200


@pytest.mark.usefixtures("_small_segments")
def test_threads_that_all_settle_the_same_events_leave_nothing(tmp_path, opened):
    spool = opened()
    for round_ in range(30):
        events = [(added(spool, f"{round_}-{n}"), f"{round_}-{n}") for n in range(40)]

        def settle(events: list[tuple[Segment, str]] = events) -> None:
            for event in events:
                spool.settle(*event)

        threads = [InThread(settle) for _ in range(4)]
        for thread in threads:
            thread.wait(10)
            assert thread.error is None
    assert spool.failures == 0
    spool.close()
    assert segments(tmp_path) == []


@pytest.mark.usefixtures("_small_segments")
def test_closing_among_threads_that_add_keeps_what_add_has_taken(tmp_path):
    for round_ in range(40):
        spool = Spool(tmp_path / str(round_))
        started = threading.Barrier(5, timeout=10)

        def work(
            thread: int, spool: Spool = spool, started: threading.Barrier = started
        ) -> list[str]:
            started.wait()
            taken = []
            for number in range(200):
                segment = spool.add(f"{thread}-{number}", HEAD, BODY)
                if segment is None:
                    break
                taken.append(f"{thread}-{number}")
            return taken

        threads = [InThread(lambda number=number, work=work: work(number)) for number in range(4)]
        started.wait()
        spool.close()
        taken = [key for thread in threads for key in thread.ends(10)]
        assert [thread.error for thread in threads] == [None] * 4
        assert (spool.failures, spool._owned) == (0, set())
        after = Spool(tmp_path / str(round_))
        assert sorted(keys(after)) == sorted(taken)
        crash(after)


HANDLER = """
import itertools, time
from reasoning_sdk._io import spool as spool_module
spool_module._LARGE, spool_module._LARGEST = 10_000, 50_000
spool, kept, numbers, fired, depth = Spool(directory), [], itertools.count(), [0], [0]
def work():
    number = next(numbers)
    segment = spool.add(str(number), HEAD, BODY)
    assert segment is not None, spool.failure
    if number % 50 == 0:
        kept.append(str(number))
    else:
        spool.settle(segment, str(number))
def handler(*args):
    if depth[0] < 3:  # it may interrupt itself, but not for ever
        depth[0] += 1
        fired[0] += 1
        work()
        depth[0] -= 1
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
deadline = time.monotonic() + 10
while next(numbers) < 20_000 and time.monotonic() < deadline:
    work()
signal.setitimer(signal.ITIMER_REAL, 0)
assert spool.failures == 0
say(fired[0])
say(*kept)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_signal_handler_that_adds_loses_nothing_and_never_hangs(tmp_path, opened):
    with process(HANDLER, tmp_path) as child:
        fired = int(said(child))
        expected = said(child).split()
        assert child.wait(30) == -signal.SIGKILL
    assert fired > 50
    assert sorted(keys(opened())) == sorted(expected)


@contextmanager
def interrupted(line: int, by: Callable[[], object]) -> Iterator[list[int]]:
    """Has something happen before the nth line that the spool runs, as in a signal handler.

    Gives a list of one number: how many lines were left when it was all over; -1 if it happened.
    """
    left = [line]

    def trace(frame: Any, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename != spool_module.__file__:
            return None
        if event == "line" and left[0] >= 0:
            left[0] -= 1
            if left[0] < 0:
                sys.settrace(None)
                by()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield left
    finally:
        sys.settrace(before)


def at_every_line(tmp_path: Path) -> Iterator[tuple[int, Spool]]:
    for position in range(500):
        spool = Spool(tmp_path / str(position))
        yield position, spool
        assert spool.failures == 0
    raise AssertionError("it never ends")


def found_after(spool: Spool) -> list[str]:
    """What the next process finds when this one dies now."""
    crash(spool)
    after = Spool(spool.directory)
    found = sorted(keys(after))
    crash(after)
    return found


@pytest.mark.parametrize("state", ["no segment yet", "one segment", "retired"])
@pytest.mark.parametrize("what", ["add", "settle the rest", "take over"])
def test_an_add_may_be_interrupted_anywhere(state, what, tmp_path):
    for position, spool in at_every_line(tmp_path):
        large = None if state == "no segment yet" else added(spool, "large", LARGE_BODY)
        if state == "retired":
            spool.settle(large, "large")
        expected = ["last", "outer"]

        def interrupt(
            spool: Spool = spool, large: Segment | None = large, expected: list[str] = expected
        ) -> None:
            if what == "add":
                spool.settle(added(spool, "inner settled"), "inner settled")
                added(spool, "inner")
                expected.insert(0, "inner")
            elif what == "take over":
                other = Spool(spool.directory)
                assert list(other.orphans()) == []
                other.close()
            elif large is not None:
                spool.settle(large, "large")  # which retires the segment

        with interrupted(position, interrupt) as left:
            added(spool, "outer")
        added(spool, "last")
        if large is not None:
            spool.settle(large, "large")
        assert all(segment.pending for segment in spool._owned)
        assert found_after(spool) == expected
        if left[0] >= 0:
            break
    assert position > 10


@pytest.mark.parametrize("state", ["one segment", "retired"])
def test_settling_may_be_interrupted_anywhere(state, tmp_path):
    for position, spool in at_every_line(tmp_path):
        first, second = added(spool, "a", LARGE_BODY), added(spool, "b")
        if state == "retired":
            first.retired = True
        expected = ["last"]

        def interrupt(
            spool: Spool = spool, first: Segment = first, second: Segment = second
        ) -> None:
            spool.settle(first, "a")  # the same
            spool.settle(second, "b")
            spool.settle(added(spool, "c"), "c")

        with interrupted(position, interrupt) as left:
            spool.settle(first, "a")
        spool.settle(second, "b")
        added(spool, "last")
        assert len(spool._owned) == 1
        assert found_after(spool) == expected
        if left[0] >= 0:
            break
    assert position > 10


@pytest.mark.parametrize("state", ["no segment yet", "one segment"])
def test_close_may_interrupt_an_add_anywhere(state, tmp_path):
    outcomes = set()
    for position, spool in at_every_line(tmp_path):
        expected = []
        if state == "one segment":
            added(spool, "before")
            expected.append("before")
        with interrupted(position, spool.close) as left:
            segment = spool.add("outer", HEAD, BODY)
        if left[0] >= 0:
            spool.close()
        assert spool._owned == set()
        assert found_after(spool) == expected + ["outer"] * (segment is not None)
        outcomes.add(segment is not None)
        if left[0] >= 0:
            break
    assert outcomes == {True, False}


def test_close_may_interrupt_settling_anywhere(tmp_path):
    outcomes = set()
    for position, spool in at_every_line(tmp_path):
        segment = added(spool, "a")
        added(spool, "b")
        with interrupted(position, spool.close) as left:
            spool.settle(segment, "a")
        if left[0] >= 0:
            spool.close()
        assert spool._owned == set()
        found = found_after(spool)
        assert found in (["b"], ["a", "b"])
        outcomes.add(len(found))
        if left[0] >= 0:
            break
    assert outcomes == {1, 2}


# -- any sequence --------------------------------------------------------------------------------

OPERATIONS = st.lists(
    st.one_of(
        st.just(("add", 0)),
        st.tuples(st.just("settle"), st.integers(0, 30)),
        st.just(("crash", 0)),
        st.just(("close", 0)),
    ),
    max_size=60,
)


@given(operations=OPERATIONS)
def test_what_is_pending_is_what_was_added_and_not_settled_in_order(operations):
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool_module, "_LARGE", 300)
        patch.setattr(spool_module, "_LARGEST", 900)
        spool, count = Spool(directory), 0
        expected: dict[str, Segment] = {}
        for name, number in [*operations, ("crash", 0)]:
            if name == "add":
                count += 1
                expected[f"{count}"] = added(spool, f"{count}", b'"%d"' % count)
            elif name == "settle" and expected:
                key = list(expected)[number % len(expected)]
                spool.settle(expected.pop(key), key)
            elif name in ("crash", "close"):
                crash(spool) if name == "crash" else spool.close()
                spool = Spool(directory)
                found = [(s, event) for s, kept in spool.orphans() for event in kept]
                assert [event.key for _, event in found] == list(expected)
                assert all(event.body == b'"%b"' % event.key.encode() for _, event in found)
                expected = {event.key: segment for segment, event in found}
        spool.close()
        assert len(os.listdir(directory)) <= len(expected)


# -- files that are not ours ---------------------------------------------------------------------


def test_a_pipe_among_the_segments_is_passed_over(tmp_path: Path) -> None:
    first = Spool(tmp_path)
    assert first.add("k1", HEAD, b"{}")
    first.close()
    os.mkfifo(tmp_path / "events-00000000000000000001-a.jsonl")
    assert [kept.key for _, found in Spool(tmp_path).orphans() for kept in found] == ["k1"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_what_another_user_has_put_there_is_not_believed(tmp_path: Path) -> None:
    first = Spool(tmp_path)
    assert first.add("k1", HEAD, b"{}")
    first.close()
    (segment,) = tmp_path.glob("events-*")
    os.chown(segment, 12345, 12345)
    assert list(Spool(tmp_path).orphans()) == []
    assert segment.exists()


def test_dead_letters_are_for_their_owner_alone_whoever_made_the_file(tmp_path: Path) -> None:
    letters = tmp_path / "dead-letter.jsonl"
    letters.touch(mode=0o666)
    letters.chmod(0o666)
    Spool(tmp_path).bury({"n": 1})
    assert stat.S_IMODE(letters.stat().st_mode) == 0o600
