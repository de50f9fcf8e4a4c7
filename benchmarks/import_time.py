"""What `import reasoning_sdk` adds to the import of the five packages it stands on.

Each run is a fresh interpreter, the two kinds taking turns; the figures are medians of CPU time.
Exits with 1 when the package adds more than the limit:

    python benchmarks/import_time.py [RUNS]
"""

import statistics
import subprocess
import sys

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
