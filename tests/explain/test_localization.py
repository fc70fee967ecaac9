"""Where relevance lies: maps made by hand, chance by simulation, masks from records with truth."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ecgbook.explain import (
    beat_mask,
    chance,
    interval_shares,
    localization,
    pointing_game,
    relevance_mass,
    relevance_rank,
)
from ecgbook.signals import Preprocessing
from ecgbook.synthetic import WAVE_DTYPE, make_records

RELEVANCE = np.array([[1.0, 5.0, -9.0, 2.0, 0.0, 4.0, 100.0]])
TRUTH = np.array([[False, True, True, False, False, True, True]])
MASK = np.array([[True, True, True, True, True, True, False]])


def test_mass_rank_and_pointing_by_hand():
    assert relevance_mass(RELEVANCE, TRUTH, MASK) == pytest.approx([9 / 12])
    # Three true samples; the three most relevant are 5, 4 and 2, of which two are true.
    assert relevance_rank(RELEVANCE, TRUTH, MASK) == pytest.approx([2 / 3])
    another = np.array([[False, True, False, True, False, True, True]])
    assert relevance_rank(RELEVANCE, another, MASK) == [1.0]
    assert pointing_game(RELEVANCE, TRUTH, MASK, tolerance=0) == [1.0]
    assert chance(TRUTH, MASK) == pytest.approx([3 / 6])
    assert chance(TRUTH, MASK, tolerance=1) == pytest.approx([6 / 6])
    assert relevance_mass(RELEVANCE, TRUTH) == pytest.approx([109 / 112]), "the mask matters"


def test_leads_count_as_samples_of_their_own():
    relevance = np.stack([RELEVANCE, [[0.0, -2.0, 7.0, 6.0, 0.0, 0.0, 50.0]]], axis=-1)
    assert relevance_mass(relevance, TRUTH, MASK) == pytest.approx([16 / 25])
    # Six true entries; the six most relevant are 7 6 5 4 2 1, of which three are true.
    assert relevance_rank(relevance, TRUTH, MASK) == pytest.approx([3 / 6])
    assert pointing_game(relevance, TRUTH, MASK, tolerance=0) == [1.0]
    over_leads = relevance.sum(-1)  # 1 3 -2 8 0 4
    assert relevance_mass(over_leads, TRUTH, MASK) == pytest.approx([7 / 16])
    assert pointing_game(over_leads, TRUTH, MASK, tolerance=0) == [0.0]


def test_pointing_forgives_a_miss_within_the_tolerance():
    truth = np.zeros((1, 20), dtype=bool)
    truth[0, 10:12] = True
    for at, distance in ((5, 5), (8, 2), (10, 0), (11, 0), (13, 2), (19, 8)):
        relevance = np.zeros((1, 20))
        relevance[0, at] = 1
        for tolerance in range(10):
            found = pointing_game(relevance, truth, tolerance=tolerance)
            assert found == [float(distance <= tolerance)]
    assert chance(truth, tolerance=3) == pytest.approx([8 / 20])
    truth[0, 0] = True  # no wrap around the ends
    assert chance(truth, tolerance=2) == pytest.approx([(6 + 3) / 20])


def test_truth_in_the_padding_reaches_no_signal():
    truth = np.array([[True, False, False, False, False, False, True]])
    relevance = np.array([[0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 9.0]])
    assert pointing_game(relevance, truth, MASK, tolerance=1) == [0.0]
    assert chance(truth, MASK, tolerance=1) == pytest.approx([2 / 6])


def test_perfect_and_opposite_maps():
    perfect = np.where(TRUTH & MASK, 1.0, -1.0)
    for metric in (relevance_mass, relevance_rank):
        assert metric(perfect, TRUTH, MASK) == [1.0]
        assert metric(-perfect, TRUTH, MASK) == [0.0]
    assert relevance_mass(-np.ones((1, 7)), TRUTH, MASK) == [0.0]


def test_equal_relevance_counts_as_chance():
    constant = np.full((1, 7), 3.0)
    assert relevance_rank(constant, TRUTH, MASK) == pytest.approx(chance(TRUTH, MASK))
    assert relevance_mass(constant, TRUTH, MASK) == pytest.approx(chance(TRUTH, MASK))
    assert pointing_game(constant, TRUTH, MASK, tolerance=0) == pytest.approx(chance(TRUTH, MASK))
    # 9 is in; two of four equal samples join it, and half of these four are true.
    relevance = np.array([[9.0, 2.0, 2.0, 2.0, 0.0, 2.0, 99.0]])
    assert relevance_rank(relevance, TRUTH, MASK) == pytest.approx([2 * 0.75 / 3])


@pytest.mark.parametrize("leads", [None, 2])
def test_chance_is_what_random_maps_reach(leads):
    rng = np.random.default_rng(0)
    n, length = 4000, 60
    truth = np.zeros((n, length), dtype=bool)
    truth[:, 20:29] = truth[:, 50:53] = True
    mask = np.arange(length) < 51
    mask = np.broadcast_to(mask, truth.shape)
    relevance = rng.standard_normal((n, length) if leads is None else (n, length, leads))
    assert chance(truth, mask)[0] == pytest.approx(10 / 51)
    for found, value in (
        (relevance_mass(relevance, truth, mask), chance(truth, mask)[0]),
        (relevance_rank(relevance, truth, mask), chance(truth, mask)[0]),
        (
            pointing_game(relevance, truth, mask, tolerance=4),
            chance(truth, mask, tolerance=4)[0],
        ),
    ):
        assert abs(found.mean() - value) < 4 * found.std() / n**0.5
    assert chance(truth, mask, tolerance=4)[0] == pytest.approx((17 + 5) / 51)


def test_tensors_do_as_well_and_nothing_is_changed():
    relevance = torch.tensor(RELEVANCE, dtype=torch.float32, requires_grad=True)
    truth, mask = torch.tensor(TRUTH), torch.tensor(MASK)
    assert relevance_mass(relevance, truth, mask) == pytest.approx([9 / 12])
    assert relevance_rank(relevance, truth, mask) == pytest.approx([2 / 3])
    assert chance(truth, mask) == pytest.approx([0.5])
    kept = RELEVANCE.copy(), TRUTH.copy(), MASK.copy()
    localization._check(RELEVANCE, TRUTH, MASK)
    pointing_game(RELEVANCE, TRUTH, MASK, tolerance=2)
    for now, before in zip((RELEVANCE, TRUTH, MASK), kept, strict=True):
        np.testing.assert_array_equal(now, before)


def test_padding_may_hold_anything():
    relevance = RELEVANCE.copy()
    relevance[0, 6] = np.nan
    assert relevance_mass(relevance, TRUTH, MASK) == pytest.approx([9 / 12])
    assert relevance_rank(relevance, TRUTH, MASK) == pytest.approx([2 / 3])
    assert pointing_game(relevance, TRUTH, MASK, tolerance=0) == [1.0]
    with pytest.raises(ValueError, match="not finite found inside the mask"):
        relevance_mass(relevance, TRUTH)


# ---- truth from records


@pytest.mark.parametrize("fs_hz", [125, 100, 500])
@pytest.mark.parametrize("n_seconds", [12, 7])
def test_a_beat_mask_lies_where_preprocessing_puts_the_beat(fs_hz, n_seconds):
    [record] = make_records(1, seed=3, fs_hz=250, seconds=10.3, mix={"SR+PVC": 1})
    n_samples = n_seconds * fs_hz
    mask = beat_mask(record, "V", fs_hz, n_samples)
    assert mask.shape == (n_samples,) and mask.dtype == bool
    marker = np.zeros((len(record.signal_mv), 12))
    time_s = np.arange(len(marker)) / 250
    for beat in np.flatnonzero(record.beats["kind"] == "V"):
        waves = record.waves[record.waves["beat"] == beat]
        assert {"QRS"} <= set(waves["wave"]) <= {"QRS", "T"}
        inside = (time_s >= waves["onset_s"].min()) & (time_s <= waves["offset_s"].max())
        marker[inside] = 1
    assert marker.any()
    x, valid = Preprocessing(fs_hz=fs_hz, n_samples=n_samples, band_hz=None)(marker, 250)
    assert mask.any() and not mask[~valid].any()
    edges = np.count_nonzero(np.diff(mask.astype(int)))
    off = np.count_nonzero(mask != (x[:, 0] > 0.5))
    assert off <= edges * max(1, fs_hz / 250), "at most a sample of the slower rate at each edge"


def test_kinds_are_marked_from_the_first_to_the_last_wave():
    [record] = make_records(1, seed=1, fs_hz=100, seconds=10, mix={"SR+PAC+PVC": 1})
    marks = {kind: beat_mask(record, kind, 100, 1000) for kind in "NAV"}
    np.testing.assert_array_equal(beat_mask(record, ("A", "V"), 100, 1000), marks["A"] | marks["V"])
    for kind, mark in marks.items():
        at = np.round(record.beats["time_s"][record.beats["kind"] == kind] * 100).astype(int)
        assert len(at) and mark[at.clip(max=999)].all()
        others = np.round(record.beats["time_s"][record.beats["kind"] != kind] * 100).astype(int)
        assert not mark[others.clip(max=999)].any()
    beat = np.flatnonzero(record.beats["kind"] == "A")[0]
    p = record.waves[(record.waves["beat"] == beat) & (record.waves["wave"] == "P")][0]
    t = record.waves[(record.waves["beat"] == beat) & (record.waves["wave"] == "T")][0]
    whole = slice(int(np.ceil(p["onset_s"] * 100)), int(t["offset_s"] * 100) + 1)
    assert marks["A"][whole].all(), "the PR and ST segments belong to the beat"
    assert not marks["A"][whole.start - 1] and not marks["A"][whole.stop]
    assert not beat_mask(record, "f", 100, 1000).any()


def test_interval_shares_by_hand():
    waves = np.array(
        [(0.2, 0.3, 0.4, "P", 0), (0.4, 0.5, 0.6, "QRS", 0), (0.55, 0.7, 0.8, "T", 0)],
        dtype=WAVE_DTYPE,
    )
    relevance = np.array([1.0, 1, 2, 4, 8, -16, 3, 5, 7, 1])  # at 0, 0.1, ... 0.9 s
    assert interval_shares(relevance, waves, 10, absolute=False) == pytest.approx(
        {"P": 6 / 32, "QRS": 11 / 32, "T": 12 / 32, "rest": 3 / 32}
    )
    both = np.stack([relevance, -relevance], axis=1)
    assert interval_shares(both, waves, 10, absolute=True) == pytest.approx(
        {"P": 6 / 48, "QRS": 27 / 48, "T": 12 / 48, "rest": 3 / 48}
    )
    half = np.arange(10) < 5
    assert interval_shares(relevance, waves, 10, half, absolute=False) == pytest.approx(
        {"P": 6 / 16, "QRS": 8 / 16, "T": 0, "rest": 2 / 16}
    )
    later = interval_shares(relevance[3:], waves, 10, absolute=False, start_s=0.3)
    assert later == pytest.approx({"P": 4 / 28, "QRS": 11 / 28, "T": 12 / 28, "rest": 1 / 28})
    times = interval_shares(np.ones(10), waves, 10, absolute=False)
    assert times == pytest.approx({"P": 0.2, "QRS": 0.3, "T": 0.2, "rest": 0.3})
    nothing = interval_shares(-np.ones(10), waves, 10, absolute=False)
    assert all(np.isnan(share) for share in nothing.values())


def test_interval_shares_of_a_record_find_energy_in_the_qrs():
    [record] = make_records(1, seed=0, fs_hz=250, mix={"SR": 1}, noise=0)
    shares = interval_shares(record.signal_mv**2, record.waves, 250, absolute=False)
    times = interval_shares(np.ones(2500), record.waves, 250, absolute=False)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["QRS"] > 0.6 and times["QRS"] < 0.2


# ---- refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relevance": np.ones(7)}, r"relevance of shape \(7,\) found"),
        ({"truth": np.ones((1, 6), dtype=bool)}, r"truth of shape \(1, 6\), bool found"),
        ({"truth": np.ones((1, 7))}, "float64 found, .* bool wanted"),
        ({"mask": np.ones((2, 7), dtype=bool)}, r"mask of shape \(2, 7\)"),
        ({"truth": np.zeros((1, 7), dtype=bool)}, "record 0 without a true sample found"),
        ({"truth": ~MASK}, "record 0 without a true sample found"),
    ],
)
def test_maps_and_truth_that_do_not_fit_are_refused(change, message):
    arguments = {"relevance": RELEVANCE, "truth": TRUTH, "mask": MASK, **change}
    with pytest.raises(ValueError, match=message):
        relevance_mass(**arguments)


def test_other_refusals():
    record = SimpleNamespace()
    with pytest.raises(ValueError, match="kind 'X' found, N, A, V, f, F, J wanted"):
        beat_mask(record, "VX", 100, 1000)
    with pytest.raises(ValueError, match="tolerance=-1 found"):
        pointing_game(RELEVANCE, TRUTH, MASK, tolerance=-1)
    waves = np.array([(0.2, 0.3, 0.4, "U", 0)], dtype=WAVE_DTYPE)
    with pytest.raises(ValueError, match="wave 'U' found"):
        interval_shares(np.ones(10), waves, 10, absolute=True)
    with pytest.raises(ValueError, match=r"mask of shape \(9,\), bool found, \(10,\), bool"):
        interval_shares(np.ones(10), waves, 10, np.ones(9, dtype=bool), absolute=True)
