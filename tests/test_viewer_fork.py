"""What becomes of a viewer's events when processes are made of the process, in real ones."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.counting import CountingServer
from tests.support.programs import finish, python, run, started, wait_for_line

pytestmark = pytest.mark.http


@pytest.fixture
def server() -> Iterator[CountingServer]:
    with CountingServer() as server:
        yield server


IDS = {
    "process": ["child 0", "child 1", "child 2"],
    "exit": ["child 0"],
    "nested": ["child 0", "child 0.0", "child 0.1"],
    "pool": ["child 0", "child 1", "child 2"],
    "executor": ["child 0", "child 1", "child 2"],
}


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("kind", IDS)
def test_a_child_of_multiprocessing_delivers_before_it_ends(
    server: CountingServer, kind: str, method: str
) -> None:
    done = run(python(Path("forking.py"), kind, method), server.url)
    assert (done.code, done.err) == (0, "")
    assert [*map(int, done.out.split()[1:-2:2])] in ([0] * 3, [0] * 2, [3], [150]), done.out
    assert sorted(server.events) == [(id, n) for id in [*IDS[kind], "parent"] for n in range(50)]
    assert server.disordered() == []
    assert server.repeated() == {}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "bücher.invalid"])
def test_the_first_request_imports_nothing(server: CountingServer, host: str) -> None:
    """Whoever forks just then would have an import in the child that never ends."""
    program = """
        import sys
        viewer = ViewerClient(timeout=1.0)
        before = set(sys.modules)
        send(viewer, "run")
        viewer.flush(0.3)
        print(*sorted(set(sys.modules) - before))
    """
    done = run(python(program), server.url.replace("127.0.0.1", host))
    assert (done.code, done.out) == (0, "\n")


CHILDREN_END = {
    "flush": "os._exit(0 if viewer.flush(20) else 1)",
    "end": "sys.exit()",
    "close": "viewer.close(20); os._exit(0)",
}


@pytest.mark.parametrize("end", CHILDREN_END.values(), ids=CHILDREN_END.keys())
def test_forks_while_the_first_request_is_under_way(server: CountingServer, end: str) -> None:
    """Sixty of them in all."""
    server.hold()
    program = f"""
        import sys
        viewer = ViewerClient(exit_timeout=20)
        send(viewer, "parent", 10)
        children = []
        for number in range(20):
            pid = os.fork()
            if pid:
                children.append(pid)
                continue
            send(viewer, f"child {{number}}", 5)
            {end}
        print("forked", 20)
        codes = [os.waitpid(pid, 0)[1] for pid in children]
        print("failed", sum(map(bool, codes)))
        ends()
    """
    with started(python(program), server.url) as process:
        wait_for_line(process, "forked")
        server.wait_for_posts(21)
        server.release()
        done = finish(process)
    assert (done.code, done.err, done.said["failed"]) == (0, "", 0)
    events = [("parent", n) for n in range(10)]
    events += [(f"child {number}", n) for number in range(20) for n in range(5)]
    assert sorted(server.events) == sorted(events)
    assert server.disordered() == []
    assert server.repeated() == {}


def test_forks_from_several_threads_while_others_send(server: CountingServer) -> None:
    program = """
        import sys, threading
        viewer = ViewerClient(exit_timeout=20)
        done, codes = threading.Event(), []
        def sending(id):
            n = 0
            while not done.is_set():
                n += send(viewer, id, 1, n)
                if not n % 20:
                    viewer.flush(20)
            print(id, n)
        def forking(thread):
            for number in range(5):
                pid = os.fork()
                if not pid:
                    send(viewer, f"child {thread} {number}", 5)
                    os._exit(0 if viewer.flush(20) else 1)
                codes.append(os.waitpid(pid, 0)[1])
        senders = [threading.Thread(target=sending, args=(f"thread-{n}",)) for n in range(3)]
        forkers = [threading.Thread(target=forking, args=(n,)) for n in range(3)]
        for thread in senders + forkers:
            thread.start()
        for thread in forkers:
            thread.join()
        done.set()
        for thread in senders:
            thread.join()
        print("failed", sum(map(bool, codes)))
        ends()
    """
    done = run(python(program), server.url)
    assert (done.code, done.err, done.said["failed"]) == (0, "", 0)
    for id in ("thread-0", "thread-1", "thread-2"):
        assert server.numbers(id) == list(range(int(done.said[id])))
    for id in (f"child {thread} {number}" for thread in range(3) for number in range(5)):
        assert server.numbers(id) == list(range(5))
    assert server.repeated() == {}
