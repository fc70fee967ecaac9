"""Beats are found where they are."""

import numpy as np
import pytest

from ecgbook import synthetic
from ecgbook.signals import find_beats


@pytest.mark.parametrize("fs_hz", [125, 360, 500, 1000])
def test_beats_are_found_where_they_are_at_any_rate(fs_hz):
    true = found = matched = 0
    offsets_s = []
    for record in synthetic.make_records(8, seed=1, fs_hz=fs_hz):
        peaks_s = find_beats(record.signal_mv, fs_hz)
        assert (np.diff(peaks_s) > 0).all() and 0 <= peaks_s.min() and peaks_s.max() < 10
        apart_s = np.abs(peaks_s[:, None] - record.beats["time_s"])
        inner = (record.beats["time_s"] > 0.3) & (record.beats["time_s"] < 9.7)
        true, found = true + inner.sum(), found + len(peaks_s)
        matched += (apart_s.min(1) < 0.1).sum()
        hit = inner & (apart_s.min(0) < 0.1)
        offsets_s += (peaks_s[apart_s.argmin(0)] - record.beats["time_s"])[hit].tolist()
    assert len(offsets_s) / true > 0.9
    assert matched / found > 0.97
    assert abs(np.median(offsets_s)) < 0.005


def test_lead_ii_alone_counts_and_gaps_do_no_harm():
    record = synthetic.make_records(1, seed=1)[0]
    wanted = find_beats(record.signal_mv, 500)
    changed = np.zeros_like(record.signal_mv)
    changed[:, 1] = record.signal_mv[:, 1]
    np.testing.assert_array_equal(find_beats(changed, 500), wanted)
    quiet = int((wanted[2] + 0.55 * (wanted[3] - wanted[2])) * 500)
    changed[quiet : quiet + 10, 1] = np.nan
    assert np.abs(find_beats(changed, 500) - wanted).max() < 0.02


def test_no_beats_are_found_where_none_are():
    for silent in (np.zeros((5000, 12)), np.full((5000, 12), np.nan)):
        assert find_beats(silent, 500).shape == (0,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((12, 5000)), 500), r"signal of shape \(12, 5000\) found"),
        ((np.zeros((499, 12)), 500), "0.998 s of signal found, 1 s or more wanted"),
        ((np.zeros((5000, 12)), 0), "fs_hz=0 found, a positive rate"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        find_beats(*arguments)
