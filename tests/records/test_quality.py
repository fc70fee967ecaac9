"""Beats are found where they are."""

from dataclasses import replace

import numpy as np
import pytest
import wfdb

from ecgbook import leads, synthetic
from ecgbook.data import read_manifest
from ecgbook.explain import MambaLRP
from ecgbook.records import find_beats, quality, read_record
from ecgbook.training import load


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


# ---- what cannot be trusted


def sound(fs_hz=500):
    """A calm record in sinus rhythm."""
    for record in synthetic.iter_records(seed=5, fs_hz=fs_hz, mix={"SR": 1}):
        return np.array(record.signal_mv, dtype=np.float64)


ALL = slice(None)


def changed(columns=ALL, rows=ALL, to=0.0):
    def change(x):
        x[rows, columns] = to
        return x

    return change


def wave(hz, amplitude_mv, fs_hz=500, seconds=10):
    return amplitude_mv * np.sin(2 * np.pi * hz * np.arange(seconds * fs_hz) / fs_hz)[:, None]


def exchanged(first, second):
    def change(x):
        electrodes = {"RA": 0 * x[:, 0], "LA": x[:, 0], "LL": x[:, 1]}
        electrodes[first], electrodes[second] = electrodes[second], electrodes[first]
        one = electrodes["LA"] - electrodes["RA"]
        two = electrodes["LL"] - electrodes["RA"]
        x[:, :6] = leads.derive(one, two)
        return x

    return change


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (changed(), "no lead shows a signal"),
        (changed(to=np.nan), "no lead shows a signal"),
        (changed(to=32.767), "no lead shows a signal"),
        (changed(slice(6, 12)), "dead: V1, V2, V3, V4, V5, V6"),
        (changed(slice(0, 6)), "dead: I, II, III, aVR, aVL, aVF"),
        (changed([3], to=np.nan), "dead: aVR"),
        (changed(rows=slice(3000, None), to=np.nan), "40% of the samples are missing in all leads"),
        (changed([0, 1], slice(1000), np.nan), "of the samples are missing in single leads"),
        (lambda x: x.clip(-0.2, 0.2), "clipped: "),
        (lambda x: x[:, [*range(11), 8]], "copied: V6 is V3"),
        (exchanged("RA", "LA"), "the electrodes of the arms are probably exchanged"),
        (exchanged("RA", "LL"), "right arm and left leg are probably exchanged"),
        (lambda x: 1000 * x, "is the unit or the gain right"),
        (lambda x: x / 1000, "is the unit or the gain right"),
        (lambda x: x[:800], "1.6 s are too short to tell a rhythm"),
        (lambda x: np.random.default_rng(0).normal(0, 1e-4, x.shape) + 1, "beats found in II"),
        (lambda x: np.random.default_rng(0).normal(0, 0.3, x.shape), "is it an ECG?"),
        (lambda x: x + wave(50, 0.5), "mains of 50 Hz with 0.5 mV in the median lead"),
        (lambda x: x + wave(60, 0.2), "mains of 60 Hz with 0.2 mV in the median lead"),
        (lambda x: x + wave(0.2, 5), "the baseline wanders by"),
        (changed(rows=slice(3000, None)), "4.0 s in a row no lead moves"),
    ],
)
def test_what_is_wrong_is_said(change, note):
    notes = quality(change(sound()), 500)
    assert any(note in each for each in notes), notes


def test_a_sound_record_gets_no_note_and_a_wrong_rate_one():
    assert quality(sound(), 500) == ()
    assert quality(sound(), 5000), "ten times the rate: a heart at 700 beats per minute"


def test_synthetic_records_of_every_rhythm_are_sound():
    records = synthetic.make_records(40, seed=8)
    noted = [record for record in records if quality(record.signal_mv, record.fs_hz)]
    assert len(noted) <= 4, "XQRS misses beats now and then, and nothing else is noted"


def test_most_real_records_are_sound(ecgdata):
    rows = read_manifest(ecgdata)[::20]
    records = [read_record(ecgdata / row["folder"] / row["record"]) for row in rows]
    noted = [n for r in records for n in r.notes if not n.startswith("each lead is stretched")]
    assert len(noted) <= 0.1 * len(records), noted


def test_nothing_is_said_of_a_record_without_a_signal():
    [record] = synthetic.make_records(1, seed=1)
    bundle = load("tutorial")
    calls = bundle.predict, lambda r: MambaLRP(bundle).explain(r, "AF")
    for value in (0.0, np.nan, 32.767):
        dead = replace(record, signal_mv=np.full((5000, 12), value, np.float32))
        for call in calls:
            with pytest.raises(ValueError, match="5000 samples without a signal in any lead found"):
                call(dead)


def test_what_is_missing_at_the_end_counts_as_padding():
    [record] = synthetic.make_records(1, seed=1)
    signal = np.array(record.signal_mv)
    signal[3000:] = np.nan
    bundle = load("tutorial")
    cut = bundle.predict(replace(record, signal_mv=signal[:3000]))
    np.testing.assert_allclose(bundle.predict(replace(record, signal_mv=signal)), cut)
    with pytest.raises(ValueError, match="0.02 s of signal found, 1 s or more wanted"):
        bundle.preprocessing(np.where(np.arange(5000)[:, None] < 10, signal, np.nan), 500)


def test_what_reading_has_to_say_comes_first(tmp_path):
    [record] = synthetic.make_records(1, seed=1)
    for comments, remark in (
        (["Dx: AFIB"], "diagnoses in words are left out: afib; only codes are read"),
        (["Dx: 426783006"], None),
    ):
        wfdb.wrsamp(
            "made", 500, ["mV"] * 12, list(leads.LEADS), record.signal_mv.astype(float),
            fmt=["16"] * 12, adc_gain=[1000] * 12, baseline=[0] * 12, comments=comments,
            write_dir=str(tmp_path),
        )  # fmt: skip
        assert read_record(tmp_path / "made").notes == ((remark,) if remark else ())


@pytest.mark.parametrize(("shape", "fs_hz"), [((100,), 500), ((100, 8), 500), ((100, 12), 0)])
def test_what_is_no_record_is_named(shape, fs_hz):
    with pytest.raises(ValueError, match="found"):
        quality(np.zeros(shape), fs_hz)
