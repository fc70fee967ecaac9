"""Synthetic records: identities, truth, physiology, and likeness to real ones."""

import csv
import hashlib
import itertools
import subprocess
import sys
import time

import numpy as np
import pytest
from scipy import signal
from wfdb import processing

from ecgbook.labels import RHYTHMS
from ecgbook.leads import INDEPENDENT, LEADS, index, limb_residual
from ecgbook.records import read_record
from ecgbook.synthetic import (
    BEAT_KINDS,
    SCENARIOS,
    WAVE_KINDS,
    draw_patient,
    iter_records,
    make_records,
)
from ecgbook.synthetic.records import STEP_MV, _add

EIGHT = index(INDEPENDENT)
KIND_OF = {"SR": "N", "AF": "f", "AFL": "F", "PAC": "A", "PVC": "V"}


@pytest.fixture(scope="module")
def records():
    """Records of the default mix."""
    return make_records(160, seed=3, fs_hz=250)


@pytest.fixture(scope="module")
def clean():
    """Records of the default mix without disturbance."""
    return make_records(120, seed=4, fs_hz=500, noise=0)


def fingerprint(record) -> str:
    parts = (record.signal_mv, record.labels, record.beats, record.waves)
    digest = hashlib.sha256(record.name.encode() + record.rhythm.encode())
    for part in parts:
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


# --- the signal -----------------------------------------------------------------------------


@pytest.mark.parametrize(("fs_hz", "seconds"), [(100, 10), (500, 10), (360, 4)])
def test_limb_leads_obey_einthoven_and_goldberger(fs_hz, seconds):
    for record in make_records(25, seed=1, fs_hz=fs_hz, seconds=seconds):
        residual = limb_residual(record.signal_mv.astype(np.float64))
        assert np.abs(residual).max() == 0  # whole steps of the recorder: exact, not just < 1e-6
        steps = record.signal_mv[:, EIGHT].astype(np.float64) / STEP_MV
        np.testing.assert_array_equal(steps, np.rint(steps))
        assert np.ptp(record.signal_mv, axis=0).min() > 0.05


@pytest.mark.parametrize(
    ("fs_hz", "seconds"), [(50, 2.5), (50, 60), (125, 10), (257.3, 2.5), (257.3, 10), (1000, 3)]
)
def test_any_rate_and_length(fs_hz, seconds):
    for record in make_records(2, seed=8, fs_hz=fs_hz, seconds=seconds):
        assert record.signal_mv.shape == (round(seconds * fs_hz), 12)
        assert record.signal_mv.dtype == np.float32
        assert np.isfinite(record.signal_mv).all()
        assert record.fs_hz == fs_hz
        assert record.leads == LEADS
        assert record.duration_s == pytest.approx(seconds, abs=1 / fs_hz)


def test_the_sampling_rate_changes_neither_beats_nor_clean_waves():
    fine = make_records(12, seed=5, fs_hz=1000, noise=0, mix={"SR+PVC": 1, "SR+PAC": 1, "none": 1})
    rough = make_records(12, seed=5, fs_hz=250, noise=0, mix={"SR+PVC": 1, "SR+PAC": 1, "none": 1})
    for a, b in zip(fine, rough, strict=True):
        assert a.beats.tobytes() == b.beats.tobytes()
        np.testing.assert_allclose(a.signal_mv[::4], b.signal_mv, atol=0.003)


def test_waves_are_added_where_they_belong_as_a_slow_sum_says():
    """At every time with its own gain and stretch, also where the record cuts the wave."""
    wave = draw_patient(np.random.default_rng(1)).normal.t
    when_s = np.array([-5.0, -0.08, 0.4131, 0.95, 2.02, 9.0])
    stretch = np.array([1.0, 0.8, 1.1, 0.9, 1.0, 1.0])
    gain = np.random.default_rng(2).uniform(0.5, 1.5, (6, 8))
    out = np.ones((1000, 8), dtype=np.float32)
    _add(out, 500, when_s, wave, gain, stretch)
    expected = np.ones((1000, 8))
    time_s = np.arange(1000) / 500
    parts = list(zip(wave.center_s, wave.before_s, wave.after_s, wave.leads_mv, strict=True))
    for at_s, slow, factor in zip(when_s, stretch, gain, strict=True):
        for center, before, after, leads_mv in parts:
            away = (time_s - at_s) / slow - float(center)
            width = np.where(away < 0, float(before), float(after))
            expected += np.exp(-(away**2) / (2 * width**2))[:, None] * leads_mv * factor
    assert np.ptp(expected) > 0.2
    np.testing.assert_allclose(out, expected, atol=0.002 * np.ptp(expected))


# --- chance -----------------------------------------------------------------------------------


def test_same_seed_same_bytes_whatever_n_or_start():
    many = [fingerprint(r) for r in make_records(12, seed=9, fs_hz=125)]
    assert [fingerprint(r) for r in make_records(5, seed=9, fs_hz=125)] == many[:5]
    late = itertools.islice(iter_records(seed=9, fs_hz=125, start=7), 5)
    assert [fingerprint(r) for r in late] == many[7:]
    other = [fingerprint(r) for r in make_records(12, seed=10, fs_hz=125)]
    assert len(set(many) | set(other)) == 24


def test_same_bytes_in_another_process():
    code = (
        "import hashlib, numpy as np; from ecgbook.synthetic import make_records;"
        "print(*[hashlib.sha256(r.signal_mv.tobytes()).hexdigest() for r in make_records(4, 11)])"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = [hashlib.sha256(r.signal_mv.tobytes()).hexdigest() for r in make_records(4, 11)]
    assert there.stdout.split() == here


def test_global_random_state_is_neither_read_nor_touched():
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].copy()
    first = fingerprint(make_records(1, seed=2, fs_hz=100)[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.random.seed(2)  # noqa: NPY002
    assert fingerprint(make_records(1, seed=2, fs_hz=100)[0]) == first


def test_records_of_a_patient_share_the_shape_of_their_beats():
    def beat_shape(record):
        """Mean QRS on the eight leads, at unit size."""
        at = np.rint(record.beats.time_s * record.fs_hz).astype(int)
        kept = [a for a in at if 25 <= a < len(record.signal_mv) - 25]
        cut = np.mean([record.signal_mv[a - 20 : a + 21][:, EIGHT] for a in kept], axis=0)
        cut = (cut - cut.mean(0)).ravel()
        return cut / np.linalg.norm(cut)

    rows = make_records(60, seed=6, mix={"SR": 1}, records_per_patient=3, noise=0)
    patients = [r.patient for r in rows]
    assert patients == [p for p in dict.fromkeys(patients) for _ in range(3)]
    alike = np.array([beat_shape(r) for r in rows])
    similar = alike @ alike.T
    same = np.equal.outer(patients, patients)
    off = ~np.eye(len(rows), dtype=bool)
    assert similar[same & off].min() > 0.97
    assert np.median(similar[~same]) < 0.8
    assert len({r.beats.tobytes() for r in rows}) == 60


def test_three_quarters_of_a_patients_records_keep_the_patients_rhythm():
    rows = make_records(240, seed=1, fs_hz=50, records_per_patient=2, noise=0)
    same = np.mean([a.rhythm == b.rhythm for a, b in zip(rows[::2], rows[1::2], strict=True)])
    # 0.75^2 for both kept, plus the chance of meeting by luck (about 0.1 of the rest)
    assert 0.50 < same < 0.74


# --- labels, beats, waves -----------------------------------------------------------------


def test_labels_agree_with_the_beats(records):
    for record in records:
        kinds = set(record.beats.kind)
        assert kinds <= set(BEAT_KINDS)
        for rhythm, label in zip(RHYTHMS[1:], record.labels[1:], strict=True):
            assert (KIND_OF[rhythm] in kinds) == bool(label), (record.name, record.rhythm, kinds)
        if record.labels[0]:
            assert "N" in kinds
        assert record.rhythm.replace("none", "") == "+".join(
            r for r, y in zip(RHYTHMS, record.labels, strict=True) if y
        )
        assert (np.diff(record.beats.time_s) > 0.15).all()
        assert record.beats.time_s.min() >= 0
        assert record.beats.time_s.max() < record.duration_s


def test_default_mix_gives_every_scenario_and_the_documented_shares():
    rows = make_records(400, seed=0, fs_hz=50, noise=0)
    shares = np.mean([r.labels for r in rows], axis=0)
    np.testing.assert_allclose(shares, [0.30, 0.21, 0.21, 0.21, 0.28], atol=0.07)
    assert np.mean([r.labels.sum() == 0 for r in rows]) == pytest.approx(0.13, abs=0.05)
    assert {r.rhythm for r in rows} == set(SCENARIOS)


def test_wave_intervals_are_ordered_and_belong_to_their_beats(records):
    for record in records:
        waves = record.waves
        assert (waves.onset_s <= waves.peak_s).all()
        assert (waves.peak_s <= waves.offset_s).all()
        assert (np.diff(waves.peak_s) >= 0).all()
        assert waves.onset_s.min() >= 0
        assert waves.offset_s.max() <= record.duration_s
        qrs = waves[waves.wave == "QRS"]
        np.testing.assert_array_equal(qrs.beat, np.arange(len(record.beats)))
        np.testing.assert_array_equal(qrs.peak_s, record.beats.time_s)
        for beat, time_s in enumerate(record.beats.time_s):
            own = waves[waves.beat == beat]
            p, t = own[own.wave == "P"], own[own.wave == "T"]
            assert len(p) <= 1
            assert len(t) <= 1
            assert (p.peak_s < time_s - 0.08).all()
            assert (p.peak_s > time_s - 0.30).all()
            assert (t.peak_s > time_s + 0.10).all()
            assert (t.peak_s < time_s + 0.60).all()


def test_qt_shortens_with_the_rate():
    rows = make_records(90, seed=2, fs_hz=100, mix={"SR": 1, "none": 2}, noise=0)
    rr, qt = [], []
    for r in rows:
        onset = {w.beat: w.onset_s for w in r.waves if w.wave == "QRS"}
        ends = [w.offset_s - onset[w.beat] for w in r.waves if w.wave == "T" and w.beat > 0]
        rr.append(np.diff(r.beats.time_s).mean())
        qt.append(np.median(ends))
    slope = np.polyfit(np.log(rr), np.log(qt), 1)[0]
    assert 0.2 < slope < 0.45  # Fridericia: a third


def test_no_p_waves_in_fibrillation_and_flutter_and_one_before_every_sinus_beat(records):
    for record in records:
        p_beats = record.waves.beat[record.waves.wave == "P"]
        if record.labels[1] or record.labels[2]:
            assert len(p_beats) == 0
        for beat, kind in enumerate(record.beats.kind):
            if record.beats.time_s[beat] > 0.35:
                assert (beat in p_beats) == (kind in "NA"), (record.name, beat, kind)


# --- truth against independent detectors ------------------------------------------------------


def test_r_peaks_lie_where_the_eight_leads_are_largest(clean):
    """A plain energy detector that knows nothing of the generator finds the same beats."""
    found = missed = extra = 0
    away_ms = []
    for record in clean:
        if record.labels[2]:
            continue
        x = record.signal_mv[:, EIGHT].astype(np.float64)
        sos = signal.butter(2, (7, 30), "bandpass", fs=500, output="sos")
        energy = np.sqrt((signal.sosfiltfilt(sos, x, axis=0) ** 2).sum(1))
        energy = np.convolve(energy, np.ones(40) / 40, "same")
        peaks, _ = signal.find_peaks(energy, height=0.25 * np.percentile(energy, 98), distance=110)
        size = np.linalg.norm(x, axis=1)
        true = np.rint(record.beats.time_s * 500).astype(int)
        true = true[(true > 100) & (true < len(x) - 100)]
        near = [np.abs(peaks - t).min(initial=9999) for t in true]
        found += sum(n <= 30 for n in near)
        missed += sum(n > 30 for n in near)
        extra += sum(np.abs(true - p).min() > 30 for p in peaks if 150 < p < len(x) - 150)
        for t in true:
            cut = size[t - 25 : t + 26] - np.median(size)
            away_ms.append(2 * abs(int(cut.argmax()) - 25))
    assert found > 1000
    assert missed <= 0.01 * found
    assert extra <= 0.02 * found
    assert np.mean(np.array(away_ms) <= 6) > 0.93


def test_wfdbs_detector_finds_the_sinus_beats(clean):
    hits = total = 0
    for record in [r for r in clean if r.rhythm == "SR"][:8]:
        x = record.signal_mv[:, LEADS.index("V5")].astype(np.float64)
        peaks = processing.xqrs_detect(x, fs=500, verbose=False)
        true = np.rint(record.beats.time_s * 500)
        true = true[(true > 600) & (true < len(x) - 100)]  # xqrs learns on the first beats
        hits += sum(np.abs(peaks - t).min(initial=9999) <= 40 for t in true)
        total += len(true)
    assert total >= 50
    assert hits >= 0.95 * total


def test_t_and_p_marks_frame_the_energy_of_a_clean_beat():
    """Nothing happens outside the marked waves and the ST segments between them."""
    for record in make_records(15, seed=5, mix={"SR": 1}, noise=0):
        size = np.linalg.norm(record.signal_mv[:, EIGHT], axis=1)
        time_s = np.arange(len(size)) / 500
        idle = np.ones(len(size), dtype=bool)
        waves = record.waves
        for w in waves:
            idle &= (time_s < w.onset_s) | (time_s > w.offset_s)
        for beat in range(len(record.beats)):
            own = waves[waves.beat == beat]
            if {"QRS", "T"} <= set(own.wave):
                idle &= (time_s < own.onset_s[own.wave == "QRS"][0]) | (
                    time_s > own.offset_s[own.wave == "T"][0]
                )
        idle &= (time_s > waves.offset_s[0]) & (time_s < waves.onset_s[-1])
        busy = size[~idle].max()
        assert idle.sum() > 300
        assert size[idle].max() < 0.08 * busy


# --- physiology -------------------------------------------------------------------------------


def test_ventricular_beats_look_foreign_and_atrial_ones_do_not():
    def likeness(scenario, kind):
        out = []
        for r in make_records(40, seed=12, mix={scenario: 1}, noise=0):
            at = np.rint(r.beats.time_s * 500).astype(int)
            good = (at > 60) & (at < len(r.signal_mv) - 60)
            cut = {
                k: np.mean(
                    [
                        r.signal_mv[a - 50 : a + 51][:, EIGHT].ravel()
                        for a in at[good & (r.beats.kind == k)]
                    ]
                    or [np.full(808, np.nan)],
                    axis=0,
                )
                for k in ("N", kind)
            }
            out.append(np.corrcoef(cut["N"], cut[kind])[0, 1])
        return np.array(out)

    atrial, ventricular = likeness("SR+PAC", "A"), likeness("SR+PVC", "V")
    assert np.nanmedian(atrial) > 0.95
    assert np.nanmedian(ventricular) < 0.7
    assert np.nanmin(atrial) < 0.9  # some are conducted aberrantly


def test_noise_is_a_factor_and_leaves_truth_alone():
    quiet, plain, loud = (make_records(20, seed=16, fs_hz=250, noise=k) for k in (0, 1, 2))
    for a, b, c in zip(quiet, plain, loud, strict=True):
        assert a.beats.tobytes() == b.beats.tobytes() == c.beats.tobytes()
        one = b.signal_mv.astype(np.float64) - a.signal_mv
        two = c.signal_mv.astype(np.float64) - a.signal_mv
        np.testing.assert_allclose(two, 2 * one, atol=0.005)
        assert 0.003 < one.std() < 2


def test_a_record_is_the_sum_of_its_components():
    """But for the recorder, which rounds each of them to whole steps of the eight leads."""
    options = {"n": 24, "seed": 21, "fs_hz": 125}
    whole, alone = make_records(**options), make_records(**options, waves=())
    parts = {kind: make_records(**options, waves=kind, noise=0) for kind in WAVE_KINDS}
    rounded = (len(parts) + 2) * STEP_MV / 2
    for i, record in enumerate(whole):
        signals = {kind: rows[i].signal_mv[:, EIGHT] for kind, rows in parts.items()}
        total = sum(signals.values()) + alone[i].signal_mv[:, EIGHT]
        assert np.abs(total - record.signal_mv[:, EIGHT]).max() <= rounded
        for other in (alone[i], *(rows[i] for rows in parts.values())):
            assert other.beats.tobytes() == record.beats.tobytes()
            assert other.waves.tobytes() == record.waves.tobytes()
            assert (other.labels == record.labels).all()
        there = {kind for kind, signal_mv in signals.items() if signal_mv.any()}
        atria = {"AF": {"f"}, "AFL": {"F"}}.get(record.rhythm.split("+")[0], {"P"})
        junctional = "J" in record.beats.kind
        assert there == {"QRS", "ST", "T"} | (set() if junctional else atria)


def test_components_lie_where_their_marks_are():
    for kind in ("P", "QRS", "T"):
        for record in make_records(12, seed=22, fs_hz=250, noise=0, waves=kind):
            at = np.arange(len(record.signal_mv)) / record.fs_hz
            waves = record.waves[record.waves.wave == kind][:, None]
            inside = ((at >= waves.onset_s) & (at < waves.offset_s)).any(0)
            inside |= (at < 0.2) | (at > 9.8)  # the wave of a beat outside may reach in
            power = np.square(record.signal_mv).sum(1)
            assert power[~inside].sum() <= 0.01 * power.sum()


# --- likeness to real records -----------------------------------------------------------------


def describe(rows):
    """Amplitude, band shares, singular spectrum and RR variation of [(signal, fs), ...]."""
    high, bands, ranks = [], [], []
    sos = signal.butter(2, (0.5, 40), "bandpass", fs=100, output="sos")
    for x, fs_hz in rows:
        x = x[: int(10 * fs_hz)].astype(np.float64)
        x = signal.resample_poly(x, 100, int(fs_hz), axis=0) if fs_hz != 100 else x
        x = signal.sosfiltfilt(sos, x, axis=0)
        high.append(np.percentile(np.abs(x), 99.9, axis=0))
        hz, power = signal.welch(x[:, EIGHT], 100, nperseg=400, axis=0)
        power = power.sum(1)
        edges = [0.5, 4, 8, 15, 25, 40]
        share = [power[(hz >= a) & (hz < b)].sum() for a, b in itertools.pairwise(edges)]
        bands.append(np.array(share) / np.sum(share))
        energy = np.cumsum(np.linalg.svd(x[:, EIGHT], compute_uv=False) ** 2)
        ranks.append(energy[:3] / energy[-1])
    return np.array(high), np.array(bands), np.array(ranks)


@pytest.fixture(scope="module")
def real(ecgdata):
    """A hundred and fifty real sinus records of 10 s and more."""
    with open(ecgdata / "manifest.csv", newline="") as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if row["classes_ext"] == "SR"
            and not row["same_ecg_as"]
            and not row["flat_leads"]
            and row["database"] != "LUDB"  # its chest leads are half as tall as the others'
            and int(row["n_samples"]) >= 10 * int(row["fs"])
        ]
    records = [read_record(ecgdata / r["folder"] / r["record"]) for r in rows[::4][:150]]
    return [(r.signal_mv, r.fs_hz) for r in records if np.isfinite(r.signal_mv).all()]


def test_sinus_records_measure_like_real_ones(real):
    """Medians within the stated factors of real ones, and spreads not narrower than half."""
    assert len(real) > 120
    made = make_records(150, seed=17, fs_hz=500, mix={"SR": 1})
    ours, theirs = describe([(r.signal_mv, r.fs_hz) for r in made]), describe(real)
    amplitude = np.median(ours[0], 0) / np.median(theirs[0], 0)
    assert amplitude.min() > 0.75 and amplitude.max() < 1.33, amplitude
    spread = [
        np.subtract(*np.percentile(np.log(h), [90, 10], axis=0)) for h in (ours[0], theirs[0])
    ]
    assert (spread[0] > 0.7 * spread[1]).all() and (spread[0] < 1.6 * spread[1]).all()
    bands = np.median(ours[1], 0) / np.median(theirs[1], 0)
    assert bands.min() > 0.7 and bands.max() < 1.4, bands
    ranks = np.median(ours[2], 0) - np.median(theirs[2], 0)
    assert np.abs(ranks).max() < 0.06 and np.abs(ranks[1:]).max() < 0.012, ranks


def test_clean_records_are_as_flat_in_the_singular_spectrum_as_a_dipole_allows():
    """The three dipole axes carry at least 95 % of the energy, but not all of it."""
    ranks = describe([(r.signal_mv, 500) for r in make_records(60, seed=18, noise=0)])[2]
    assert (ranks[:, 2] > 0.95).all()
    assert 0.98 < np.median(ranks[:, 2]) < 0.999


# --- arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"n": -1}, ValueError, "n = -1 found"),
        ({"n": 2.0}, TypeError, "n = 2.0 found"),
        ({"n": True}, TypeError, "n = True found"),
        ({"seed": -3}, ValueError, "seed = -3 found"),
        ({"seed": None}, TypeError, "seed = None found"),
        ({"fs_hz": 0}, ValueError, "fs_hz = 0 found, at least 50"),
        ({"fs_hz": 40}, ValueError, "fs_hz = 40 found"),
        ({"fs_hz": float("nan")}, ValueError, "fs_hz = nan found"),
        ({"seconds": 0}, ValueError, "seconds = 0 found, at least 2.5"),
        ({"seconds": float("inf")}, ValueError, "seconds = inf found"),
        ({"noise": -0.1}, ValueError, "noise = -0.1 found"),
        ({"records_per_patient": 0}, ValueError, "records_per_patient = 0 found, at least 1"),
        ({"mix": {"VT": 1}}, ValueError, "rhythm 'VT' found in mix, SR, "),
        ({"mix": {"SR": -1, "AF": 2}}, ValueError, "weights of 0 or more"),
        ({"mix": {"SR": float("nan")}}, ValueError, "weights of 0 or more"),
        ({"mix": {"SR": 0}}, ValueError, "sum above 0"),
        ({"mix": {}}, ValueError, "sum above 0"),
        ({"waves": ("P", "U")}, ValueError, "wave 'U' found in waves, P, QRS, "),
    ],
)
def test_bad_arguments_are_named(arguments, error, words):
    with pytest.raises(error) as caught:
        make_records(**({"n": 1} | arguments))
    assert words in str(caught.value)


def test_lazy_records_refuse_bad_arguments_at_once():
    with pytest.raises(ValueError, match="start = -1 found"):
        iter_records(start=-1)


def test_no_records_is_an_empty_list():
    assert make_records(0) == []


def test_making_records_is_fast():
    """A loose guard, in processor time; benchmarks/synthetic.py measures."""
    make_records(3)
    start = time.process_time()
    make_records(50, seed=1, fs_hz=500, seconds=10)
    assert 50 / (time.process_time() - start) > 40
