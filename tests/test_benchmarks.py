"""The benchmarks run, and all that they compare gives the same results. Nothing is timed here."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def benchmarks(*args: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("part", ["sse", "responses", "import_time"])
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
