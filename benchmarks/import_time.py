"""What `import reasoning_sdk` adds to the import of the five packages it stands on.

Each run is a fresh interpreter. Beside being a part of ``python -m benchmarks`` this runs by
itself, without any peer, and exits with 1 when the package adds more than the limit:

    python -m benchmarks.import_time [RUNS]
"""

import statistics
import subprocess
import sys
from functools import partial

from benchmarks.harness import Candidate, Comparison, Result

FIVE = "import attrs, backoff, requests, sseclient, websocket"
OURS = "import reasoning_sdk"
LIMIT = 40.0  # milliseconds

TIMED = """
import time
start = time.process_time()
{}
print((time.process_time() - start) * 1000)
"""


def milliseconds(statement: str) -> float:
    """How long a fresh interpreter takes to import, in milliseconds of CPU time."""
    done = subprocess.run(
        [sys.executable, "-c", TIMED.format(statement)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def imports(statement: str) -> Result:
    """One fresh interpreter, as a candidate."""
    return Result(0, None, milliseconds(statement) / 1e3)


def comparisons() -> list[Comparison]:
    """The figure of this file."""
    ours, five = (
        Candidate(name=name, run=imports, given=partial(str, statement), count=0, last=None)
        for name, statement in (("ours", OURS), ("the five it needs", FIVE))
    )
    return [
        Comparison(
            what="`import reasoning_sdk`",
            ours=ours,
            others=[five],
            at_most=LIMIT,
            judge=[five.name],
            unit=(1e3, "ms"),
            by_difference=True,
        )
    ]


def main(runs: int) -> int:
    """Measure, print, and judge."""
    for statement in (FIVE, OURS):  # writes the .pyc files
        milliseconds(statement)
    pairs = [(milliseconds(FIVE), milliseconds(OURS)) for _ in range(runs)]
    five, ours = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"{FIVE:55} {five:7.1f} ms")
    print(f"{OURS:55} {ours:7.1f} ms")
    print(f"added, at most {LIMIT:.0f} ms {ours - five:40.1f} ms   (medians of {runs} runs)")
    return ours - five > LIMIT


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 21))
