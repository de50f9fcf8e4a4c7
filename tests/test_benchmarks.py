"""The benchmarks run, and all that they compare gives the same results. Nothing is timed here."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from benchmarks import harness, viewer, websocket
from reasoning_sdk.errors import ConnectionLostError
from reasoning_sdk.events import Disconnected, Message

ROOT = Path(__file__).resolve().parent.parent


def benchmarks(*args: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


@pytest.mark.timeout(170)  # the peers of the viewer are slow to import
@pytest.mark.parametrize("part", ["sse", "responses", "viewer", "websocket", "loop", "import_time"])
def test_all_candidates_agree(part):
    done = benchmarks("--smoke", part)
    assert (done.returncode, done.stdout) == (0, "all candidates agree\n"), done.stderr


def test_a_run_that_measures_nothing_is_not_written():
    done = benchmarks("--smoke", "--write")
    assert done.returncode == 2
    assert "--smoke measures nothing" in done.stderr


def test_the_page_has_the_place_for_the_table():
    page = (ROOT / "docs" / "topics" / "performance.md").read_text(encoding="utf-8")
    begin, end = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
    assert page.count(begin) == page.count(end) == 1
    assert page.index(begin) < page.index(end)


def posts(*numbers, **changes):
    events = [{**viewer.event_of(number, f"id-{number % 2}"), **changes} for number in numbers]
    return [("/agent/completions", "", json.dumps(event).encode()) for event in events]


@pytest.mark.parametrize(
    ("came", "verdict"),
    [
        (posts(0, 1, 2, 3), (4, "in order")),
        (posts(1, 0, 3, 2), (4, "in order")),  # of each id
        (posts(0, 3, 1), (2, "1 after 3")),
        (posts(0, 1, 0), (2, "twice: 0")),
        ([], (0, "in order")),
    ],
)
def test_the_server_says_what_has_come(came, verdict):
    assert viewer._judge(came) == verdict


def test_the_server_says_which_event_is_wrong():
    right, verdict = viewer._judge(posts(0, model="gpt-4"))
    assert right == 0
    assert verdict.startswith("wrong: ")


def numbered(*numbers):
    """Messages of these numbers, and for each ``None`` a gap."""
    lost = Disconnected(error=ConnectionLostError("lost"), close_code=None)
    return [lost if number is None else Message(data=number, received_at=0.0) for number in numbers]


@pytest.mark.parametrize(
    ("events", "wrong"),
    [
        (numbered(0, 1, 2), 0),
        (numbered(0, None, 5, 6), 0),
        (numbered(0, 1, None, None, 2), 0),
        (numbered(0, 3), 2),
        (numbered(1, 2), 1),
        (numbered(0, None, 4, 6), 1),
        (numbered(0, 1, 1, 2), 1),
        (numbered(0, 1, None, 1, 2), 1),
        (numbered(0, 2, 1), 2),
    ],
)
def test_what_is_lost_or_doubled_without_a_mark_is_counted(events, wrong):
    assert websocket.wrong_in(events) == wrong


def lose(_):
    return harness.Result(9, "in order", 1.0)


def take(seconds, _):
    return harness.Result(10, "in order", seconds)


def candidate(name, run):
    return harness.Candidate(
        name=name, run=run, given=partial(str, name), count=10, last="in order", fresh=True
    )


def test_who_has_lost_an_event_has_no_figure():
    ours = candidate("ours", partial(take, 1.0))
    other = candidate("other", lose)
    with pytest.raises(RuntimeError, match="other found 9 events, not 10"):
        harness.measure([harness.Comparison(what="work", ours=ours, others=[other])], 1)


@pytest.mark.parametrize(
    ("bounds", "verdict"),
    [
        ({"at_most": 0.5}, "| work | other | 1 s | 2 s | 0.50 | ≤ 0.5 | PASS |"),
        ({"at_most": 0.4}, "| work | other | 1 s | 2 s | 0.50 | ≤ 0.4 | **MISS** |"),
        ({"at_least": 2}, "| work | other | 1 s | 2 s | 2.00 | ≥ 2 | PASS |"),
        ({"at_least": 3}, "| work | other | 1 s | 2 s | 2.00 | ≥ 3 | **MISS** |"),
        ({"at_most": 2, "others": ()}, "| work |  | 1 s |  | 1 s | ≤ 2 | PASS |"),
        ({"at_most": 0.9, "others": ()}, "| work |  | 1 s |  | 1 s | ≤ 0.9 | **MISS** |"),
        ({}, "| work | other | 1 s | 2 s | 0.50 |"),
    ],
)
def test_the_table_tells_of_the_bounds(bounds, verdict):
    ours, other = (candidate(n, partial(take, s)) for n, s in (("ours", 1.0), ("other", 2.0)))
    about = {"others": [other], "judge": ["other"], "unit": (1, "s"), **bounds}
    comparison = harness.Comparison(what="work", ours=ours, **about)
    times = {(id(ours), ""): [1.0, 1.0, 5.0], (id(other), ""): [2.0]}
    lines, kept = harness._table([comparison], times)
    assert verdict in lines
    assert kept == ("MISS" not in verdict)
