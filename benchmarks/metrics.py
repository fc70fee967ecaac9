"""Time of bootstrap intervals: all draws at once against a loop over scikit-learn.

Run from the repository: ``OMP_NUM_THREADS=1 python benchmarks/metrics.py``.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from ecgbook import metrics
from ecgbook.metrics import bootstrap


def best_of(function, repeats: int) -> float:
    """Return the shortest wall time of `function` in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--loop-draws", type=int, default=20, help="draws of the peer's loop")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    y = (rng.random((args.records, 5)) < (0.6, 0.1, 0.05, 0.07, 0.07)).astype(int)
    p = 1 / (1 + np.exp(-(rng.normal(size=y.shape) + y - 2)))
    rows = rng.integers(args.records, size=(args.loop_draws, args.records))
    print(f"{args.draws} draws, 5 classes, {args.records} records, one patient a record")
    for metric, peer in ((metrics.auroc, roc_auc_score), (metrics.auprc, average_precision_score)):

        def at_once(metric=metric):
            bootstrap(metric, y, p, average=True, n_draws=args.draws)

        def loop(peer=peer):
            for r in rows:
                np.mean([peer(y[r, c], p[r, c]) for c in range(5)])

        fast = best_of(at_once, args.repeats)
        slow = best_of(loop, args.repeats) * args.draws / args.loop_draws
        print(
            f"{metric.__name__}: {fast:.2f} s; loop over scikit-learn {slow:.1f} s"
            f" (from {args.loop_draws} draws); ratio {slow / fast:.1f}"
        )


if __name__ == "__main__":
    main()
