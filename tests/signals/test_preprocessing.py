"""Preprocessing: what the filter passes, that it keeps time and Einthoven, windows and masks."""

import numpy as np
import pytest

from ecgbook import leads, synthetic
from ecgbook.signals import Preprocessing


def tone(hz, fs_hz, seconds=20, lead=0):
    x = np.zeros((int(fs_hz * seconds), 12))
    x[:, lead] = np.sin(2 * np.pi * hz * np.arange(len(x)) / fs_hz)
    return x


@pytest.mark.parametrize("fs_hz", [100, 257, 500, 1000])
@pytest.mark.parametrize(
    ("hz", "low", "high"), [(0.05, 0, 0.02), (5, 0.98, 1.02), (20, 0.97, 1.02), (0.5, 0.4, 0.6)]
)
def test_the_band_passes_the_ecg_and_stops_the_wander(fs_hz, hz, low, high):
    x, mask = Preprocessing(fs_hz=125, n_samples=2500)(tone(hz, fs_hz), fs_hz)
    middle = x[mask][600:-600, 0]
    amplitude = np.sqrt(2 * np.mean(middle**2))
    assert low <= amplitude <= high  # zero-phase filtering halves the power at the corner


def test_muscle_noise_above_the_band_is_stopped():
    x, _ = Preprocessing(fs_hz=500, n_samples=8192)(tone(150, 500), 500)
    assert np.abs(x[1000:7000, 0]).max() < 0.005


@pytest.mark.parametrize("fs_hz", [100, 360, 500, 1000])
def test_a_wave_stays_where_it_is_in_time(fs_hz):
    t = np.arange(int(10 * fs_hz)) / fs_hz
    x = np.zeros((len(t), 12))
    x[:, 6] = np.exp(-(((t - 4.2) / 0.02) ** 2))
    y, _ = Preprocessing(fs_hz=250, n_samples=2500)(x, fs_hz)
    assert np.argmax(y[:, 6]) / 250 == pytest.approx(4.2, abs=0.005)


def test_einthoven_survives_every_step():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5000, 12))
    x[:, :6] = leads.derive(x[:, 0], x[:, 1])
    y, _ = Preprocessing(fs_hz=125, n_samples=2048)(x, 500)
    assert np.abs(leads.limb_residual(y)).max() < 1e-6


def test_window_pads_behind_and_crops_both_ends():
    steps = Preprocessing(fs_hz=100, n_samples=1000, band_hz=None)
    ramp = np.repeat(np.arange(600.0)[:, None], 12, axis=1)
    x, mask = steps(ramp, 100)
    assert mask.sum() == 600 and mask[:600].all() and x.shape == (1000, 12)
    np.testing.assert_array_equal(x[:600], ramp)
    assert (x[600:] == 0).all()
    x, mask = steps(np.repeat(np.arange(1400.0)[:, None], 12, axis=1), 100)
    assert mask.all() and x[0, 0] == 200 and x[-1, 0] == 1199
    assert x.dtype == np.float32


def test_gaps_are_bridged_by_a_line_and_a_missing_lead_is_flat():
    x = np.repeat(np.linspace(0, 1, 500)[:, None], 12, axis=1)
    holed = x.copy()
    holed[100:150, 3] = np.nan
    holed[:, 5] = np.nan
    y, _ = Preprocessing(fs_hz=100, n_samples=500, band_hz=None)(holed, 100)
    np.testing.assert_allclose(y[:, 3], x[:, 3], atol=1e-6)
    assert (y[:, 5] == 0).all()


def test_it_survives_json():
    import json

    for steps in (Preprocessing(), Preprocessing(fs_hz=125, n_samples=2048, band_hz=None)):
        assert Preprocessing.from_dict(json.loads(json.dumps(steps.to_dict()))) == steps
    assert Preprocessing(band_hz=[0.5, 40.0]) == Preprocessing(band_hz=(0.5, 40.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fs_hz": 0}, "fs_hz=0 found"),
        ({"fs_hz": float("nan")}, "fs_hz=nan found"),
        ({"n_samples": 0}, "n_samples=0 found"),
        ({"band_hz": (40, 0.5)}, r"band_hz=\(40, 0.5\) found"),
        ({"fs_hz": 60}, "high < 30 Hz wanted"),
        ({"order": 0}, "order=0 found"),
        ({"n_samples": 10.5}, "n_samples=10.5 found"),
    ],
)
def test_bad_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**arguments)


@pytest.mark.parametrize(
    ("shape", "fs_hz", "message"),
    [
        ((12, 5000), 500, r"\(12, 5000\) found, \(samples, leads\) wanted; transpose it"),
        ((400, 12), 500, "0.80 s of signal found, 1 s or more wanted"),
        ((5000, 12), -1, "fs_hz=-1 found"),
        ((5000, 12), 60, "at 60 Hz found, more than 80 Hz wanted"),
    ],
)
def test_bad_records_are_named(shape, fs_hz, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing()(np.zeros(shape), fs_hz)


@pytest.mark.parametrize("samples", [2500, 4000, 5001])
def test_the_window_says_where_it_begins(samples):
    prepare = Preprocessing(fs_hz=125, n_samples=1000, band_hz=None)
    ramp = np.tile(np.arange(samples)[:, None] / 500.0, (1, 12))  # seconds, at 500 Hz
    x, _ = prepare(ramp, 500)
    start_s, end_s = prepare.window_s(np.zeros((samples, 12)), 500)
    assert (start_s > 0) == (samples > 4000)
    assert x[500, 0] - 500 / 125 == pytest.approx(start_s, abs=2e-3)
    assert end_s - start_s == pytest.approx(min(samples / 500, 8), abs=8e-3)


@pytest.mark.parametrize(
    ("gaps", "first", "last"),
    [
        ([(0, 2000)], 2000, 5000),  # at the start
        ([(3500, 5000)], 0, 3500),  # at the end
        ([(0, 100), (1000, 2500)], 2500, 5000),  # the longest piece
        ([(1000, 1499)], 0, 5000),  # less than a second is bridged
    ],
)
def test_what_is_missing_in_all_leads_is_cut_off_and_not_bridged(gaps, first, last):
    prepare = Preprocessing(fs_hz=125, n_samples=2048)
    x = synthetic.make_records(1, seed=1)[0].signal_mv.copy()
    for start, end in gaps:
        x[start:end] = np.nan
    found, mask = prepare(x, 500)
    wanted, wanted_mask = prepare(x[first:last], 500)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(mask, wanted_mask)
    assert prepare.window_s(x, 500) == pytest.approx((first / 500, last / 500), abs=1e-9)
    x[:, 3] = 0.0
    assert prepare(x, 500)[1].sum() == 1250, "what one lead has is not missing in all"
