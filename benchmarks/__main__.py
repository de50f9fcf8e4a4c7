"""``python -m benchmarks``: measure, print a table, and say whether the bounds are kept."""

import argparse
import sys
from pathlib import Path

from benchmarks import harness, import_time, loop, responses, sse, viewer, websocket

PAGE = Path(__file__).parent.parent / "docs" / "topics" / "performance.md"
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
PARTS = ["sse", "responses", "viewer", "websocket", "loop", "import_time"]
FEWEST_ROUNDS = 7


def main() -> int:
    """Run what the command line says; 1 is a bound that was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; else all")
    parser.add_argument("--rounds", type=int, default=9, help="how often each candidate is run")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="one round of tiny inputs, with whatever peers there are, to see that all agree",
    )
    args = parser.parse_args()
    parts = args.parts or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if args.smoke:
        if args.write:
            parser.error("--smoke measures nothing that could be written")
        run(parts, 1, small=True)
        print("all candidates agree")
        return 0
    if missing := [name for name in harness.PACKAGES if not harness.is_installed(name)]:
        parser.error(f"not installed: {', '.join(missing)} (extras benchmarks and speed)")
    if args.rounds < FEWEST_ROUNDS:
        parser.error(f"fewer than {FEWEST_ROUNDS} rounds say little")
    if args.write and parts != PARTS:
        parser.error("--write wants all parts")
    lines, kept = run(parts, args.rounds)
    lines += ["", f"{harness.versions()}, {args.rounds} rounds."]
    print("\n".join(lines))
    if args.write:
        write(PAGE, lines)
    return 0 if kept else 1


def run(parts: list[str], rounds: int, *, small: bool = False) -> tuple[list[str], bool]:
    """Measure some of the parts, as one run."""
    sizes_sse, sizes_responses, sizes_viewer = sse.Sizes(), responses.Sizes(), viewer.Sizes()
    sizes_websocket, sizes_loop = websocket.Sizes(), loop.Sizes()
    if small:
        sizes_sse = sse.Sizes(events=700, large=1_600_000, lines=20_000, repeat=1)
        sizes_responses = responses.Sizes(events=700, alone=5, timed=5, turns=1)
        sizes_viewer, sizes_websocket, sizes_loop = viewer.SMALL, websocket.SMALL, loop.SMALL
    with (
        responses.server() as port,
        viewer.server() as control,
        websocket.server() as websocket_port,
        loop.server() as loop_port,
    ):
        comparisons = {
            "sse": sse.comparisons(sizes_sse),
            "responses": responses.comparisons(sizes_responses, port),
            "viewer": viewer.comparisons(sizes_viewer, control),
            "websocket": websocket.comparisons(sizes_websocket, websocket_port),
            "loop": loop.comparisons(sizes_loop, loop_port),
            "import_time": import_time.comparisons(),
        }
        return harness.measure([c for part in parts for c in comparisons[part]], rounds)


def write(page: Path, lines: list[str]) -> None:
    """Replace what is between the marks."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{page.name} lacks the marks {BEGIN} and {END}")
    block = "\n".join([BEGIN, "", *lines, "", END])
    page.write_text(before + block + after, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
