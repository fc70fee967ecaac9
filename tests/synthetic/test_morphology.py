"""Shapes: Gaussians and their marks, durations, axes, and the waves of the atria."""

import numpy as np
import pytest
from scipy import signal

from ecgbook.leads import INDEPENDENT
from ecgbook.synthetic import draw_patient
from ecgbook.synthetic.morphology import (
    CONDUCTION,
    EDGE,
    fibrillatory_waves,
    flutter_waves,
    gaussians,
)

LEAD = {name: column for column, name in enumerate(INDEPENDENT)}


@pytest.fixture(scope="module")
def patients():
    rng = np.random.default_rng(5)
    return [draw_patient(rng) for _ in range(150)]


def slow_wave(wave, time_s):
    """A wave (times, 8) in float64, sample by sample and part by part."""
    out = np.zeros((len(time_s), 8))
    for i, t in enumerate(time_s):
        for center, before, after, leads_mv in zip(
            wave.center_s, wave.before_s, wave.after_s, wave.leads_mv, strict=True
        ):
            width = float(before if t < center else after)
            out[i] += np.exp(-((t - float(center)) ** 2) / (2 * width**2)) * leads_mv
    return out


def likeness(a, b):
    """Correlation of two waves over all leads."""
    time_s = np.arange(-0.1, 0.1, 0.004)
    return np.corrcoef(slow_wave(a, time_s).ravel(), slow_wave(b, time_s).ravel())[0, 1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("skewed", [False, True])
def test_gaussians_have_their_own_width_on_either_side(dtype, skewed):
    time_s = np.linspace(-1, 1, 42, dtype=dtype).reshape(2, 21)
    center, before = np.array([-0.3, 0.1, 0.4], dtype), np.array([0.1, 0.2, 0.3], dtype)
    after = np.array([0.25, 0.1, 0.3], dtype) if skewed else before
    found = gaussians(time_s, center, before, after)
    assert found.shape == (3, 2, 21)
    assert found.dtype == dtype
    for part in range(3):
        for where in np.ndindex(2, 21):
            away = float(time_s[where]) - float(center[part])
            width = float(before[part] if away < 0 else after[part])
            expected = np.exp(-(away**2) / (2 * width**2))
            assert found[(part, *where)] == pytest.approx(expected, abs=1e-5)


def test_every_wave_peaks_at_0_and_is_marked_where_3_percent_are_left(patients):
    time_s = np.arange(-0.5, 0.5, 0.001)
    for patient in patients[::25]:
        shapes = (patient.normal, patient.aberrant(), patient.focus(1))
        waves = [patient.p, patient.p_ectopic(), *(w for v in shapes for w in (v.qrs, v.st, v.t))]
        for wave in waves:
            size = np.linalg.norm(slow_wave(wave, time_s), axis=1)
            assert abs(time_s[size.argmax()]) < 0.0025
            seen = time_s[size >= EDGE * size.max()]
            assert wave.onset_s == pytest.approx(seen[0], abs=0.0025)
            assert wave.offset_s == pytest.approx(seen[-1], abs=0.0025)
            outside = size[(time_s < wave.span_s[0]) | (time_s > wave.span_s[1])]
            assert outside.max() < 0.004 * size.max()


def test_waves_last_as_long_as_in_the_clinic(patients):
    # LUDB, lead II, medians of the cardiologists' marks: P 110 ms, QRS 92 ms, T 180 ms.
    def durations_ms(waves):
        return np.array([1000 * (w.offset_s - w.onset_s) for w in waves])

    p = durations_ms([w for x in patients for w in (x.p, x.p_ectopic())])
    assert 95 < np.median(p) < 130
    assert 70 < p.min() and p.max() < 170
    qrs = durations_ms([x.normal.qrs for x in patients])
    assert 82 < np.median(qrs) < 108
    assert 60 < qrs.min() and qrs.max() < 200
    t = 0.8 ** (1 / 3) * durations_ms([x.normal.t for x in patients])  # at an RR of 0.8 s
    assert 150 < np.median(t) < 230
    wide = durations_ms([x.focus(0).qrs for x in patients])
    assert 115 < wide.min() and wide.max() < 200
    assert np.mean((wide >= 120) & (wide <= 185)) > 0.95
    assert np.median(wide) > 1.35 * np.median(qrs)
    blocked = durations_ms([x.aberrant().qrs for x in patients])
    assert np.median(blocked) > 1.2 * np.median(qrs)


def test_foreign_beats_look_foreign_and_are_the_same_each_time(patients):
    foci, aberrant = [], []
    for patient in patients[::3]:
        focus = patient.focus(0).qrs
        assert focus.leads_mv.tobytes() == patient.focus(0).qrs.leads_mv.tobytes()
        assert likeness(focus, patient.focus(1).qrs) < 0.99
        foci.append(likeness(patient.normal.qrs, focus))
        aberrant.append(likeness(patient.normal.qrs, patient.aberrant().qrs))
        sinus, ectopic = patient.p.leads_mv.sum(0), patient.p_ectopic().leads_mv.sum(0)
        assert np.corrcoef(sinus, ectopic)[0, 1] < 0.95
    assert np.median(foci) < 0.7
    assert np.median(aberrant) < 0.9


def test_patients_have_every_kind_of_conduction(patients):
    found = [p.conduction for p in patients]
    for kind, share in CONDUCTION.items():
        assert found.count(kind) / len(found) == pytest.approx(share, abs=0.09)
        assert found.count(kind) > 0


def test_f_waves_are_larger_in_v1_and_ii_than_in_i_and_v6(patients):
    rng, time_s = np.random.default_rng(15), np.arange(0, 10, 0.01)
    size = np.median([fibrillatory_waves(time_s, p.matrix, rng).std(0) for p in patients], axis=0)
    assert 0.01 < size[LEAD["V1"]] < 0.09
    assert min(size[LEAD["V1"]], size[LEAD["II"]]) > 1.2 * max(size[LEAD["I"]], size[LEAD["V6"]])


def periodic(x, time_s, rate_hz):
    """Share of the variance of x that one rate and its harmonics explain."""
    angle = 2 * np.pi * rate_hz * time_s[:, None] * np.arange(1, 7)
    basis = np.hstack([np.sin(angle), np.cos(angle), np.ones((len(x), 1))])
    rest = x - basis @ np.linalg.lstsq(basis, x, rcond=None)[0]
    return 1 - rest.var() / x.var()


def test_flutter_waves_have_one_rate_and_f_waves_have_none(patients):
    rng, time_s = np.random.default_rng(13), np.arange(0, 10, 0.01)
    for patient in patients[:20]:
        x = flutter_waves(time_s, 5.1, patient.matrix, rng)
        assert x.dtype == np.float32
        assert periodic(x[:, LEAD["II"]], time_s, 5.1) > 0.95
        assert periodic(x[:, LEAD["II"]], time_s, 4.6) < 0.1
    best, peaks_hz = [], []
    for patient in patients[:20]:
        x = fibrillatory_waves(time_s, patient.matrix, rng)[:, LEAD["V1"]]
        best.append(max(periodic(x, time_s, hz) for hz in np.arange(4, 9, 0.05)))
        hz, power = signal.welch(x, 100, nperseg=400)
        peaks_hz.append(hz[power.argmax()])
    assert np.median(best) < 0.6
    assert 3.9 < min(peaks_hz) and max(peaks_hz) < 9.1


def test_flutter_waves_fall_slowly_and_rise_quickly_in_most_patients(patients):
    rng, time_s = np.random.default_rng(3), np.arange(0, 2, 0.002)
    falling = [
        np.mean(np.diff(flutter_waves(time_s, 5, p.matrix, rng)[:, LEAD["II"]]) < 0)
        for p in patients
    ]
    # 85 % run the usual way round. An electrode's own gain turns no more than a few.
    assert 0.7 < np.mean(np.array(falling) > 0.5) < 0.98


def test_the_sampling_rate_changes_no_atrial_wave(patients):
    fine_s, rough_s = np.arange(4000) / 1000, np.arange(1000) / 250
    for draw, close in (
        (lambda t, m, rng: flutter_waves(t, 5.0, m, rng), 1e-4),
        (fibrillatory_waves, 0.25),  # its phase is summed, and so is ahead by a part of a sample
    ):
        fine = draw(fine_s, patients[0].matrix, np.random.default_rng(1))
        rough = draw(rough_s, patients[0].matrix, np.random.default_rng(1))
        np.testing.assert_allclose(fine[::4], rough, atol=close * np.abs(fine).max())
