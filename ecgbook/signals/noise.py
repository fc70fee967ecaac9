"""Noise at a stated signal-to-noise ratio, drawn at the electrodes so that Einthoven's law holds.

Source: G. B. Moody, W. K. Muldrow, R. G. Mark (1984), "A noise stress test for arrhythmia
detectors", for noise added at chosen ratios and for three of the kinds. Their ratio compares the
QRS complexes with the noise, lead by lead; the one of this module is defined in `add_noise`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import signal
from scipy.fft import next_fast_len
from torch import Tensor

from .. import leads
from ..checks import check_rate, valid_lengths
from .disturbances import (
    BREATH_MV,
    ELECTRODES,
    ELECTRODES_TO_LEADS,
    KNOT_S,
    WALK_MEMORY,
    WALK_MV,
    curve_weights,
    mains_hz,
    muscle_filter,
)
from .resampling import resample

NOISE_KINDS: tuple[str, ...] = ("baseline_wander", "muscle", "electrode_motion", "mains")
"""The kinds of noise that are drawn from a model."""

_INDEPENDENT = leads.index(leads.INDEPENDENT)
_TO_12 = ELECTRODES_TO_LEADS.T @ np.hstack([leads.derive(*np.eye(2, 8)), np.eye(8)[:, 2:]])
_BLOCK = 256
_SLOT_S, _KNOCK_S = 2.5, 9.0  # one knock in every slot; after 9 s the slowest has died away
_RESPONSE_S = 0.3  # of the filter for muscle noise, 1e-5 of it left


@dataclass(frozen=True, eq=False)
class RecordedNoise:
    """Noise that was recorded, to be added in place of a model's.

    Attributes
    ----------
    name : str
    signal_mv : ndarray, shape (samples, channels), float32
        In mV.
    fs_hz : float
        Its sampling rate in Hz.
    """

    name: str
    signal_mv: np.ndarray
    fs_hz: float


def read_noise(path: str | Path, fs_hz: float) -> RecordedNoise:
    """Read a recording of noise, such as ``bw``, ``em`` and ``ma`` of the noise stress test.

    Parameters
    ----------
    path : str or Path
        A WFDB record in mV, with or without ``.hea``.
    fs_hz : float
        Sampling rate wanted in Hz; a polyphase filter changes the record's own to it.

    Returns
    -------
    RecordedNoise

    Raises
    ------
    ValueError
        If `fs_hz` is not positive, a channel is not in mV, or samples are missing.

    Notes
    -----
    Source: the MIT-BIH Noise Stress Test Database, doi:10.13026/C2HS3T: two channels, half an
    hour, electrodes on the limbs where the heart is not seen.
    """
    import wfdb  # with pandas, which loads with the first recording

    check_rate(fs_hz)
    path = Path(path)
    record = wfdb.rdrecord(str(path.with_suffix("") if path.suffix == ".hea" else path))
    if not isinstance(record, wfdb.Record):
        raise ValueError(f"{path}: a record of several segments found, one wanted")
    if units := [unit for unit in record.units if unit.lower() != "mv"]:
        raise ValueError(f"{path}: a channel in {units[0]!r} found, mV wanted")
    if missing := int((~np.isfinite(record.p_signal)).sum()):
        raise ValueError(f"{path}: {missing} missing samples found, none wanted")
    x = resample(record.p_signal, record.fs, fs_hz)
    return RecordedNoise(path.stem, np.ascontiguousarray(x, dtype=np.float32), float(fs_hz))


def check_kind(kind: str | RecordedNoise, fs_hz: float) -> None:
    """Check that a kind of noise can be had at a sampling rate.

    Parameters
    ----------
    kind : str or RecordedNoise
        One of `NOISE_KINDS`, or a recording.
    fs_hz : float
        Sampling rate in Hz.

    Raises
    ------
    ValueError
        If the kind is unknown, the rate too low for it, or another than the recording's.
    """
    check_rate(fs_hz)
    if isinstance(kind, RecordedNoise):
        if kind.fs_hz != fs_hz:
            raise ValueError(
                f"{kind.name} at {kind.fs_hz:g} Hz found, {fs_hz:g} Hz wanted; read it with "
                f"read_noise(path, fs_hz={fs_hz:g})"
            )
    elif kind not in NOISE_KINDS:
        raise ValueError(
            f"kind={kind!r} found, one of {', '.join(NOISE_KINDS)} or a recording wanted"
        )
    elif kind == "mains" and not mains_hz(fs_hz):
        raise ValueError(f"fs_hz={fs_hz:g} found, 112 Hz or more wanted for the mains at 50 Hz")


def add_noise(
    x: Tensor,
    kind: str | RecordedNoise,
    snr_db: float | Tensor,
    fs_hz: float,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Add noise of one kind to every record of a batch, at a stated signal-to-noise ratio.

    Parameters
    ----------
    x : Tensor, shape (batch, samples, 12), float32 or float64
        Signals in mV.
    kind : str or RecordedNoise
        One of `NOISE_KINDS`, or what `read_noise` returned: then every electrode gets a stretch
        from another place of one of the channels. What two channels cannot tell is how the noise
        of nine electrodes hangs together; here their stretches are drawn independently.
    snr_db : float or Tensor, shape (batch,)
        Ratio in dB, one for all records or one for each.
    fs_hz : float
        Sampling rate of `x` in Hz.
    mask : Tensor, shape (batch, samples), bool, optional
        True where there is signal; everywhere, if omitted.
    generator : torch.Generator, optional
        Source of chance; torch's own, if omitted.

    Returns
    -------
    Tensor, shape (batch, samples, 12)
        `x` with noise where the mask is true. The gradient with respect to `x` is the identity:
        the noise counts as a constant, though its size follows the signal's.

    Raises
    ------
    ValueError
        If an argument is out of its range, or a recording is shorter than a record.

    Notes
    -----
    The ratio is 10 log10(P_x / P_n). P is the sum, over the eight independent leads and the
    record's valid samples, of the squared deviation from the lead's own mean over these samples.
    The noise is free of an offset. A record without power (a flat line) gets no noise.

    A record's noise depends on the generator, the size of the batch, the record's place in it
    and its valid length; not on its padding or on the other records. Noise beyond the model's
    pass band is a test of that model only where its preprocessing lets it through: to test the
    whole chain, add the noise to the raw record and then preprocess.
    """
    lengths = valid_lengths(x, mask)
    check_kind(kind, fs_hz)
    snr_db = torch.as_tensor(snr_db, dtype=x.dtype, device=x.device)
    if snr_db.shape not in ((), (len(x),)) or not snr_db.isfinite().all():
        raise ValueError(
            f"snr_db of shape {tuple(snr_db.shape)} or not finite found, a finite number or "
            f"{len(x)} of them wanted"
        )
    if isinstance(kind, RecordedNoise):
        electrodes = _recorded(kind, lengths, x.shape[1], _streams(1, x.device, generator))
    else:
        streams = _streams(4, x.device, generator)
        electrodes = _MODELS[kind](lengths, x.shape[1], float(fs_hz), streams)
    valid = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    with torch.no_grad():
        noise = _centered(electrodes.to(x.dtype), valid, lengths) @ _on(_TO_12, x)
        power = _centered(x, valid, lengths)[..., _INDEPENDENT].square().sum((1, 2))
        noise_power = noise[..., _INDEPENDENT].square().sum((1, 2)) * 10 ** (snr_db / 10)
        gain = torch.where(noise_power > 0, power / noise_power, 0).sqrt()
    return x + gain[:, None, None] * noise


def _on(array: np.ndarray, like: Tensor) -> Tensor:
    return torch.as_tensor(array, dtype=like.dtype, device=like.device)


def _centered(x: Tensor, valid: Tensor, lengths: Tensor) -> Tensor:
    """Deviation of ``x (batch, samples, channels)`` from its mean; 0 in padding, whatever it is."""
    padding = ~valid[..., None]
    x = x.masked_fill(padding, 0)
    mean = x.sum(1, keepdim=True) / lengths.clamp(min=1)[:, None, None]
    return (x - mean).masked_fill(padding, 0)


def _streams(n: int, device, generator) -> list[torch.Generator]:
    """Branch off sources of chance: however much is drawn from one, no other notices."""
    home = "cpu" if generator is None else generator.device
    seeds = torch.randint(2**62, (n,), generator=generator, device=home).tolist()
    return [torch.Generator(device).manual_seed(seed) for seed in seeds]


def _draw(distribution, stream: torch.Generator, batch: int, count: int, width: int) -> Tensor:
    """Draw (batch, count, width) numbers; the first are the same, however many follow."""
    shape = (batch, _BLOCK, width)
    blocks = [
        distribution(shape, generator=stream, device=stream.device)
        for _ in range(-(-count // _BLOCK))
    ]
    return torch.cat(blocks, 1)[:, :count]


# Each model returns (batch, samples, electrodes), float32, of any size: `add_noise` scales it.


def _baseline_wander(lengths, samples, fs_hz, streams) -> Tensor:
    """Breath and a slow walk, as in `ecgbook.signals`: a smooth curve through knots."""
    batch, n = len(lengths), len(ELECTRODES)
    step = max(1, round(KNOT_S * fs_hz))
    pieces = -(-samples // step)
    count = pieces + 3
    first, second = _draw(torch.randn, streams[0], batch, count, 2 * n).split(n, -1)
    at = torch.arange(count, device=first.device)
    since = at[:, None] - at
    memory = torch.where(since >= 0, WALK_MEMORY ** since.clamp(min=0), 0.0)
    walk = WALK_MV * (memory @ first + second)
    own = _draw(torch.randn, streams[1], batch, 3, n)  # how electrodes differ
    common = _draw(torch.rand, streams[2], batch, 1, 2)
    breath_hz, phase = 0.15 + 0.25 * common[..., :1], 2 * math.pi * common[..., 1:]
    angle = 2 * math.pi * breath_hz * at[:, None] * (step / fs_hz) + phase + 0.4 * own[:, :1]
    breath = BREATH_MV * torch.exp(0.5 * own[:, 1:2]) * torch.sin(angle)
    knots = torch.exp(0.35 * own[:, 2:]) * (walk + breath)
    curve = knots.unfold(1, 4, 1) @ _on(curve_weights(step), knots)
    return curve.transpose(2, 3).reshape(batch, pieces * step, n)[:, :samples]


def _muscle(lengths, samples, fs_hz, streams) -> Tensor:
    """White noise through the filter of `ecgbook.signals`, swelling and ebbing by the second."""
    batch, n = len(lengths), len(ELECTRODES)
    taps = math.ceil(_RESPONSE_S * fs_hz)
    response = signal.lfilter(*muscle_filter(fs_hz), np.eye(1, taps)[0])
    white = _draw(torch.randn, streams[0], batch, samples + taps - 1, n)
    length = next_fast_len(white.shape[1], real=True)  # what wraps around falls into the lead-in
    gain = torch.fft.rfft(_on(response, white), length)[:, None]
    noise = torch.fft.irfft(torch.fft.rfft(white, length, dim=1) * gain, length, dim=1)
    noise = noise[:, taps - 1 : taps - 1 + samples]
    time_s = torch.arange(samples, device=white.device) / fs_hz
    before = time_s.long()
    knots = torch.exp(0.3 * _draw(torch.randn, streams[1], batch, int(samples / fs_hz) + 2, 1))
    swell = torch.lerp(knots[:, before], knots[:, before + 1], (time_s - before)[:, None])
    own = torch.exp(0.35 * _draw(torch.randn, streams[2], batch, 1, n))
    return noise * swell * own


def _electrode_motion(lengths, samples, fs_hz, streams) -> Tensor:
    """Knocks as in `ecgbook.signals`, one in every 2.5 s: a jump that decays, with a tremble."""
    batch, n = len(lengths), len(ELECTRODES)
    electrodes = torch.zeros(batch, samples, n, device=lengths.device)
    slots = math.ceil(samples / fs_hz / _SLOT_S)
    chance = _draw(torch.rand, streams[0], batch, slots, 6)[..., None]
    size = torch.exp(0.5 * _draw(torch.randn, streams[1], batch, slots, 1))
    time_s = torch.arange(samples, device=lengths.device) / fs_hz
    first_s = (lengths / fs_hz / 2).clamp(max=_SLOT_S)[:, None]  # no record without a knock
    for k in range(slots):
        where, lasts, hz, phase, sign, electrode = chance[:, k].unbind(1)
        start = k * _SLOT_S + where * (_SLOT_S if k else first_s)
        shown = slice(int(k * _SLOT_S * fs_hz), int(((k + 1) * _SLOT_S + _KNOCK_S) * fs_hz))
        since = (time_s[shown] - start).clamp(min=0)  # (batch, samples shown)
        knock = torch.exp(-since / (0.2 + 0.8 * lasts)) * (1 - torch.exp(-since / 0.05))
        tremble = 1 + 0.5 * torch.sin(2 * math.pi * ((1.5 + 3.5 * hz) * since + phase))
        knock = knock * tremble * size[:, k] * torch.where(sign < 0.5, -1, 1)
        struck = F.one_hot((electrode * n).long().clamp(max=n - 1), n)
        electrodes[:, shown] += knock[..., None] * struck
    return electrodes


def _mains(lengths, samples, fs_hz, streams) -> Tensor:
    """50 or 60 Hz, unlike on every electrode."""
    batch, n = len(lengths), len(ELECTRODES)
    possible = np.array(mains_hz(fs_hz))
    cycles = possible[:, None] * np.arange(samples) / fs_hz
    waves = np.stack([np.sin(2 * np.pi * cycles), np.cos(2 * np.pi * cycles)], -1)
    chance = _draw(torch.rand, streams[0], batch, n + 1, 2)
    drawn, turn = (chance[:, 0] * chance.new_tensor([len(possible), 2 * math.pi])).unbind(-1)
    size = 0.4 + 1.2 * chance[:, 1:, 0]
    phase = turn[:, None] + 0.3 * _draw(torch.randn, streams[1], batch, n, 1)[..., 0]
    parts = torch.stack([size * torch.cos(phase), size * torch.sin(phase)], 1)
    return _on(waves, parts)[drawn.long().clamp(max=len(possible) - 1)] @ parts


def _recorded(noise: RecordedNoise, lengths, samples, streams) -> Tensor:
    """For every electrode, a stretch of one of the recording's channels."""
    source = torch.as_tensor(noise.signal_mv, device=lengths.device)
    longest = int(lengths.max()) if len(lengths) else 0
    if longest > len(source):
        raise ValueError(
            f"{noise.name} of {len(source) / noise.fs_hz:.1f} s found, at least the "
            f"{longest / noise.fs_hz:.1f} s of the longest record wanted"
        )
    place, channel = _draw(torch.rand, streams[0], len(lengths), len(ELECTRODES), 2).unbind(-1)
    room = (len(source) - lengths.cpu() + 1)[:, None]
    start = torch.minimum((place.cpu().double() * room).long(), room - 1).to(lengths.device)
    channel = (channel * source.shape[1]).long().clamp(max=source.shape[1] - 1)
    at = start[:, None] + torch.arange(samples, device=lengths.device)[:, None]
    return source[at.clamp(max=len(source) - 1), channel[:, None]]


_MODELS = dict(
    zip(NOISE_KINDS, (_baseline_wander, _muscle, _electrode_motion, _mains), strict=True)
)
