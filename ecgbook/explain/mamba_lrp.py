"""MambaLRP: which samples of which leads a model's logit came from.

Relevance is exact in this sense: that of all samples and that of the model's biases sum to the
logit. It says what the model used, which need not be what a cardiologist would use. A method for
teaching, not for diagnosis.

The rules are in `ecgbook.explain`, with their sources.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from numbers import Integral

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import check_batch, check_finite
from ..labels import RHYTHMS
from ..leads import LEADS
from ..models import ConvStem, TokenClassifier
from ..records import Record
from ..training import Bundle
from .rules import MAMBA_LRP, OtherFunction, Rule, lock_of, lrp, swap

_ALLOWED = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.05}
"""By dtype, what rounding may do to a logit, and to the sum of relevance, of what is summed."""

Target = int | str | tuple[int | str, int | str] | Tensor | Sequence[int]


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where one logit of one record came from; all relevance is in units of the logit.

    Attributes
    ----------
    target : str
        What was explained: a rhythm, or the margin between two.
    logit : float
        Its value; the difference of two logits for a margin.
    relevance : ndarray, shape (samples, 12)
        Share of each sample in the logit; positive speaks for the target. Zero at padding.
    bias : float
        Share of the biases of the model: ``relevance.sum() + bias`` is the logit.
    error : float
        How far these sums miss the logit, over the sum of all absolute relevance.
    signal_mv : ndarray, shape (samples, 12)
        What the model saw, in mV.
    mask : ndarray, shape (samples,), bool
        True where that is signal.
    fs_hz : float or None
        Its sampling rate, if known.
    start_s : float
        Time of the first sample in the record it was cut from.
    leads : tuple of str
        The names of the columns.
    """

    target: str
    logit: float
    relevance: np.ndarray = field(repr=False)
    bias: float
    error: float
    signal_mv: np.ndarray = field(repr=False)
    mask: np.ndarray = field(repr=False)
    fs_hz: float | None = None
    start_s: float = 0.0
    leads: tuple[str, ...] = LEADS

    @property
    def input_share(self) -> float:
        """Part of the logit that the signal carries; the biases carry the rest."""
        return float(self.relevance.sum() / self.logit) if self.logit else math.nan

    @property
    def kind(self) -> str:
        """``"margin"`` for the difference of two logits, else ``"logit"``."""
        return "margin" if " - " in self.target else "logit"

    def balance(self) -> str:
        """Say in one line what the logit is made of, and how exactly that is known."""
        share = (lambda part: f" ({part / self.logit:.0%})") if self.logit else (lambda part: "")
        signal = self.relevance.sum()
        return (
            f"{self.target}: {self.kind} {self.logit:+.2f} = signal {signal:+.2f}{share(signal)} "
            f"and biases {self.bias:+.2f}{share(self.bias)};  completeness error {self.error:.0e}"
        )

    def per_lead(self) -> np.ndarray:
        """Sum the relevance of each lead: shape (n_leads,), in the order of `leads`."""
        return self.relevance.sum(0)

    def per_beat(self, r_peaks_s: Sequence[float]) -> np.ndarray:
        """Sum the relevance of each beat, which reaches halfway to its neighbors.

        Parameters
        ----------
        r_peaks_s : sequence of float
            Times of the R peaks in s from the start of the record, rising.

        Returns
        -------
        ndarray, shape (beats,)
            The first and the last beat reach to the ends of the window, so that the sum over the
            beats is the sum over the samples. Zero for a beat outside the window.

        Raises
        ------
        ValueError
            If there are no peaks, they do not rise, or the sampling rate is not known.
        """
        peaks_s = np.asarray(r_peaks_s, dtype=float)
        if peaks_s.ndim != 1 or not len(peaks_s) or not (np.diff(peaks_s) > 0).all():
            raise ValueError(f"r_peaks_s={r_peaks_s!r} found, one or more rising times in s wanted")
        if self.fs_hz is None:
            raise ValueError("fs_hz=None found; give explain(..., fs_hz=...) the sampling rate")
        times_s = self.start_s + np.arange(len(self.relevance)) / self.fs_hz
        beat = np.searchsorted((peaks_s[1:] + peaks_s[:-1]) / 2, times_s, side="right")
        return np.bincount(beat, self.relevance.sum(1), minlength=len(peaks_s))

    def plot(
        self,
        r_peaks_s: Sequence[float] | None = None,
        start_s: float | None = None,
        limit: float | None = None,
        title: str | None = None,
    ):
        """Draw the relevance on ECG paper: `ecgbook.explain.explanation_page`."""
        from .page import explanation_page  # matplotlib loads with the first figure

        return explanation_page(self, r_peaks_s, start_s, limit, title)


class CompletenessWarning(UserWarning):
    """Relevance and biases do not sum to the logit: a step has no rule, or a rule loses some."""


class MambaLRP:
    """Explain the logits of a model of the book, exactly and at the price of one gradient.

    Parameters
    ----------
    model : torch.nn.Module or Bundle
        In evaluation mode; never changed. A bundle also prepares records, and knows the names of
        its classes and leads.
    rules : mapping of type to Rule
        See `ecgbook.explain.MAMBA_LRP`, from which rules can be taken or replaced.
    flat_input : bool
        Share the relevance of each output of the first convolutions equally among all samples it
        sees, zero or not. Without it, a sample at 0 mV has no relevance, so that nothing can
        light up where a wave is absent.

    Examples
    --------
    >>> bundle = ecgbook.load("tutorial")
    >>> result = MambaLRP(bundle).explain(record, target="PVC")
    >>> result.relevance.sum() + result.bias - result.logit
    """

    def __init__(
        self,
        model: nn.Module | Bundle,
        rules: Mapping[type, Rule] = MAMBA_LRP,
        flat_input: bool = False,
    ):
        self.bundle = model if isinstance(model, Bundle) else None
        self.model = model.model if isinstance(model, Bundle) else model
        self.rules, self.flat_input = rules, flat_input
        self.names, self.leads = (), None
        if self.bundle is not None:
            self.names, self.leads = self.bundle.classes, self.bundle.leads
        elif isinstance(self.model, TokenClassifier):
            self.names, self.leads = RHYTHMS, self.model.leads  # the names are for five logits

    def attribute(self, inputs: Tensor, target: Target, mask: Tensor | None = None) -> Tensor:
        """Compute the relevance of every sample of a batch; the call is that of captum.

        Parameters
        ----------
        inputs : Tensor, shape (batch, length, leads), float
            Signals in mV, in the lead order of the model.
        target : int, str, (int or str, int or str), or Tensor of shape (batch,)
            Which logit: its number, the name of its class, the first minus the second of a pair,
            or a number for each record.
        mask : Tensor, shape (batch, length), bool, optional
            True where there is signal; everywhere, if omitted.

        Returns
        -------
        Tensor, shape (batch, length, leads)
            In the dtype of `inputs`; zero outside the mask.

        Raises
        ------
        MissingRule, OtherFunction, ValueError
            As `ecgbook.explain.lrp` does; if the logits under the rules are not those without; if
            the input is not finite where the mask says signal; or if the target is none of these.
        """
        return self._propagate(inputs, target, mask)[0]

    def attribute_tokens(
        self, inputs: Tensor, target: Target, mask: Tensor | None = None
    ) -> Tensor:
        """Compute the relevance of every token in front of the model's blocks.

        Coarser than samples, and free of what the rules for convolutions choose.

        Parameters
        ----------
        inputs, target, mask
            As for `attribute`, and so are the errors.

        Returns
        -------
        Tensor, shape (batch, tokens)
            Summed over the channels of each token. The biases behind the tokens carry the rest of
            the logit.
        """
        with _cut_at(self.model.get_submodule("blocks.0")) as tokens:
            return self._propagate(inputs, target, mask, tokens)[0].sum(-1)

    def explain(
        self,
        record: Record | Tensor | np.ndarray,
        target: int | str | tuple[int | str, int | str],
        mask: Tensor | np.ndarray | None = None,
        fs_hz: float | None = None,
    ) -> Explanation:
        """Explain one logit of one record.

        Parameters
        ----------
        record : Record, Tensor or ndarray
            A record, which the bundle prepares; or a prepared signal in mV of shape
            (samples, 12) or (1, samples, 12).
        target : int, str, or (int or str, int or str)
            As for `attribute`.
        mask : Tensor or ndarray, shape (samples,) or (1, samples), bool, optional
            True where a prepared signal is signal; everywhere, if omitted.
        fs_hz : float, optional
            Sampling rate of a prepared signal; by default that of the bundle.

        Returns
        -------
        Explanation

        Raises
        ------
        MissingRule, ValueError
            As for `attribute`, or if the record cannot be prepared.
        """
        x, mask, fs_hz, start_s = self._prepared(record, mask, fs_hz)
        relevance, biases, logit = self._propagate(x, target, mask)
        parts = _exact(relevance, biases)
        error = (parts.sum() - _exact(logit).sum()).abs() / parts.abs().sum()
        mask = torch.ones(x.shape[:2]) if mask is None else mask
        return Explanation(
            target=_name(target, self.names),
            logit=float(logit),
            relevance=relevance[0].cpu().numpy(),
            bias=float(_exact(biases).sum()),
            error=float(error),
            signal_mv=x[0].cpu().numpy(),
            mask=mask[0].cpu().numpy() != 0,
            fs_hz=fs_hz,
            start_s=start_s,
            leads=self.leads or tuple(f"lead {i}" for i in range(x.shape[2])),
        )

    def _propagate(self, inputs, target, mask, leaves=None):
        """Return the relevance of the inputs, or leaves; that of each bias; and the logits."""
        if self.leads is not None:
            check_batch(inputs, mask, len(self.leads))
        if inputs.ndim == 3:
            check_finite(inputs, mask)
        args = () if mask is None else (mask,)
        with ExitStack() as stack:
            stack.enter_context(lock_of(self.model))
            with torch.no_grad():
                plain = _select(self.model(inputs.detach(), *args), target, self.names)
            stack.enter_context(torch.enable_grad())
            additive = stack.enter_context(lrp(self.model, self.rules))
            x = inputs.detach()
            if self.flat_input and leaves is None:
                stack.enter_context(_flat(self.model, x, args))
                x = torch.ones_like(x)
            x.requires_grad_()
            explained = _select(self.model(x, *args), target, self.names)
            _check_same(plain, explained.detach())
            leaf = x if leaves is None else leaves[-1]  # the first are of the plain run
            grads = torch.autograd.grad(explained.sum(), [leaf, *additive], allow_unused=True)
            relevance, *biases = (
                torch.zeros_like(v) if grad is None else v.detach() * grad
                for v, grad in zip([leaf, *additive], grads, strict=True)
            )
        if mask is not None and leaves is None:  # padding may be NaN
            relevance = relevance.masked_fill(mask[..., None] == 0, 0)
        biases = torch.cat([x.new_zeros(0), *(b.flatten() for b in biases)])
        if leaves is None and not getattr(self.rules, "lossy", False):
            _warn_of_losses(relevance, biases, explained.detach())
        return relevance, biases, explained.detach()

    def _prepared(self, record, mask, fs_hz):
        start_s = 0.0
        like = next(self.model.parameters())
        if hasattr(record, "signal_mv"):
            if self.bundle is None:
                raise ValueError(
                    "a record and a bare model found, a bundle wanted, which knows how to prepare "
                    "the record: MambaLRP(ecgbook.load(...))"
                )
            if mask is not None or fs_hz is not None:
                raise ValueError("mask or fs_hz found beside a record, neither wanted")
            start_s, _ = self.bundle.window_s(record)
            record, mask = self.bundle.prepare(record)
        if self.bundle is not None and fs_hz is None:
            fs_hz = self.bundle.preprocessing.fs_hz
        x = torch.as_tensor(record).to(like)
        if x.ndim == 2:
            x = x[None]
        if x.ndim != 3 or len(x) != 1:
            raise ValueError(
                f"a signal of shape {tuple(x.shape)} found, (samples, leads) of one record wanted"
            )
        if self.bundle is not None and x.shape[1] > self.bundle.preprocessing.n_samples:
            raise ValueError(
                f"a signal of {x.shape[1]} samples found, at most "
                f"{self.bundle.preprocessing.n_samples} at {fs_hz:g} Hz wanted, as the bundle "
                "prepares them; give it the Record instead"
            )
        if mask is not None:
            mask = torch.as_tensor(mask, device=like.device).reshape(1, -1)
        return x, mask, fs_hz, start_s


def _number(target: int | str, n_classes: int, names: Sequence[str]) -> int:
    known = names if len(names) == n_classes else ()  # of another task, classes have no names
    number = known.index(target) if target in known else target
    if isinstance(number, bool | str) or not 0 <= number < n_classes:
        raise ValueError(f"target {target!r} found, {_wanted(n_classes, known)} wanted")
    return int(number)


def _wanted(n_classes: int, known: Sequence[str]) -> str:
    return f"{'one of ' + ', '.join(known) + ' or ' if known else ''}0 to {n_classes - 1}"


def _select(logits: Tensor, target: Target, names: Sequence[str]) -> Tensor:
    """Return what is explained of each record: shape (batch,)."""
    if isinstance(target, tuple) and len(target) == 2:
        first, second = target
        return _select(logits, first, names) - _select(logits, second, names)
    if isinstance(target, Integral | str):
        return logits[:, _number(target, logits.shape[1], names)]
    try:
        numbers = torch.as_tensor(target, device=logits.device)
    except (TypeError, ValueError, RuntimeError):
        numbers = torch.empty(0)
    whole = not numbers.is_floating_point() and numbers.dtype != torch.bool
    if not whole or numbers.shape not in ((), logits.shape[:1]):
        raise ValueError(
            f"target {target!r} found, {_wanted(logits.shape[1], names)}, a pair of these, or "
            f"{len(logits)} numbers, one for each record, wanted"
        )
    if ((numbers < 0) | (numbers >= logits.shape[1])).any():
        raise ValueError(f"target {target!r} found, numbers from 0 to {logits.shape[1] - 1} wanted")
    return logits.gather(1, numbers.long().expand(len(logits))[:, None])[:, 0]


def _name(target: int | str | tuple, names: Sequence[str]) -> str:
    if isinstance(target, tuple):
        return " - ".join(_name(each, names) for each in target)
    if isinstance(target, str):
        return target
    return names[target] if target < len(names) else f"class {target}"


def _check_same(plain: Tensor, under_rules: Tensor) -> None:
    """Refuse to explain a model that is another function under the rules."""
    apart = (plain - under_rules).abs()
    allowed = _ALLOWED[plain.dtype] * (1 + plain.abs())
    if (apart > allowed).any() or (apart.isnan() & ~plain.isnan()).any():
        row = int((apart - allowed).argmax())
        raise OtherFunction(
            f"record {row}: logit {plain[row]:.6g} found without the rules, {under_rules[row]:.6g} "
            "under them, the same wanted; a rule changes values, or a batch normalization that "
            "stands behind a convolution in the model does not run behind it"
        )


def _exact(*values: Tensor) -> Tensor:
    """Join values in float64, on the CPU: Apple's devices have none."""
    return torch.cat([v.detach().flatten().cpu().double() for v in values])


def _warn_of_losses(relevance: Tensor, biases: Tensor, logits: Tensor) -> None:
    """Say so where relevance and biases miss the logits by more than rounding does."""
    parts = _exact(relevance, biases)
    error = float((parts.sum() - _exact(logits).sum()).abs() / parts.abs().sum().clamp(min=1e-30))
    if error > _ALLOWED[logits.dtype]:
        warnings.warn(
            f"relevance and biases miss the logits by {error:.0e} of all relevance, "
            f"{_ALLOWED[logits.dtype]:.0e} or less wanted: the model has a step without a rule, "
            "such as a function of torch.nn.functional (make it a module, which a rule can name), "
            "or a rule that loses relevance",
            CompletenessWarning,
            stacklevel=4,
        )


@contextmanager
def _cut_at(block: nn.Module) -> Iterator[list[Tensor]]:
    """Make leaves of the tokens that enter a block: the list holds them after a forward pass."""
    leaves = []

    def cut(_, args):
        leaves.append(args[0].detach().requires_grad_())
        return leaves[-1], *args[1:]

    handle = block.register_forward_pre_hook(cut)
    try:
        yield leaves
    finally:
        handle.remove()


@contextmanager
def _flat(model: nn.Module, x: Tensor, args: tuple) -> Iterator[None]:
    """Let the first convolutions give what they give for `x`, and take the ones that are fed now.

    They spread relevance over the ones: each has that of the sample in its place.
    """
    first = [module.conv1 for module in model.modules() if isinstance(module, ConvStem)]
    if not first:
        raise ValueError("flat_input=True and no ConvStem in the model found, one or more wanted")
    with ExitStack() as stack:
        seen = {}
        with torch.no_grad(), ExitStack() as hooks:
            for conv in first:
                keep = conv.register_forward_hook(lambda conv, _, z: seen.update({conv: z}))
                hooks.callback(keep.remove)
            model(x, *args)
        for conv in first:
            swap(stack, conv, partial(_spread, conv, seen[conv]))
        yield


def _spread(conv: nn.Conv1d, z: Tensor, ones: Tensor) -> Tensor:
    """Return z, as if each sample in its window had the same share in it."""
    same = torch.ones_like(conv.weight[:1])
    count = F.conv1d(ones, same, None, conv.stride, conv.padding, conv.dilation)
    n = count.detach()
    return z * (1 + (count - n) / n.where(n > 0, 1))
