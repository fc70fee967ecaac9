"""Baselines that explain a prediction: the part that every sample of every lead has in a logit.

All have one call, ``method(model, x, target, mask=None, **options)``, and return relevance that is
shaped like `x`, with 0 in the padding. The model is only read: it keeps its mode, its parameters
and their gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ..checks import check_batch
from ..models import ConvStem, SelfAttention

Model = Callable[[Tensor, "Tensor | None"], Tensor]


def check_arguments(model: Model, x: Tensor, target: int | Tensor, mask: Tensor | None) -> Tensor:
    """Check what every method takes.

    Parameters
    ----------
    model : callable
        A model of the book in evaluation mode, or any ``model(x, mask)`` that returns logits
        (batch, n_classes).
    x : Tensor, shape (batch, length, leads), float
        Signal in mV.
    target : int or Tensor, shape (batch,), integer
        The class to explain, for all records or for each.
    mask : Tensor, shape (batch, length), bool, or None
        True where there is signal; everywhere, if None.

    Returns
    -------
    Tensor, shape (batch,), int64
        The class of every record.

    Raises
    ------
    ValueError
        If the model is in training mode, or a shape or dtype does not match.
    """
    if getattr(model, "training", False):
        raise ValueError("model in training mode found, evaluation mode wanted: call model.eval()")
    check_batch(x, mask, leads=None)
    target = torch.as_tensor(target, device=x.device)
    whole = not target.dtype.is_floating_point and target.dtype != torch.bool
    if not whole or target.shape not in ((), x.shape[:1]):
        raise ValueError(
            f"target of shape {tuple(target.shape)}, {target.dtype} found, "
            f"a whole number or {len(x)} of them wanted: the numbers of the classes"
        )
    return target.long().expand(len(x))


def target_logits(model: Model, x: Tensor, target: int | Tensor, mask: Tensor | None) -> Tensor:
    """Compute the one logit of every record that is to be explained.

    Parameters
    ----------
    model, x, target, mask
        As for `check_arguments`, and so are the errors.

    Returns
    -------
    Tensor, shape (batch,)

    Raises
    ------
    ValueError
        Also if the model has no such class.
    """
    target = check_arguments(model, x, target, mask)
    logits = model(x, mask)
    if target.min() < 0 or target.max() >= logits.shape[1]:
        raise ValueError(f"target {target.tolist()} found, 0 to {logits.shape[1] - 1} wanted")
    return logits.gather(1, target[:, None])[:, 0]


def gradient_times_input(
    model: Model, x: Tensor, target: int | Tensor, mask: Tensor | None = None
) -> Tensor:
    """Multiply every sample by the slope of the logit there; exact for a linear model.

    Parameters
    ----------
    model, x, target, mask
        As for `target_logits`, and so are the errors.

    Returns
    -------
    Tensor, shape (batch, length, leads)
        Relevance in units of the logit.

    Source: Shrikumar et al. (2016), arXiv:1605.01713.
    """
    return _inside(x.detach() * _gradient(model, x, target, mask), mask)


def smooth_grad(
    model: Model,
    x: Tensor,
    target: int | Tensor,
    mask: Tensor | None = None,
    *,
    samples: int = 16,
    sigma_mv: float = 0.1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Average the gradient over noisy copies of the record, then multiply by the record.

    Parameters
    ----------
    model, x, target, mask
        As for `target_logits`, and so are the errors.
    samples : int
        Noisy copies of every record.
    sigma_mv : float
        Standard deviation of the white noise in mV.
    generator : torch.Generator, optional
        Source of chance; PyTorch's own, if omitted.

    Returns
    -------
    Tensor, shape (batch, length, leads)
        Relevance in units of the logit.

    Source: Smilkov et al. (2017), arXiv:1706.03825.
    """
    if samples < 1 or not sigma_mv >= 0:
        raise ValueError(
            f"samples={samples}, sigma_mv={sigma_mv} found, 1 or more samples and 0 mV or more "
            "wanted"
        )
    total = torch.zeros_like(x)
    for _ in range(samples):
        noisy = x.detach() + sigma_mv * _noise(x, generator)
        total += _gradient(model, noisy, target, mask)
    return _inside(x.detach() * total / samples, mask)


def integrated_gradients(
    model: Model,
    x: Tensor,
    target: int | Tensor,
    mask: Tensor | None = None,
    *,
    steps: int = 32,
    batch_size: int = 64,
) -> Tensor:
    """Average the gradient over the straight way from 0 mV to the record, times the record.

    With enough steps the relevance adds up to the logit minus the logit of a flat record.

    Parameters
    ----------
    model, x, target, mask
        As for `target_logits`, and so are the errors.
    steps : int
        Points of the way, at the nodes of Gauss-Legendre quadrature.
    batch_size : int
        Inputs in memory at once, at least one point of every record.

    Returns
    -------
    Tensor, shape (batch, length, leads)
        Relevance in units of the logit.

    Source: Sundararajan et al. (2017), arXiv:1703.01365; computed by Captum.
    """
    from captum.attr import IntegratedGradients  # loads slowly, and with nothing else

    target = check_arguments(model, x, target, mask)
    relevance = IntegratedGradients(partial(target_logits, model)).attribute(
        x.detach().clone().requires_grad_(),
        additional_forward_args=(target, mask),
        n_steps=steps,
        internal_batch_size=max(batch_size, len(x)),
    )
    return _inside(relevance.detach().to(x.dtype), mask)


def occlusion(
    model: Model,
    x: Tensor,
    target: int | Tensor,
    mask: Tensor | None = None,
    *,
    window: int,
    per_lead: bool = False,
    batch_size: int = 64,
) -> Tensor:
    """Set one window after the other to 0 mV and note by how much the logit falls.

    Parameters
    ----------
    model, x, target, mask
        As for `target_logits`, and so are the errors.
    window : int
        Samples of a window; windows do not overlap.
    per_lead : bool
        Whether to cover one lead at a time, or all of them.
    batch_size : int
        Inputs in memory at once, at least one of every record.

    Returns
    -------
    Tensor, shape (batch, length, leads)
        The fall of the logit, the same at all samples that were covered together.

    Source: Zeiler and Fergus (2014), arXiv:1311.2901; computed by Captum.
    """
    from captum.attr import Occlusion

    if not 1 <= window <= x.shape[1]:
        raise ValueError(f"window={window} found, 1 to {x.shape[1]} samples wanted")
    target = check_arguments(model, x, target, mask)
    shape = (window, 1 if per_lead else x.shape[2])
    with torch.no_grad():
        relevance = Occlusion(partial(target_logits, model)).attribute(
            x.detach(),
            sliding_window_shapes=shape,
            strides=shape,
            additional_forward_args=(target, mask),
            perturbations_per_eval=max(1, batch_size // len(x)),
        )
    return _inside(relevance.to(x.dtype), mask)


def grad_cam(
    model: nn.Module, x: Tensor, target: int | Tensor, mask: Tensor | None = None
) -> Tensor:
    """Weight the channels of the stem by their mean slope and keep what speaks for the class.

    Parameters
    ----------
    model, x, target, mask
        As for `target_logits`, and so are the errors; the model has a `ConvStem` called ``stem``.

    Returns
    -------
    Tensor, shape (batch, length, leads)
        0 or more, one value for all leads. Tokens are spread over the samples by straight lines
        between their centers. Lead branches have stems of their own, which it does not see.

    Raises
    ------
    ValueError
        Also if the model has no such stem.

    Source: Selvaraju et al. (2017), arXiv:1610.02391.
    """
    stem, kept = _stem(model), []
    hook = stem.register_forward_hook(lambda module, inputs, output: kept.append(output))
    try:
        with torch.enable_grad():
            # A leaf of its own: there is a gradient also where all parameters are frozen.
            logits = target_logits(model, x.detach().clone().requires_grad_(), target, mask)
            [(tokens, token_mask)] = kept
            [slope] = torch.autograd.grad(logits.sum(), tokens)
    finally:
        hook.remove()
    valid = token_mask[..., None]
    weight = (slope * valid).sum(1) / valid.sum(1).clamp(min=1)
    values = (tokens.detach() * weight[:, None]).sum(-1).relu()
    return _inside(_to_samples(values, token_mask, stem, x), mask)


def attention_rollout(
    model: nn.Module, x: Tensor, target: int | Tensor, mask: Tensor | None = None
) -> Tensor:
    """Follow the attention weights, averaged over heads, from the mean over tokens back to them.

    Each block counts as half attention, half identity (its residual connection). Only the
    attention is followed: what scans and feed-forward layers do is left out, and so is the class.

    Parameters
    ----------
    model, x, target, mask
        As for `target_logits`, and so are the errors. `target` is checked, but changes nothing.

    Returns
    -------
    Tensor, shape (batch, length, leads)
        0 or more, one value for all leads, spread over the samples as in `grad_cam`.

    Raises
    ------
    ValueError
        Also if the model has no `ecgbook.models.SelfAttention`.

    Source: Abnar and Zuidema (2020), arXiv:2005.00928.
    """
    stem, kept = _stem(model), []
    blocks = [module for module in model.modules() if isinstance(module, SelfAttention)]
    if not blocks:
        raise ValueError(
            f"{type(model).__name__} without SelfAttention found, a model with attention wanted, "
            "such as EnhancedECGMamba2(use_attention=True)"
        )

    def keep(attend, inputs):
        q, k, _, token_mask = inputs
        kept.append((attend.weights(q, k, token_mask).mean(1), token_mask))

    hooks = [block.attend.register_forward_pre_hook(keep) for block in blocks]
    try:
        with torch.no_grad():
            target_logits(model, x, target, mask)
    finally:
        for hook in hooks:
            hook.remove()
    weights, token_mask = kept[-1]
    share = token_mask.to(weights.dtype)
    share = share / share.sum(1, keepdim=True).clamp(min=1)  # of each token in the mean
    for weights, _ in reversed(kept):
        share = 0.5 * share + 0.5 * (share[:, None] @ weights)[:, 0]
    return _inside(_to_samples(share, token_mask, stem, x), mask)


def random_relevance(
    model: Model,
    x: Tensor,
    target: int | Tensor,
    mask: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw relevance from a standard normal distribution: what every method has to beat.

    Parameters
    ----------
    model, x, target, mask
        As for `target_logits`, and so are the errors. Only the shape of `x` matters.
    generator : torch.Generator, optional
        Source of chance; PyTorch's own, if omitted.

    Returns
    -------
    Tensor, shape (batch, length, leads)
    """
    check_arguments(model, x, target, mask)
    return _inside(_noise(x, generator), mask)


def _gradient(model, x, target, mask) -> Tensor:
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        [gradient] = torch.autograd.grad(target_logits(model, leaf, target, mask).sum(), leaf)
    return gradient


def _noise(x: Tensor, generator) -> Tensor:
    device = x.device if generator is None else generator.device
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=device).to(x.device)


def _inside(relevance: Tensor, mask: Tensor | None) -> Tensor:
    """Set the padding to 0, also where it was NaN."""
    return relevance if mask is None else relevance.masked_fill(~mask[..., None], 0)


def _stem(model) -> ConvStem:
    stem = getattr(model, "stem", None)
    if not isinstance(stem, ConvStem):
        raise ValueError(
            f"{type(model).__name__} without a ConvStem called stem found, "
            "a model of ecgbook wanted"
        )
    return stem


def _to_samples(values: Tensor, token_mask: Tensor, stem: ConvStem, x: Tensor) -> Tensor:
    """Spread one value a token (batch, tokens) over the samples of all leads, shaped like `x`."""
    center = np.arange(values.shape[1])
    for conv in (stem.conv2, stem.conv1):  # backward: from tokens to samples
        (kernel,), (stride,), (padding,) = conv.kernel_size, conv.stride, conv.padding
        center = center * stride - padding + (kernel - 1) / 2
    out = np.zeros(x.shape[:2])
    pairs = zip(values.cpu().double().numpy(), token_mask.cpu().numpy(), strict=True)
    for row, (value, valid) in enumerate(pairs):
        if valid.any():
            out[row] = np.interp(np.arange(x.shape[1]), center[valid], value[valid])
    return torch.from_numpy(out).to(x)[..., None].repeat(1, 1, x.shape[2])
