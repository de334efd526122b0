"""Hostile inputs for every command: ``python -m tests.hostile --seed 7 --count 500``."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from .fuzz import one
from .inputs import make_inputs


def main() -> int:
    """Prints every fault with the command line that shows it; exit code 1 if there is any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the inputs")
    parser.add_argument("--count", type=int, default=500, help="number of inputs")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--keep", help="folder in which faulty inputs are kept; a temporary one otherwise")
    given = parser.parse_args()
    write, codes, faulty, slowest = sys.stdout.write, Counter(), 0, (0.0, "")
    with tempfile.TemporaryDirectory() as place:
        good = make_inputs(Path(place) / "good")
        began = time.perf_counter()
        for number in range(given.first, given.first + given.count):
            folder = Path(given.keep or place) / str(number)
            folder.mkdir(parents=True)
            call, outcome = one(given.seed, number, good, folder)
            codes[outcome.code] += 1
            slowest = max(slowest, (outcome.seconds, f"{number}: {call.command}, {call.what}"))
            if outcome.wrong:
                faulty += 1
                write(f"{number}: {call.command}: {call.what}\n    " + "\n    ".join(outcome.wrong) + "\n")
                write(f"    {shlex.join(call.words())[:1500]}\n")
                write("".join(f"    | {line}\n" for line in outcome.said.splitlines()[-12:]))
            sys.stdout.flush()
        seconds = time.perf_counter() - began
    counted = ", ".join(f"{n} ended with {code}" for code, n in sorted(codes.items(), key=str))
    write(f"seed {given.seed}, {given.count} inputs, {seconds:.0f} s, slowest {slowest[0]:.1f} s ({slowest[1]}): ")
    write(f"{counted}; {faulty} with faults\n")
    return int(faulty > 0)


if __name__ == "__main__":
    sys.exit(main())
