"""Removed bands: gone inside, untouched outside, whatever the length, the padding, the others."""

import time

import numpy as np
import pytest
import torch
from padded import FS_HZ, LENGTHS, others_replaced, padded
from scipy import signal

from ecgbook.leads import limb_residual
from ecgbook.signals import remove_band, without_bands

BAND = (5.0, 12.0)


def spectra(x, n):
    """Frequencies in Hz and spectrum (lines, leads) of the first n samples, in float64."""
    return np.fft.rfftfreq(n, 1 / FS_HZ), np.fft.rfft(x[:n].double().numpy(), axis=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inside_the_band_nothing_is_left_and_outside_energy_and_phase_are_untouched(dtype):
    x, mask = padded(dtype=dtype)
    y = remove_band(x, FS_HZ, *BAND, mask)
    assert y.dtype == dtype
    small = 1e-6 if dtype == torch.float32 else 1e-13
    for before, after, n in zip(x, y, LENGTHS, strict=True):
        hz, old = spectra(before, n)
        _, new = spectra(after, n)
        inside = (hz >= BAND[0]) & (hz < BAND[1])
        assert 0.03 < (np.abs(old[inside]) ** 2).sum() / (np.abs(old[1:]) ** 2).sum() < 0.9
        largest = np.abs(old).max()
        assert np.abs(new[inside]).max() < small * largest
        # Amplitude and phase at once: the complex lines themselves.
        assert np.abs(new - old)[~inside].max() < small * largest
        energy = (np.abs(new[~inside]) ** 2).sum() / (np.abs(old[~inside]) ** 2).sum()
        assert abs(energy - 1) < small


def test_it_equals_a_slow_fourier_sum():
    """Subtract, line by line, the cosine that the definition finds in the band."""
    n = 97
    x, mask = padded(120, (n,), torch.float64)
    expected = x[0, :n].numpy().copy()
    t = np.arange(n)
    for k in range(n // 2 + 1):
        if BAND[0] <= k * FS_HZ / n < BAND[1]:
            wave = np.exp(2j * np.pi * k * t / n)
            coefficient = (wave.conj()[:, None] * x[0, :n].numpy()).sum(0) / n
            expected -= 2 * (wave[:, None] * coefficient).real
    y = remove_band(x, FS_HZ, *BAND, mask)[0, :n].numpy()
    np.testing.assert_allclose(y, expected, atol=1e-12)


@pytest.mark.parametrize("samples", [1250, 1251])
def test_bands_that_meet_take_the_signal_apart(samples):
    x, mask = padded(samples, (1250, 1001, samples - 1), torch.float64)
    edges = [0, 0.5, 5, 20, FS_HZ / 2]
    parts = [
        x - remove_band(x, FS_HZ, low, high, mask)
        for low, high in zip(edges[:-1], edges[1:], strict=True)
    ]
    torch.testing.assert_close(sum(parts), x, atol=1e-12, rtol=0)
    powers = sum(part.square().sum() for part in parts)
    torch.testing.assert_close(powers, x.square().sum())  # orthogonal


@pytest.mark.parametrize("band", [BAND, (0.3, 0.7), (0.6, 1.1)])
def test_a_line_on_the_lower_edge_goes_and_one_on_the_upper_edge_stays(band):
    t = torch.arange(1250, dtype=torch.float64)[:, None] / FS_HZ
    low, high = (torch.sin(2 * torch.pi * f * t).expand(-1, 12)[None] for f in band)
    y = remove_band(low + high, FS_HZ, *band)
    torch.testing.assert_close(y, high, atol=1e-10, rtol=0)


def test_einthovens_law_survives():
    x, mask = padded()
    before, after = (limb_residual(v.numpy()) for v in (x, remove_band(x, FS_HZ, *BAND, mask)))
    assert np.abs(after - before).max() < 1e-6


def test_padding_stays_zero_and_neither_it_nor_the_other_records_matter():
    x, mask = padded()
    y = remove_band(x, FS_HZ, *BAND, mask)
    assert (y[~mask] == 0).all()
    longer = remove_band(*padded(2000)[:1], FS_HZ, *BAND, padded(2000)[1])
    torch.testing.assert_close(longer[:, :1300], y, atol=1e-6, rtol=0)
    for i, n in enumerate(LENGTHS):
        alone = remove_band(x[i : i + 1, :n], FS_HZ, *BAND)
        torch.testing.assert_close(alone[0], y[i, :n], atol=1e-6, rtol=0)
        mixed = remove_band(*others_replaced(x, mask, i)[:1], FS_HZ, *BAND,
                            others_replaced(x, mask, i)[1])  # fmt: skip
        torch.testing.assert_close(mixed[i], y[i], atol=1e-6, rtol=0)


def test_every_record_has_bands_of_its_own_and_without_a_band_it_stays_bit_for_bit():
    x, mask = padded(dtype=torch.float64)
    bands = torch.tensor([[[0, 0], [0, 0]], [[2, 4], [3, 7]], [[0, 0], [9, 11]]])
    bands = torch.cat([bands, torch.zeros(2, 2, 2)])
    y = without_bands(x, bands, FS_HZ, mask.sum(1))
    for i in (0, 3, 4):
        assert torch.equal(y[i], x[i])
    torch.testing.assert_close(y[1:2], remove_band(x[1:2], FS_HZ, 2, 7, mask[1:2]))
    torch.testing.assert_close(y[2:3], remove_band(x[2:3], FS_HZ, 9, 11, mask[2:3]))


def test_the_gradient_is_that_of_a_projection_and_the_input_is_left_alone():
    x, mask = padded(dtype=torch.float64)
    original = x.clone()
    x.requires_grad_()
    w = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    (remove_band(x, FS_HZ, *BAND, mask) * w).sum().backward()
    # A projection is its own transpose; in padding the map is the identity.
    torch.testing.assert_close(x.grad, remove_band(w, FS_HZ, *BAND, mask))
    assert torch.equal(x.detach(), original)


@pytest.mark.parametrize("edge_hz", [0.5, 2.0])
def test_a_soft_edge_is_half_a_cosine_outside_of_the_band(edge_hz):
    x, mask = padded(dtype=torch.float64)
    y = remove_band(x, FS_HZ, *BAND, mask, edge_hz=edge_hz)
    for before, after, n in zip(x, y, LENGTHS, strict=True):
        assert torch.equal(before[n:], after[n:])
        hz, old = spectra(before, n)
        _, new = spectra(after, n)
        away = np.clip(np.maximum(BAND[0] - hz, hz - BAND[1]) / edge_hz, 0, 1)
        gain = np.sin(np.pi * away / 2) ** 2
        np.testing.assert_allclose(new, old * gain[:, None], atol=1e-12 * np.abs(old).max())


def test_soft_edges_of_several_bands_keep_the_lower_gain_and_no_band_has_none():
    x, mask = padded(1250, (1250, 1250), torch.float64)
    bands = torch.tensor([[[0.0, 0], [3, 5]], [[3, 5], [6, 8]]])
    y = without_bands(x, bands, FS_HZ, mask.sum(1), edge_hz=2.0)
    torch.testing.assert_close(y[:1], remove_band(x[:1], FS_HZ, 3, 5, edge_hz=2.0))
    hz, old = spectra(x[1], 1250)
    _, new = spectra(y[1], 1250)
    k = np.argmin(abs(hz - 5.5))  # half a hertz from both, whose gains would have a product
    np.testing.assert_allclose(new[k], old[k] * np.sin(np.pi / 8) ** 2)


def test_a_soft_edge_rings_less():
    spike = torch.zeros(1, 1250, 12, dtype=torch.float64)
    spike[0, 625] = 1
    hard, soft = (remove_band(spike, FS_HZ, 4, 6, edge_hz=e)[0, 700:].abs().max() for e in (0, 2))
    assert soft < hard / 3


def test_an_edge_that_cannot_be_is_refused():
    for edge_hz in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"edge_hz = {edge_hz} found.*wanted"):
            remove_band(torch.zeros(1, 500, 12), FS_HZ, *BAND, edge_hz=edge_hz)


def test_an_empty_record_stays_empty():
    x, mask = padded(lengths=(1250, 0))
    y = remove_band(x, FS_HZ, 0, FS_HZ / 2, mask)
    assert (y[1] == 0).all()
    assert y[0].abs().max() < 1e-6


@pytest.mark.parametrize(
    ("fs_hz", "low", "high", "found"),
    [
        (0, 1, 2, "fs_hz=0"),
        (float("nan"), 1, 2, "fs_hz=nan"),
        (125, -1, 2, "-1"),
        (125, 5, 5, "5 to 5"),
        (125, 5, 63, "63"),
        (125, float("nan"), 5, "nan"),
    ],
)
def test_a_band_that_cannot_be_is_refused(fs_hz, low, high, found):
    with pytest.raises(ValueError, match=f"{found}.*found.*wanted"):
        remove_band(torch.zeros(1, 500, 12), fs_hz, low, high)


def test_a_batch_is_faster_than_band_stop_filters_record_by_record():
    x = torch.randn(16, 2048, 12)
    sos = signal.butter(3, BAND, "bandstop", fs=FS_HZ, output="sos")

    def seconds(work):
        start = time.thread_time()
        work()
        return time.thread_time() - start

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # all of the work is in the thread whose time is taken
    try:
        ours, theirs = [], []
        for _ in range(3):
            ours.append(seconds(lambda: remove_band(x, FS_HZ, *BAND)))
            theirs.append(seconds(lambda: [signal.sosfiltfilt(sos, r, axis=0) for r in x.numpy()]))
    finally:
        torch.set_num_threads(threads)
    assert min(ours) < min(theirs)
