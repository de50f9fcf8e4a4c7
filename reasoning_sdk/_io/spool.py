"""Events on disk until they are delivered, so that they survive ``kill -9`` (not a power cut).

A spool is a directory. Each process appends to segments of its own there, a line for each event and
one more when the event needs no keeping any more, and holds a lock on them for as long as it lives:
a segment that is not locked was left by a process that has died, and whoever locks it next has its
events. A segment of settled events is removed.

Events are added in signal handlers and finalisers too, in the middle of anything, so nothing in
here waits for a lock. What is shared are sets and dicts, of which each operation is atomic, and in
every race both sides first say what they are about to do and then look at the other side:

* To write, add the key to ``pending``, then look whether the segment is ``retired``. To be rid of
  it, set ``retired``, then look whether anything is ``pending``. Once both are so they stay so.
* A key is in ``idle``, too, while no thread is at it. To settle it take it out of there, then look
  whether the spool is closed. To close the spool say so, then look whether all keys are idle.
* Many may find that a segment can go. Who gets it out of the set of those we own lets it go.
"""

import errno
import logging
import os
import re
import stat
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import attrs

from reasoning_sdk.encoding import encode_json, parse_json
from reasoning_sdk.errors import ConfigurationError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Kept", "Segment", "Spool"]

log = logging.getLogger("reasoning_sdk.spool")

_PREFIX, _SUFFIX = "events-", ".jsonl"
_DEAD_LETTERS = "dead-letter.jsonl"
_FLAGS = os.O_RDWR | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # nor a pipe's other end
_LARGE = 64 * 1024  # bytes from which a segment is not used again once all of it is settled
_LARGEST = 4 * 1024 * 1024  # bytes from which it is not used any more
_UNOPENED_SECONDS = 60.0  # after which a segment that has no name yet is a leftover
_ATTEMPTS = 10  # at making a segment that others take for a leftover
_REMEMBERED = 10  # segments, for threads that are slow to see that there is a new one
_BEING_OPENED = "\n"  # stands in `pending` for what we do not know yet; no key is like this
_CANCEL = b"\x18\n"  # ends a line that is torn; JSON has no such character
_START = re.compile(rb'\{"(?:key|done)":"')
_MOST_STARTS = 100  # of records, looked for in a line that does not begin with one


@attrs.frozen(kw_only=True)
class Kept:
    """An event found in a segment.

    Attributes:
        key: What it is settled by.
        path: Where it goes, below the address.
        address: The service's, ``None`` for the one that is configured.
        signature: The signature that was made when it was published.
        body: The JSON, byte for byte.
    """

    key: str
    path: str
    address: str | None
    signature: str | None = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)


class Segment:
    """A file of events that this process owns. To its users it is a token.

    Attributes:
        path: Where it is.
        fd: Its file descriptor; -1 when we do not own it any more.
        inode: What tells it from other files.
        pid: The process that has opened it.
        pending: The keys of the events that are in it, or about to be, and not settled.
        idle: Those of them that no thread is writing or settling.
        retired: Whether it takes no more events.
        torn: Whether it may end in part of a line.
        number: Of those that events are added to, the how-manieth.
    """

    __slots__ = ("fd", "idle", "inode", "number", "path", "pending", "pid", "retired", "torn")

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd
        self.inode = _inode(fd)
        self.pid = os.getpid()
        self.pending: set[str] = {_BEING_OPENED}
        self.idle: set[str] = set()
        self.retired = False
        self.torn = False
        self.number = 0

    def __repr__(self) -> str:
        return f"<Segment {os.path.basename(self.path)}>"


class Spool:
    """A directory that keeps events until they are settled. Safe to use from any thread.

    :meth:`add` may also be called in signal handlers and finalisers, whatever they interrupt. After
    a fork the child has a spool as new, on the same directory: it notices by the process id.

    Args:
        directory: Made when it is missing, with its parents, for this user only.

    Attributes:
        directory: Its absolute path.
        failure: Why the last write has failed; ``None`` when it has not.
        failures: How many writes have failed.

    Raises:
        ConfigurationError: It cannot be a directory in which we write and lock files.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        if fcntl is None:
            raise ConfigurationError("spool needs file locks (fcntl), which this platform lacks")
        self.directory = os.path.abspath(os.fspath(directory))
        try:
            _make_directory(self.directory)
            self._probe()
        except (OSError, ValueError) as exc:
            reason = getattr(exc, "strerror", None) or str(exc)
            raise ConfigurationError(
                f"spool must be a directory to write to, got {self.directory!r}: {reason}"
            ) from exc
        self._owned: set[Segment] = set()
        self._begin()

    def __repr__(self) -> str:
        return f"<Spool {self.directory!r}>"

    def _begin(self) -> None:
        self.failure: OSError | None = None
        self.failures = 0
        self._closed = False
        none_yet = Segment("", -1)
        none_yet.retired = True
        self._current = none_yet
        self._by_number: dict[int, Segment] = {}  # where it is decided which is the next

    # -- events in and out -----------------------------------------------------------------------

    def add(self, key: str, head: bytes, body: bytes) -> Segment | None:
        r"""Write an event, to be found by others if this process dies before it is settled.

        It waits for no lock, logs nothing, and interrupting it does no harm.

        Args:
            key: Its name, that no other event has, of characters that JSON need not escape.
            head: What is known of it beside the body, as members of a JSON object, without the
                braces and without a line end: ``b'"path":"/agent/completions"'``.
            body: JSON without a line end.

        Returns:
            What to give to :meth:`settle`. ``None`` when it was not written whole, for the reason
            in :attr:`failure`, or when the spool is closed.
        """
        line = b'{"key":"%b",%b,"body":%b}\n' % (key.encode(), head, body)
        while True:
            segment = self._current
            if segment.pid != os.getpid():
                self.abandon()
                continue
            try:
                segment.pending.add(key)
                if not segment.retired:
                    if os.write(segment.fd, line) != len(line):
                        raise OSError(errno.ENOSPC, "an event was written in part only")
                    segment.idle.add(key)
                    break
            except OSError as exc:
                self._fail(segment, exc)
                self._withdraw(segment, key)
                return None
            except BaseException:  # a signal handler's: whoever has it was promised nothing
                self._withdraw(segment, key)
                raise
            self._withdraw(segment, key)
            if not self._replace(segment):
                return None
        self._release(segment)  # the spool may have been closed meanwhile
        if self.failure is not None:
            self.failure = None
        return segment

    def _withdraw(self, segment: Segment, key: str) -> None:
        segment.pending.discard(key)
        self._release(segment)

    def _fail(self, segment: Segment | None, exc: OSError) -> None:
        self.failures += 1
        self.failure = exc.with_traceback(None)  # whose frames hold the event
        if segment is not None:
            segment.torn = True
            segment.retired = True

    def _replace(self, segment: Segment) -> bool:
        """Have events go to another segment than this retired one; whether there is one."""
        number = segment.number + 1
        successor = self._by_number.get(number)
        if successor is None and self._current is segment:
            try:
                made = self._make()
            except OSError as exc:
                self._fail(None, exc)
                return False
            if made is None:
                return False
            made.number = number
            successor = self._by_number.setdefault(number, made)
            if successor is not made:  # somebody was faster
                made.retired = True
                self._release(made)
            self._by_number.pop(number - _REMEMBERED, None)
        if successor is not None and self._current.number < number:
            self._current = successor
        return True

    def settle(self, segment: Segment, key: str) -> None:
        """Take note that an event needs no keeping any more: it was delivered, or given up.

        Settling it again, in a forked child or after :meth:`close` changes nothing.

        Args:
            segment: What :meth:`add` has returned, or :meth:`orphans` has given it with.
            key: The event's.
        """
        if segment.pid != os.getpid():  # the event is the parent's
            return
        try:
            segment.idle.remove(key)
        except KeyError:  # somebody has settled it, or is about to
            return
        if self._closed:  # another process may own it now
            segment.idle.add(key)
            self._release(segment)
            return
        size = 0
        try:
            size = self._write_done(segment, key)
        finally:
            segment.pending.discard(key)
            if size > (_LARGEST if segment.pending else _LARGE):
                segment.retired = True
            self._release(segment)

    def _write_done(self, segment: Segment, key: str) -> int:
        """Write that an event is settled; the size of the segment then, if that went well."""
        line = b'{"done":"%b"}\n' % key.encode()
        if segment.torn:
            line = _CANCEL + line
        try:
            if os.write(segment.fd, line) != len(line):
                raise OSError(errno.ENOSPC, "that an event is settled was written in part only")
            status = os.fstat(segment.fd)
            if not status.st_nlink:  # somebody has removed it, so it keeps nothing
                segment.retired = True
            return status.st_size
        except OSError as exc:
            self._fail(segment, exc)
            return 0

    def bury(self, letter: Mapping[str, Any]) -> None:
        """Write an event that cannot be delivered to ``dead-letter.jsonl``, for people to read.

        Raises:
            OSError: It was not written whole.
            InvalidEventError: It cannot be JSON.
        """
        line = encode_json(letter) + b"\n"
        path = os.path.join(self.directory, _DEAD_LETTERS)
        fd = os.open(path, _FLAGS | _NO_LINK | os.O_CREAT, 0o600)
        try:
            _check_ours(fd)
            os.fchmod(fd, 0o600)
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                line = b"\n" + line
            if os.write(fd, line) != len(line):
                raise OSError(errno.ENOSPC, "a dead letter was written in part only", path)
        finally:
            os.close(fd)

    # -- segments --------------------------------------------------------------------------------

    def _probe(self) -> None:
        """See whether we can make and lock a file in the directory."""
        path = os.path.join(self.directory, "." + _new_name())
        fd = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with suppress(BlockingIOError):  # another process takes it for a leftover
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(fd)
            with suppress(FileNotFoundError):
                os.unlink(path)

    def _make(self) -> Segment | None:
        """A new segment; ``None`` once the spool is closed.

        It has its name only when it is locked, lest others find it before. Under the name it has
        until then they may take it for a leftover, and lock or remove it: then we make another.
        """
        if self._closed:
            return None
        for _ in range(_ATTEMPTS):
            name = _new_name()
            temporary = os.path.join(self.directory, "." + name)
            fd = os.open(temporary, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
            segment = self._own(os.path.join(self.directory, name), fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.rename(temporary, segment.path)
            except (BlockingIOError, FileNotFoundError):
                self._let_go(segment)
                continue
            except BaseException:
                self._let_go(segment)
                with suppress(OSError):
                    os.unlink(temporary)
                raise
            self._opened(segment, [])
            return segment
        raise OSError(errno.EAGAIN, "others have taken each new segment for a leftover")

    def _own(self, path: str, fd: int) -> Segment:
        segment = Segment(path, fd)
        self._owned.add(segment)
        return segment

    def _opened(self, segment: Segment, keys: list[str]) -> None:
        """Say what is in a segment, which until then nobody lets go."""
        segment.pending.update(keys)
        segment.idle.update(keys)
        segment.pending.discard(_BEING_OPENED)
        if self._closed:  # meanwhile
            segment.retired = True
        self._release(segment)

    def _release(self, segment: Segment) -> None:
        """Let a retired segment go when nobody needs it: remove it, or leave it to others."""
        if not segment.retired:
            return
        if segment.pending and not (self._closed and segment.pending <= segment.idle):
            return
        self._let_go(segment, unlink=not segment.pending)

    def _let_go(self, segment: Segment, *, unlink: bool = False) -> None:
        if not self._disown(segment):
            return
        fd, segment.fd = segment.fd, -1
        try:
            if unlink:  # before others can lock it
                with suppress(OSError):  # whoever finds it finds nothing pending
                    os.unlink(segment.path)
        finally:
            os.close(fd)

    def _disown(self, segment: Segment) -> bool:
        """Whether it is for the caller to let it go; for one caller only it is."""
        try:
            self._owned.remove(segment)
        except KeyError:
            return False
        return True

    # -- what others have left -------------------------------------------------------------------

    def orphans(self) -> Iterator[tuple[Segment, list[Kept]]]:
        """Take over the segments that no living process owns, the oldest first.

        Each is taken when it is asked for. One in which nothing is pending is removed, and not
        given. What cannot be read is logged, and left alone or passed over.

        Yields:
            A segment, and the events in it that were not settled, in order.
        """
        self._notice_fork()
        for name in self._names():
            if self._closed:
                return
            path = os.path.join(self.directory, name)
            try:
                if name.startswith("."):
                    _sweep(path)
                    continue
                segment = self._take(path)
                if segment is not None:
                    kept = self._read(segment)
                    if kept and segment.fd >= 0:  # else the spool was closed meanwhile
                        yield segment, kept
            except OSError as exc:
                log.warning("cannot take over %s: %s", name, exc.strerror)

    def _names(self) -> list[str]:
        """The names of all segments, by their age, after those of leftovers."""
        try:
            names = os.listdir(self.directory)
        except OSError as exc:
            log.warning("cannot read the spool: %s", exc)
            return []
        prefixes = (_PREFIX, "." + _PREFIX)
        return sorted(n for n in names if n.startswith(prefixes) and n.endswith(_SUFFIX))

    def _take(self, path: str) -> Segment | None:
        """Own the segment with this path; ``None`` when another process does, or it is gone."""
        try:
            segment = self._own(path, os.open(path, _FLAGS | _NO_LINK))
        except FileNotFoundError:
            return None
        try:
            _check_ours(segment.fd)
            fcntl.flock(segment.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its owner may have removed it before we had the lock.
            if os.path.samestat(os.fstat(segment.fd), os.lstat(path)):
                return segment
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            self._let_go(segment)
            raise
        self._let_go(segment)
        return None

    def _read(self, segment: Segment) -> list[Kept]:
        """What is pending in a segment that was taken over."""
        try:
            with open(segment.fd, "rb", closefd=False) as file:
                kept, segment.torn = _pending(file, os.path.basename(segment.path))
        except BaseException:
            self._let_go(segment)
            raise
        segment.retired = True
        self._opened(segment, [event.key for event in kept])
        return kept

    # -- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Give everything back: what is pending can be taken over by others, and by a new spool.

        What another thread is writing at this moment it gives back when it has done so. After this
        :meth:`add` gives ``None``. It may be called more than once.
        """
        self._notice_fork()
        self._closed = True
        for segment in list(self._owned):
            segment.retired = True
            self._release(segment)

    def abandon(self) -> None:
        """In a forked child: forget what belongs to the parent, and begin anew.

        The parent's locks stay as they are, since they belong to its file descriptors as well as to
        ours. In the process that has opened the segments this does nothing.
        """
        pid = os.getpid()
        for segment in list(self._owned):
            if segment.pid != pid and self._disown(segment):
                fd, segment.fd = segment.fd, -1
                segment.retired = True
                if segment.inode == _inode(fd):  # else somebody has closed it, and used it again
                    os.close(fd)
        if self._current.pid != pid:
            self._begin()

    def _notice_fork(self) -> None:
        if self._current.pid != os.getpid():
            self.abandon()


def _new_name() -> str:
    return f"{_PREFIX}{time.time_ns():020d}-{uuid.uuid4().hex}{_SUFFIX}"


def _make_directory(path: str) -> None:
    """Make a directory and its parents for this user only; :func:`os.makedirs` opens parents."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except FileNotFoundError:
        if os.path.dirname(path) == path:
            raise
        _make_directory(os.path.dirname(path))
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)


def _sweep(path: str) -> None:
    """Remove a segment whose maker has died before it could open it."""
    try:
        if time.time() - os.lstat(path).st_mtime < _UNOPENED_SECONDS:
            return
        fd = os.open(path, _FLAGS | _NO_LINK)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    except (BlockingIOError, FileNotFoundError):
        pass
    finally:
        os.close(fd)


def _check_ours(fd: int) -> None:
    """Let a file pass that we may believe.

    Raises:
        PermissionError: It is no plain file, or another user's.
    """
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "it is no file of this user")


def _inode(fd: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _pending(lines: Iterable[bytes], name: str) -> tuple[list[Kept], bool]:
    """The events in a segment that are not settled, and whether it ends in a torn line."""
    kept: dict[str, Kept] = {}
    done: set[str] = set()
    unreadable: list[int] = []
    torn = False
    for number, line in enumerate(lines, 1):
        if line.endswith(_CANCEL) or line == b"\n":
            continue
        torn = not line.endswith(b"\n")
        if torn:
            log.debug("%s: line %d is torn", name, number)
            continue
        record = _record(line)
        if record is None:
            record = _last_record(line)
            unreadable.append(number)
        if isinstance(record, Kept):
            kept.setdefault(record.key, record)
        elif record is not None:
            done.add(record)
    if unreadable:
        more = f" and {len(unreadable) - 1} more" if len(unreadable) > 1 else ""
        log.warning("%s: cannot read line %d%s", name, unreadable[0], more)
    return [event for event in kept.values() if event.key not in done], torn


def _record(line: bytes) -> Kept | str | None:
    """What a line says: an event, or the key of one that is settled; ``None`` if neither."""
    try:
        record = parse_json(line)
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    if isinstance(done := record.get("done"), str):
        return done
    key, path = record.get("key"), record.get("path")
    address, signature = record.get("address"), record.get("signature")
    # A quote in a string is escaped, and what is before the body is strings: this is the member.
    _, member, body = line.partition(b',"body":')
    if not (isinstance(key, str) and isinstance(path, str) and member and line.endswith(b"}\n")):
        return None
    if not all(value is None or isinstance(value, str) for value in (address, signature)):
        return None
    return Kept(key=key, path=path, address=address, signature=signature, body=body[:-2])


def _last_record(line: bytes) -> Kept | str | None:
    """The record at the end of a line that begins with part of another.

    A thread may have written it just after another had run out of disk. Nothing within a record
    passes for one, since it is followed by the braces that close what it is in.
    """
    starts = [match.start() for match in _START.finditer(line)]
    for start in reversed(starts[-_MOST_STARTS:]):
        record = _record(line[start:])
        if record is not None:
            return record
    return None
