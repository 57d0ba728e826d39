"""Training on 8, 64 and 512 GPUs, on paper: tables, picture and measurements of docs/scaling.md.

    python benchmarks/scaling.py                               the tables: a minute, nothing is timed
    python benchmarks/scaling.py --picture docs/scaling.png    and the picture
    python benchmarks/scaling.py --measure                     what this machine tells: about 5 minutes
    python benchmarks/scaling.py --measure streams reduction   some of it

Work is counted operation by operation on tensors without values, and turned into time by formulas
(scale/model.py) with figures of devices, networks and measurements (scale/given.py). Losses of machines are
simulated (scale/goodput.py). OMP_WAIT_POLICY=PASSIVE keeps waiting threads from spinning.
"""

import argparse
import sys
from pathlib import Path

# The project's own code, also where the project is not installed.
sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from scale.given import achieved
from scale.measure import PARTS, measure
from scale.picture import draw
from scale.tables import TABLES
from scale.traffic import TABLES as TRAFFIC


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measure", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)}; none: all")
    parser.add_argument("--picture", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.measure is not None:
        measure(options.measure)
        return
    for precision in ("tf32", "bf16"):
        print(f"of the peaks are reached in {precision}: {achieved(precision):.3f}")
    for name, table in {**TABLES, **TRAFFIC}.items():
        print(f"\n{name}: {(table.__doc__ or '').strip()}\n\n{table()}", flush=True)
    if options.picture:
        draw(options.picture)


if __name__ == "__main__":
    main()
