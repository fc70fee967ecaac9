"""Noise: its ratio is exact, its bands are its kind's, Einthoven holds, padding is nothing."""

import numpy as np
import pytest
import torch
import wfdb
from padded import FS_HZ, INDEPENDENT, LENGTHS, others_replaced, padded, seeded, slow_db
from scipy import signal

from ecgbook.leads import derive, limb_residual
from ecgbook.signals import (
    ELECTRODES,
    NOISE_KINDS,
    RecordedNoise,
    add_noise,
    disturbances,
    noise,
    read_noise,
)

N = len(LENGTHS)


@pytest.fixture(scope="module")
def recorded():
    """Half a minute of two unlike channels."""
    rng = np.random.default_rng(0)
    x = np.cumsum(rng.standard_normal((int(30 * FS_HZ), 2)), 0)
    return RecordedNoise("made", x.astype(np.float32), FS_HZ)


@pytest.mark.parametrize("kind", [*NOISE_KINDS, "recorded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ratio_is_exact_for_every_record(kind, dtype, recorded):
    x, mask = padded(dtype=dtype)
    wanted = torch.tensor([-6.0, 0.0, 6.0, 24.0, 11.1])
    kind = recorded if kind == "recorded" else kind
    y = add_noise(x, kind, wanted, FS_HZ, mask, seeded())
    assert y.dtype == dtype
    for i, n in enumerate(LENGTHS):
        assert slow_db(x[i], y[i], n) == pytest.approx(float(wanted[i]), abs=1e-3)
    y = add_noise(x, kind, 3, FS_HZ, mask, seeded())
    assert slow_db(x[1], y[1], LENGTHS[1]) == pytest.approx(3, abs=1e-3)


@pytest.mark.parametrize("kind", [*NOISE_KINDS, "recorded"])
def test_einthovens_law_survives_and_the_noise_has_no_offset(kind, recorded):
    x, mask = padded()
    y = add_noise(x, recorded if kind == "recorded" else kind, 0.0, FS_HZ, mask, seeded())
    before, after = (limb_residual(v.numpy()) for v in (x, y))
    assert np.abs(after - before).max() < 1e-6
    assert (y - x).double().sum(1).abs().max() / 333 < 1e-6


@pytest.mark.parametrize("kind", [*NOISE_KINDS, "recorded"])
def test_padding_stays_zero_and_neither_it_nor_the_other_records_matter(kind, recorded):
    kind = recorded if kind == "recorded" else kind
    x, mask = padded()
    first = seeded()
    y = add_noise(x, kind, 0.0, FS_HZ, mask, first)
    assert (y[~mask] == 0).all()
    assert (y != x)[mask].double().mean() > 0.3
    second = seeded()
    longer, longer_mask = padded(2500)
    z = add_noise(longer, kind, 0.0, FS_HZ, longer_mask, second)
    torch.testing.assert_close(z[:, :1300], y, atol=2e-6, rtol=0)
    assert torch.equal(first.get_state(), second.get_state())  # what follows is the same too
    for i in (1, 3):
        z = add_noise(
            others_replaced(x, mask, i)[0], kind, 0.0, FS_HZ, others_replaced(x, mask, i)[1],
            seeded(),
        )  # fmt: skip
        torch.testing.assert_close(z[i], y[i], atol=2e-6, rtol=0)


def noise_of(kind, fs_hz, seconds=20, batch=8):
    """Noise (batch, samples, 8) that meets a record of unit power."""
    samples = int(seconds * fs_hz)
    x = torch.zeros(batch, samples, 12)
    x[:, ::2, 0] = 1
    y = add_noise(x, kind, 0.0, fs_hz, generator=seeded(3))
    return (y - x)[..., INDEPENDENT].double().numpy()


def shares(x, fs_hz, edges, seconds=4):
    """Shares of the power between edges in Hz, by Welch's method."""
    hz, power = signal.welch(x, fs_hz, nperseg=int(seconds * fs_hz), axis=1)
    power = power.sum((0, 2))
    power = power / power.sum()
    return np.array([power[(hz >= a) & (hz < b)].sum() for a, b in zip(edges, edges[1:])])  # noqa: B905


@pytest.mark.parametrize("fs_hz", [125.0, 500.0])
@pytest.mark.parametrize(
    ("kind", "low", "high", "least"),
    [
        ("baseline_wander", 0, 1, 0.8),
        ("baseline_wander", 0, 4, 0.99),
        ("muscle", 8, 62.5, 0.9),
        ("electrode_motion", 0, 10, 0.95),
        ("mains", 49, 61, 0.99),
    ],
)
def test_the_power_of_a_kind_lies_in_its_band(fs_hz, kind, low, high, least):
    if kind == "muscle" and fs_hz == 500:
        high = 200
    assert shares(noise_of(kind, fs_hz), fs_hz, [low, high]).item() > least


def test_mains_is_one_line_and_60_hz_only_where_the_rate_holds_it():
    for fs_hz, wanted in ((125.0, {50.0}), (500.0, {50.0, 60.0})):
        x = noise_of("mains", fs_hz, batch=12)
        hz = np.fft.rfftfreq(x.shape[1], 1 / fs_hz)
        power = np.abs(np.fft.rfft(x, axis=1)) ** 2
        assert set(hz[power.argmax(1)].ravel()) == wanted
        assert (power.max(1) > 0.999 * power.sum(1)).all()


@pytest.mark.parametrize("kind", ["baseline_wander", "muscle", "electrode_motion"])
def test_the_spectrum_is_that_of_the_model_in_numpy(kind):
    """Octave by octave, against the disturbances of the synthetic records."""
    samples, rng = 20 * 125, np.random.default_rng(1)
    time_s, ones = np.arange(samples) / 125, np.ones((9, 1))
    level = lambda: np.exp(0.35 * rng.standard_normal((9, 1)))  # noqa: E731
    theirs = []
    for _ in range(60):
        if kind == "muscle":
            theirs.append(disturbances._muscle(time_s, 125, ones, rng))
        elif kind == "baseline_wander":
            breath_hz = rng.uniform(0.15, 0.4)
            theirs.append(disturbances._baseline(samples, 125, breath_hz, level(), rng))
        else:
            theirs.append(np.zeros((9, samples)))
            disturbances._motion(theirs[-1], time_s, 125, 1.0, rng)
    theirs = np.stack(theirs).transpose(0, 2, 1).astype(np.float64)
    streams = noise._streams(4, "cpu", seeded(2))
    lengths = torch.full((60,), samples)
    ours = noise._MODELS[kind](lengths, samples, 125.0, streams).double().numpy()
    edges = [0, 0.12, 0.5, 1, 2, 4, 8, 16, 32, 60]
    a, b = shares(ours, 125, edges, 20), shares(theirs, 125, edges, 20)
    assert np.abs(a - b).max() < 0.08
    assert np.abs(np.log(a / b)[np.maximum(a, b) > 0.02]).max() < np.log(1.6)


@pytest.mark.parametrize("kind", NOISE_KINDS)
def test_the_leads_see_what_the_electrodes_pick_up(kind):
    x, mask = padded(dtype=torch.float64)
    found = (add_noise(x, kind, 0.0, FS_HZ, mask, seeded()) - x).numpy()
    model, streams = noise._MODELS[kind], noise._streams(4, "cpu", seeded())
    electrodes = model(torch.tensor(LENGTHS), x.shape[1], FS_HZ, streams).double().numpy()
    for i, n in enumerate(LENGTHS):
        picked_up = electrodes[i, :n] - electrodes[i, :n].mean(0)
        eight = picked_up @ disturbances.ELECTRODES_TO_LEADS.T
        expected = np.concatenate([derive(*eight[:, :2].T), eight[:, 2:]], 1)
        np.testing.assert_allclose(
            found[i, :n] / found[i, :n].std(), expected / expected.std(), atol=1e-9
        )


def test_every_record_is_knocked_however_short():
    x, mask = padded(lengths=(1250, 40, 40, 40, 40))
    y = add_noise(x, "electrode_motion", 0.0, FS_HZ, mask, seeded())
    for i, n in enumerate(mask.sum(1).tolist()):
        assert slow_db(x[i], y[i], n) == pytest.approx(0, abs=1e-3)


def test_noise_is_of_full_rank_and_unlike_in_every_record():
    for kind in NOISE_KINDS[:2]:
        x = noise_of(kind, 125.0)
        assert all(np.linalg.matrix_rank(record) == 8 for record in x)
        together = np.corrcoef(x[..., 0])
        assert np.abs(together[~np.eye(8, dtype=bool)]).max() < 0.9


@pytest.mark.parametrize("kind", [*NOISE_KINDS, "recorded"])
def test_a_generator_repeats_it_in_any_precision(kind, recorded):
    kind = recorded if kind == "recorded" else kind
    x, mask = padded()
    y = add_noise(x, kind, 0.0, FS_HZ, mask, seeded(1))
    assert torch.equal(y, add_noise(x, kind, 0.0, FS_HZ, mask, seeded(1)))
    assert not torch.equal(y, add_noise(x, kind, 0.0, FS_HZ, mask, seeded(2)))
    double = add_noise(x.double(), kind, 0.0, FS_HZ, mask, seeded(1))
    torch.testing.assert_close(double.float(), y, atol=5e-6, rtol=0)
    torch.manual_seed(4)
    y = add_noise(x, kind, 0.0, FS_HZ, mask)
    torch.manual_seed(4)
    assert torch.equal(y, add_noise(x, kind, 0.0, FS_HZ, mask))


def test_the_gradient_is_the_identity():
    x, mask = padded()
    x.requires_grad_()
    w = torch.randn(x.shape, generator=seeded())
    (add_noise(x, "muscle", 0.0, FS_HZ, mask, seeded()) * w).sum().backward()
    assert torch.equal(x.grad, w)


def test_a_flat_record_and_one_of_a_sample_get_no_noise():
    x, mask = padded(lengths=(1250, 1, 1250))
    x[2] = 0.5
    y = add_noise(x, "muscle", 0.0, FS_HZ, mask, seeded())
    assert torch.equal(y[1:], x[1:])
    assert not torch.equal(y[0], x[0])


def write(folder, x, fs_hz, units=("mV", "mV"), name="em"):
    wfdb.wrsamp(
        name, fs=fs_hz, units=list(units), sig_name=["noise1", "noise2"], p_signal=x,
        fmt=["212", "212"], adc_gain=[200.0, 200.0], baseline=[0, 0], write_dir=str(folder),
    )  # fmt: skip
    return folder / name


def test_a_recording_is_read_in_mv_and_at_the_rate_wanted(tmp_path):
    """A slow sine is the same sine at any rate."""
    t = np.arange(360 * 20) / 360
    x = np.stack([np.sin(2 * np.pi * 1.5 * t), 0.5 * np.cos(2 * np.pi * 3 * t)], 1)
    path = write(tmp_path, x, 360)
    same = read_noise(path, 360)
    np.testing.assert_allclose(same.signal_mv, x, atol=0.004)
    for name in (path, str(path) + ".hea"):
        slower = read_noise(name, FS_HZ)
        assert (slower.name, slower.fs_hz, slower.signal_mv.dtype) == ("em", FS_HZ, np.float32)
        at = np.arange(2500) / FS_HZ
        expected = np.stack([np.sin(2 * np.pi * 1.5 * at), 0.5 * np.cos(2 * np.pi * 3 * at)], 1)
        assert slower.signal_mv.shape == expected.shape
        np.testing.assert_allclose(slower.signal_mv[50:-50], expected[50:-50], atol=0.01)
    x, mask = padded()
    y = add_noise(x, slower, 6.0, FS_HZ, mask, seeded())
    assert slow_db(x[0], y[0], LENGTHS[0]) == pytest.approx(6, abs=1e-3)


def test_every_electrode_gets_a_true_stretch_of_a_channel(recorded):
    lengths = torch.tensor(LENGTHS)
    found = noise._recorded(recorded, lengths, 1300, noise._streams(1, "cpu", seeded()))
    assert found.shape == (N, 1300, len(ELECTRODES))
    channels, places = [], []
    for i, n in enumerate(LENGTHS):
        for e in range(len(ELECTRODES)):
            (place, channel), *more = np.argwhere(recorded.signal_mv == found[i, 0, e].item())
            assert not more
            stretch = recorded.signal_mv[place : place + n, channel]
            np.testing.assert_array_equal(found[i, :n, e], stretch)
            places.append(place / (len(recorded.signal_mv) - n))
            channels.append(channel)
    assert 0.25 < np.mean(channels) < 0.75
    assert min(places) < 0.15 and max(places) > 0.85


@pytest.mark.parametrize(
    ("units", "broken", "message"),
    [(("mV", "uV"), False, "'uV' found, mV wanted"), (("mV", "mV"), True, "1 missing samples")],
)
def test_a_recording_that_cannot_be_used_is_refused(tmp_path, units, broken, message):
    x = np.random.default_rng(0).standard_normal((3600, 2))
    if broken:
        x[7, 1] = np.nan
    with pytest.raises(ValueError, match=message):
        read_noise(write(tmp_path, x, 360, units), 125)


def test_arguments_out_of_range_are_named(recorded):
    x, mask = padded()
    cases = [
        ((x, "hum", 0.0, FS_HZ, mask), "kind='hum' found, one of baseline_wander"),
        ((x, "muscle", 0.0, 0.0, mask), "fs_hz=0.0 found"),
        ((x, "mains", 0.0, 100.0, mask), "fs_hz=100 found, 112 Hz or more wanted"),
        ((x, "muscle", float("nan"), FS_HZ, mask), "snr_db.*found.*5 of them wanted"),
        ((x, "muscle", torch.zeros(4), FS_HZ, mask), r"snr_db of shape \(4,\).*found"),
        ((x, recorded, 0.0, 250.0, mask), "made at 125 Hz found, 250 Hz wanted"),
        ((x[..., :8], "muscle", 0.0, FS_HZ, mask), r"\(5, 1300, 8\) found"),
        ((x, "muscle", 0.0, FS_HZ, ~mask), "behind padding found"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            add_noise(*arguments)
    short = RecordedNoise("short", recorded.signal_mv[:600], FS_HZ)
    with pytest.raises(ValueError, match=r"short of 4.8 s found, at least the 10.0 s"):
        add_noise(x, short, 0.0, FS_HZ, mask)
    with pytest.raises(ValueError, match="fs_hz=-1 found"):
        read_noise("none", -1)


@pytest.mark.parametrize("junk", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", NOISE_KINDS)
def test_what_stands_in_the_padding_does_not_matter(kind, junk):
    x, mask = padded()
    dirty = x.masked_fill(~mask[..., None], junk)
    clean = add_noise(x, kind, 6.0, FS_HZ, mask, seeded(1))
    found = add_noise(dirty, kind, 6.0, FS_HZ, mask, seeded(1))
    torch.testing.assert_close(found[mask], clean[mask], rtol=0, atol=0)
