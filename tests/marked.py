"""A record with marked waves for the tests of what is done with LUDB's marks."""

import numpy as np

FIRST_S, BEAT_S = 1.31, (2.4, 3.3, 4.1, 5.6, 6.4, 8.3, 10.2, 12.1, 13.3, 15.0, 17.2, 18.6)
"""Times of R peaks: irregular, so that a shifted map lies on no other beat."""
SHAPE = (("P", -0.2, -0.1), ("QRS", -0.05, 0.05), ("T", 0.2, 0.4))


def beats_of(times, shape=SHAPE):
    rows = [(t + on, t + off, name) for t in times for name, on, off in shape]
    return np.array(rows, dtype=[("onset_s", "f8"), ("offset_s", "f8"), ("wave", "U3")])


def long_record(kind, labels, name="r", shape=SHAPE):
    """Make a record of 20 s, of which 16.384 s fit: nothing but peaks at the R peaks."""
    time_s = np.arange(10_000) / 500
    peaks = sum(np.exp(-0.5 * ((time_s - t) / 0.015) ** 2) for t in (FIRST_S, *BEAT_S))
    signal = np.repeat(peaks[:, None], 12, axis=1).astype(np.float32)
    waves = (beats_of(BEAT_S, shape),) * 12  # the beat at FIRST_S is not marked
    return kind(name, name, signal, 500.0, labels, waves)
