"""Disturbances: electrodes and leads, spectra that do not depend on the rate, mains, knocks."""

import numpy as np
import pytest
from scipy import signal, stats

from ecgbook.signals import ELECTRODES, ELECTRODES_TO_LEADS, disturbance, disturbances

ONES = np.ones((len(ELECTRODES), 1))


def test_electrodes_become_leads_by_their_definition():
    """I = LA - RA, II = LL - RA, and the chest leads stand against the mean of the limbs."""
    volts = np.random.default_rng(0).standard_normal(9)
    ra, la, ll = volts[:3]
    expected = [la - ra, ll - ra, *(volts[3:] - (ra + la + ll) / 3)]
    np.testing.assert_allclose(ELECTRODES_TO_LEADS @ volts, expected, atol=1e-12)


@pytest.mark.parametrize(("samples", "fs_hz"), [(125, 50.0), (643, 257.3), (5000, 500), (7, 1000)])
def test_any_rate_and_length(samples, fs_hz):
    for seed in range(12):
        x = disturbance(samples, fs_hz, 0.25, np.random.default_rng(seed))
        assert x.shape == (samples, 8)
        assert x.dtype == np.float32
        assert np.isfinite(x).all()
        assert np.abs(x).max() > 0


def test_normal_numbers_are_normal_and_independent():
    for rows, columns in ((9, 20001), (3, 5)):
        x = disturbances._normals(rows, columns, np.random.default_rng(2))
        assert x.shape == (rows, columns)
        assert x.dtype == np.float32
    x = disturbances._normals(9, 20001, np.random.default_rng(2)).astype(np.float64)
    assert stats.kstest(x.ravel(), "norm").pvalue > 0.01
    assert stats.kurtosis(x.ravel()) == pytest.approx(0, abs=0.05)
    # The two numbers of one point are half of the array apart, and must not tell of each other.
    half = (x.size + 1) // 2
    a, b = x.ravel()[: x.size - half], x.ravel()[half:]
    for f in (np.abs, np.square, np.asarray):
        assert abs(np.corrcoef(f(a), f(b))[0, 1]) < 4 / np.sqrt(half)
    off = np.corrcoef(x)[~np.eye(9, dtype=bool)]
    assert np.abs(off).max() < 4.5 / np.sqrt(20001)


def test_muscle_noise_has_one_density_at_any_rate():
    """Between 15 and 45 Hz, 0.6 microvolts per root of hertz; little below 1 Hz."""
    levels = []
    for fs_hz in (250, 500, 1000):
        time_s = np.arange(int(40 * fs_hz)) / fs_hz
        x = disturbances._muscle(time_s, fs_hz, ONES, np.random.default_rng(1))
        hz, power = signal.welch(x.astype(np.float64), fs_hz, nperseg=fs_hz, axis=1)
        levels.append(np.sqrt(power[:, (hz >= 15) & (hz <= 45)].mean()))
        assert power[:, hz <= 1].mean() < 0.1 * power[:, (hz >= 15) & (hz <= 45)].mean()
    np.testing.assert_allclose(levels, np.mean(levels), rtol=0.08)
    assert np.mean(levels) == pytest.approx(0.0006, rel=0.1)


def test_the_baseline_is_a_smooth_curve_that_no_sampling_rate_changes():
    fine, rough = (
        disturbances._baseline(10 * fs, fs, 0.25, ONES, np.random.default_rng(4))
        for fs in (1000, 500)
    )
    assert fine.shape == (9, 10000)
    np.testing.assert_allclose(fine[:, ::2], rough, atol=1e-5)
    slope = np.diff(fine.astype(np.float64), axis=1)
    assert np.abs(np.diff(slope, axis=1)).max() < 0.05 * np.abs(slope).max()  # no corners
    hz, power = signal.welch(fine.astype(np.float64), 1000, nperseg=4000, axis=1)
    assert power[:, hz > 8].sum() < 1e-3 * power.sum()


def test_the_baseline_follows_the_breath():
    x = disturbances._baseline(60 * 100, 100, 0.3, ONES, np.random.default_rng(6)).astype(
        np.float64
    )
    time_s = np.arange(x.shape[1]) / 100
    at_breath = np.abs((x * np.exp(-2j * np.pi * 0.3 * time_s)).mean(1))
    beside = np.abs((x * np.exp(-2j * np.pi * 0.45 * time_s)).mean(1))
    assert np.median(at_breath / beside) > 2


def test_mains_is_one_line_at_50_or_60_hz():
    found = set()
    for seed in range(12):
        time_s = np.arange(5000) / 500
        x = disturbances._mains(time_s, 500, np.random.default_rng(seed)).astype(np.float64)
        power = np.abs(np.fft.rfft(x, axis=1)) ** 2
        line = np.fft.rfftfreq(5000, 1 / 500)[power.argmax(1)]
        assert len(set(line)) == 1
        found.add(line[0])
        assert (power.max(1) > 0.9999 * power.sum(1)).all()
        assert len(np.unique(x.std(1))) == 9  # unlike on every electrode
    assert found == {50.0, 60.0}


def test_there_is_no_mains_where_the_rate_cannot_hold_it():
    time_s = np.arange(1000) / 100
    for seed in range(6):
        assert not disturbances._mains(time_s, 100, np.random.default_rng(seed)).any()


def test_a_knock_begins_late_and_dies_away():
    began = []
    for seed in range(30):
        electrodes = np.zeros((9, 20000), dtype=np.float32)
        time_s = np.arange(20000) / 500
        disturbances._motion(electrodes, time_s, 500, 1.0, np.random.default_rng(seed))
        struck = np.flatnonzero(electrodes.any(1))
        assert 1 <= len(struck) <= 3
        for x in electrodes[struck]:
            first, last = np.flatnonzero(x)[[0, -1]]
            assert np.abs(x[first : first + 2]).max() < 0.2 * np.abs(x).max() or last == 19999
            assert last == 19999 or abs(x[last]) < 1e-3 * np.abs(x).max()
            assert np.abs(np.diff(x)).max() < 0.15 * np.abs(x).max()  # no jump of one sample
            began.append(first)
    assert np.ptp(began) > 10000


def test_levels_differ_between_records_and_a_few_are_poor():
    size = np.array(
        [disturbance(500, 100, 0.25, np.random.default_rng(seed)).std() for seed in range(300)]
    )
    assert 0.008 < np.median(size) < 0.06
    assert np.percentile(size, 95) > 2.5 * np.median(size)
    assert np.percentile(size, 5) > 0.2 * np.median(size)
