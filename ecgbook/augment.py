"""Random changes of a training batch: removed bands, noise, masked leads, mixed records.

A transform is a frozen dataclass of plain values, so that a recipe can hold a tuple of them and
be stored as JSON: `dataclasses.asdict` writes one, its own name included. `apply` runs them over a
batch in their order.

Examples
--------
>>> import torch
>>> transforms = (Noise(fs_hz=125), FrequencyMask(fs_hz=125), LeadMask(p=0.1))
>>> batch = {"x": torch.randn(4, 1250, 12), "mask": torch.ones(4, 1250, dtype=torch.bool)}
>>> apply(transforms, batch, torch.Generator().manual_seed(0))["x"].shape
torch.Size([4, 1250, 12])
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

import torch
from scipy.special import betaincinv
from torch import Tensor

from .checks import check_fields, from_fields, valid_lengths, without_numpy
from .leads import LEAD_GROUPS, LEADS
from .signals import NOISE_KINDS, add_noise, check_kind, without_bands


def _rand(shape: Sequence[int], device: torch.device, generator) -> Tensor:
    home = device if generator is None else generator.device
    return torch.rand(shape, generator=generator, device=home).to(device)


def _check(transform, **checks: tuple[bool, str]) -> None:
    check_fields(transform, checks, owner=transform.transform)


def _tuples(transform, *names: str) -> None:
    """Turn lists, as JSON returns them, into tuples; a list would equal no tuple."""
    for name in names:
        value = getattr(transform, name)
        if not isinstance(value, list | tuple):
            raise ValueError(f"{transform.transform}: {name}={value!r} found, a tuple wanted")
        object.__setattr__(transform, name, tuple(value))
    without_numpy(transform)


@dataclass(frozen=True)
class FrequencyMask:
    """Remove random bands of frequencies, the same from all leads of a record.

    One mask for all leads is a linear filter, the same for each: Einthoven's law survives it.

    Parameters
    ----------
    fs_hz : float
        Sampling rate of the signals in Hz.
    n_bands : int
        Bands of a masked record; they may overlap.
    width_hz : (float, float)
        Least and greatest width of a band in Hz, drawn uniformly.
    range_hz : (float, float)
        Lowest and highest frequency of a band in Hz; its place between them is drawn uniformly.
    p : float
        Probability of a record to be masked.

    Raises
    ------
    ValueError
        If a value is out of its range.

    Notes
    -----
    Source: D. S. Park et al. (2019), arXiv:1904.08779, masks bands of a spectrogram of speech;
    here they are masked in the Fourier transform of the whole record, as
    `ecgbook.signals.remove_band` says.
    """

    fs_hz: float
    n_bands: int = 1
    width_hz: tuple[float, float] = (1.0, 6.0)
    range_hz: tuple[float, float] = (0.5, 40.0)
    p: float = 0.5
    transform: str = field(default="FrequencyMask", init=False)

    def __post_init__(self):
        without_numpy(self)
        _tuples(self, "width_hz", "range_hz")
        _check(self, fs_hz=(self.fs_hz > 0, "a positive rate in Hz"))
        low, high = self.range_hz
        _check(
            self,
            n_bands=(
                isinstance(self.n_bands, int) and self.n_bands >= 1,
                "a whole number of 1 or more",
            ),
            range_hz=(
                0 <= low < high <= self.fs_hz / 2,
                f"0 <= low < high <= {self.fs_hz / 2:g} Hz",
            ),
            width_hz=(
                0 < self.width_hz[0] <= self.width_hz[1] <= high - low,
                f"0 < least <= greatest <= {high - low:g} Hz, the range's width,",
            ),
            p=(0 <= self.p <= 1, "0 to 1"),
        )

    def __call__(
        self, x: Tensor, mask: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Mask a batch.

        Parameters
        ----------
        x : Tensor, shape (batch, samples, leads), float32 or float64
            Signals in mV.
        mask : Tensor, shape (batch, samples), bool, optional
            True where there is signal; everywhere, if omitted.
        generator : torch.Generator, optional
            Source of chance; torch's own, if omitted.

        Returns
        -------
        Tensor, shape (batch, samples, leads)
        """
        lengths = valid_lengths(x, mask, leads=None)
        chance = _rand((len(x), 1 + 2 * self.n_bands), x.device, generator)
        least, greatest = self.width_hz
        low, high = self.range_hz
        width = least + (greatest - least) * chance[:, 1 : 1 + self.n_bands]
        start = low + (high - low - width) * chance[:, 1 + self.n_bands :]
        bands = torch.stack([start, start + width], -1)
        bands = bands * (chance[:, 0] < self.p)[:, None, None]
        return without_bands(x, bands, self.fs_hz, lengths)


@dataclass(frozen=True)
class Noise:
    """Add noise of a random kind at a random signal-to-noise ratio.

    Parameters
    ----------
    fs_hz : float
        Sampling rate of the signals in Hz.
    kinds : tuple of str
        Kinds of `ecgbook.signals.NOISE_KINDS`, drawn with equal chances. Recorded noise is no
        plain value; give it to `ecgbook.signals.add_noise` for a test on noise that no training
        has seen.
    snr_db : (float, float)
        Lowest and highest ratio in dB, drawn uniformly; `ecgbook.signals.add_noise` defines it.
    p : float
        Probability of a record to get noise.

    Raises
    ------
    ValueError
        If a value is out of its range, or the rate too low for a kind.
    """

    fs_hz: float
    kinds: tuple[str, ...] = NOISE_KINDS
    snr_db: tuple[float, float] = (0.0, 24.0)
    p: float = 0.5
    transform: str = field(default="Noise", init=False)

    def __post_init__(self):
        without_numpy(self)
        _tuples(self, "kinds", "snr_db")
        low, high = self.snr_db
        _check(
            self,
            fs_hz=(self.fs_hz > 0, "a positive rate in Hz"),
            kinds=(len(self.kinds) > 0, "at least one kind"),
            snr_db=(-200 <= low <= high <= 200, "-200 <= lowest <= highest <= 200 dB"),
            p=(0 <= self.p <= 1, "0 to 1"),
        )
        for kind in self.kinds:
            if not isinstance(kind, str):
                raise ValueError(
                    f"Noise: kind={kind!r} found, one of {', '.join(NOISE_KINDS)} wanted"
                )
            check_kind(kind, self.fs_hz)

    def __call__(
        self, x: Tensor, mask: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Add noise to a batch of 12 leads; arguments and result as those of `FrequencyMask`."""
        valid_lengths(x, mask)
        chance = _rand((len(x), 3), x.device, generator)
        kinds = (chance[:, 1] * len(self.kinds)).long().clamp(max=len(self.kinds) - 1)
        low, high = self.snr_db
        snr_db = low + (high - low) * chance[:, 2]
        out = x.clone()
        for number, kind in enumerate(self.kinds):
            rows = ((chance[:, 0] < self.p) & (kinds == number)).nonzero()[:, 0]
            if len(rows):
                part = None if mask is None else mask[rows]
                out[rows] = add_noise(x[rows], kind, snr_db[rows], self.fs_hz, part, generator)
        return out


@dataclass(frozen=True)
class LeadMask:
    """Set random leads, or whole groups of leads, to 0 mV, as if they were not connected.

    A record never loses everything: where every lead is drawn, a random one is kept. A masked
    limb lead is not what the other two say, so Einthoven's law does not hold in the result.

    Parameters
    ----------
    p : float
        Probability of every lead, or group, of a record to be masked.
    whole_groups : bool
        Mask the groups of `ecgbook.leads.LEAD_GROUPS` as a whole, rather than single leads.

    Raises
    ------
    ValueError
        If `p` is out of its range.

    Notes
    -----
    Source: J. Oh et al. (2022), arXiv:2203.06889, random lead masking.
    """

    p: float = 0.1
    whole_groups: bool = False
    transform: str = field(default="LeadMask", init=False)

    def __post_init__(self):
        without_numpy(self)
        _check(
            self,
            p=(0 <= self.p <= 1, "0 to 1"),
            whole_groups=(isinstance(self.whole_groups, bool), "True or False"),
        )

    def __call__(
        self, x: Tensor, mask: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Mask leads of a batch; arguments and result as those of `FrequencyMask`."""
        valid_lengths(x, mask, leads=len(LEADS) if self.whole_groups else None)
        part_of = list(range(x.shape[-1]))
        if self.whole_groups:
            part_of = [lead for lead, group in enumerate(LEAD_GROUPS) for _ in LEAD_GROUPS[group]]
        parts = range(max(part_of) + 1)
        chance = _rand((len(x), len(parts) + 1), x.device, generator)
        kept = chance[:, :-1] >= self.p
        last = (chance[:, -1] * len(parts)).long().clamp(max=len(parts) - 1)
        kept |= ~kept.any(1, keepdim=True) & (
            torch.arange(len(parts), device=x.device) == last[:, None]
        )
        return x * kept[:, None, part_of]


@dataclass(frozen=True)
class Mixup:
    """Mix random records of a batch with others, their signals and their labels alike.

    A record becomes ``weight * record + (1 - weight) * partner``, with a weight of its own from
    the distribution Beta(alpha, alpha) and a partner from the same batch, perhaps itself. So do
    its labels, as probabilities. A mixed label is trusted where both of its parts are.

    The valid samples of a mixed record are those of either part. The sum is silent where both
    are; to cut it at the shorter one's end would leave labels whose evidence, say an ectopic
    beat, was cut off.

    Parameters
    ----------
    alpha : float
        Above 0. Small values keep one of the two records in front; 1 draws weights uniformly.
    shares : tuple of float
        Share of the records that is mixed, epoch by epoch; the last counts from then on.
        ``(1.0,)`` is plain mixup.

    Raises
    ------
    ValueError
        If a value is out of its range.

    Notes
    -----
    Source: H. Zhang et al. (2018), arXiv:1710.09412. Unequal shares are the Non-Uniform-Mix of
    H. Jiang et al. (2025), ECG-Mamba, doi:10.1109/JTEHM.2025.3613609. Its abstract says that
    mixup is applied to a portion of the data set in different epochs; the portions could not be
    read in the paper itself. Two later surveys give a rise from 0.2 to 0.8 and disagree on the
    epochs: ``shares=(0.2, 0.4, 0.6, 0.8)`` is the version of one of them.
    """

    alpha: float = 0.2
    shares: tuple[float, ...] = (1.0,)
    transform: str = field(default="Mixup", init=False)

    def __post_init__(self):
        without_numpy(self)
        _tuples(self, "shares")
        right = len(self.shares) > 0 and all(0 <= share <= 1 for share in self.shares)
        _check(
            self,
            alpha=(0 < self.alpha < float("inf"), "a finite number above 0"),
            shares=(right, "one or more numbers from 0 to 1"),
        )

    def __call__(
        self, batch: Mapping[str, Tensor], generator: torch.Generator | None = None, epoch: int = 0
    ) -> dict[str, Tensor]:
        """Mix the records of a batch.

        Parameters
        ----------
        batch : dict of str to Tensor
            ``x (batch, samples, leads)`` in mV, ``mask (batch, samples)`` bool, ``y (batch,
            n_classes)`` float and ``y_mask (batch, n_classes)`` bool, as
            `ecgbook.data.ECGDataset.batch` returns it.
        generator : torch.Generator, optional
            Source of chance; torch's own, if omitted.
        epoch : int
            Counted from 0; chooses the share.

        Returns
        -------
        dict of str to Tensor
            The same names and shapes. What `mask` leaves out of a part is not mixed in.
        """
        if missing := [name for name in ("x", "mask", "y", "y_mask") if name not in batch]:
            raise ValueError(f"a batch without {missing[0]!r} found, x, mask, y and y_mask wanted")
        if epoch < 0:
            raise ValueError(f"epoch={epoch!r} found, 0 or more wanted")
        x, mask, y, y_mask = (batch[name] for name in ("x", "mask", "y", "y_mask"))
        valid_lengths(x, mask, leads=None)
        share = self.shares[min(epoch, len(self.shares) - 1)]
        chance = _rand((len(x), 3), x.device, generator)
        partner = chance[:, 2].argsort()
        drawn = betaincinv(self.alpha, self.alpha, chance[:, 1].cpu().double().numpy())
        mixed = chance[:, 0] < share
        weight = torch.where(mixed, torch.from_numpy(drawn).to(x), 1.0)[:, None]
        clean = x.masked_fill(~mask[..., None], 0)  # also where padding is NaN
        return {
            **batch,
            "x": weight[..., None] * clean + (1 - weight[..., None]) * clean[partner],
            "mask": mask | (mask[partner] & mixed[:, None]),
            "y": (weight * y + (1 - weight) * y[partner]).to(y.dtype),
            "y_mask": y_mask & (y_mask[partner] | ~mixed[:, None]),
        }


Transform = FrequencyMask | Noise | LeadMask | Mixup


def from_dict(fields: Mapping) -> Transform:
    """Make a transform from what `dataclasses.asdict` wrote.

    Parameters
    ----------
    fields : dict
        The values of a transform; ``transform`` is the name of its class.

    Returns
    -------
    FrequencyMask, Noise, LeadMask or Mixup

    Raises
    ------
    ValueError
        If there is no transform of this name, or none with these values.
    """
    known = {kind.__name__: kind for kind in get_args(Transform)}
    values = dict(fields)
    name = values.pop("transform", None)
    if name not in known:
        raise ValueError(f"transform {name!r} found, one of {', '.join(known)} wanted")
    return from_fields(known[name], values)


def apply(
    transforms: Iterable[Transform],
    batch: Mapping[str, Tensor],
    generator: torch.Generator | None = None,
    epoch: int = 0,
) -> dict[str, Tensor]:
    """Run transforms over a batch, in their order.

    Parameters
    ----------
    transforms : iterable of FrequencyMask, Noise, LeadMask or Mixup
    batch : dict of str to Tensor
        With ``x`` and ``mask``; for `Mixup` also ``y`` and ``y_mask``.
    generator : torch.Generator, optional
        Source of chance; torch's own, if omitted.
    epoch : int
        Counted from 0.

    Returns
    -------
    dict of str to Tensor
    """
    batch = dict(batch)
    for transform in transforms:
        if isinstance(transform, Mixup):
            batch = transform(batch, generator, epoch)
        else:
            batch["x"] = transform(batch["x"], batch["mask"], generator)
    return batch
