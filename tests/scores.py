"""Simulated labels and scores for the tests of metrics and of their intervals."""

import numpy as np

EXACT = dict(rtol=0, atol=1e-12)
RATES = (0.6, 0.15, 0.1, 0.12, 0.12)


def simulated(n=300, seed=0, ties=True):
    """Return y (n, 5), p (n, 5) in [0, 1] with ties if asked, mask (n, 5) with some False."""
    rng = np.random.default_rng(seed)
    y = (rng.random((n, 5)) < RATES).astype(int)
    p = 1 / (1 + np.exp(-(rng.normal(size=y.shape) + 1.3 * y - 1)))
    return y, np.round(p, 1) if ties else p, rng.random(y.shape) < 0.8


def kept(y, p, mask):
    """Return (y, p) of every class with the masked records dropped."""
    columns = range(y.shape[1])
    return [(y[mask[:, c], c], p[mask[:, c], c]) for c in columns]
