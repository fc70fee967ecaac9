"""What the state-space mixers share: projections, exact small numbers, masks, starts.

Where no hook, rule or wrapper waits for the call of a module, some of them compute it together
with its neighbor; the numbers are the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .convolution import DepthwiseConv
from .layers import check_tokens


def is_bare(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Say whether a module is of just this class, and no hook or rule waits for its call.

    Parameters
    ----------
    module : torch.nn.Module
    kind : type

    Returns
    -------
    bool
    """
    hooks = "_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks"
    if type(module) is not kind or "forward" in module.__dict__:
        return False
    return not any(getattr(module, name) for name in hooks)


def count_heads(d_inner: int, head_dim: int, n_groups: int) -> int:
    """Count the heads of a mixer.

    Parameters
    ----------
    d_inner : int
        Inner channels, ``expand * d_model``.
    head_dim : int
    n_groups : int
        Sets of B and C.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If the inner channels do not fall into heads, or the heads into groups.
    """
    if head_dim < 1 or d_inner % head_dim:
        raise ValueError(
            f"head_dim={head_dim} found, a divisor of expand * d_model = {d_inner} wanted"
        )
    heads = d_inner // head_dim
    if n_groups < 1 or heads % n_groups:
        raise ValueError(f"n_groups={n_groups} found, a divisor of the {heads} heads wanted")
    return heads


def project(linear: nn.Module, h: Tensor, sizes: Sequence[int]) -> Sequence[Tensor]:
    """Apply a linear layer and split what comes out, by separate products where none can tell.

    None of these has to be cut up and copied, and the wide ones keep a width that matrix units
    like.

    Parameters
    ----------
    linear : torch.nn.Module
        A linear layer, or what stands in for one.
    h : Tensor, shape (..., channels), float
    sizes : sequence of int
        Their sum is what the layer puts out.

    Returns
    -------
    sequence of Tensor, shape (..., size)
    """
    if is_bare(linear, nn.Linear) and linear.bias is None:
        return [F.linear(h, weight) for weight in linear.weight.split(sizes)]
    return linear(h).split(sizes, -1)


def activated(conv1d: nn.Module, act: nn.Module, x: Tensor, reverse: bool = False) -> Tensor:
    """Convolve over time and apply SiLU, in one go where none can tell.

    Parameters
    ----------
    conv1d : torch.nn.Module
        A `DepthwiseConv`, or what stands in for one.
    act : torch.nn.Module
        A SiLU, or what stands in for one.
    x : Tensor, shape (batch, length, channels), float
    reverse : bool
        As for `DepthwiseConv`.

    Returns
    -------
    Tensor, shape (batch, length, channels)
    """
    if is_bare(conv1d, DepthwiseConv) and is_bare(act, nn.SiLU):
        return conv1d(x, reverse=reverse, silu=True)
    return act(conv1d(x, reverse=reverse))


def initial_dt_bias(n: int) -> Tensor:
    """Draw what softplus maps to step sizes that are log-uniform in [0.001, 0.1].

    Parameters
    ----------
    n : int

    Returns
    -------
    Tensor, shape (n,), float32
    """
    dt = torch.empty(n).uniform_(math.log(0.001), math.log(0.1)).exp()
    return dt + torch.log(-torch.expm1(-dt))


def undecayed(values: Tensor) -> nn.Parameter:
    """Make a parameter that weight decay leaves alone: `training.fit` reads its mark.

    Parameters
    ----------
    values : Tensor

    Returns
    -------
    torch.nn.Parameter
    """
    parameter = nn.Parameter(values)
    setattr(parameter, "_no_weight_decay", True)  # noqa: B010
    return parameter


def exact(v: Tensor) -> Tensor:
    """Return float32 for half precision, and all else as it is.

    Parameters
    ----------
    v : Tensor, float

    Returns
    -------
    Tensor, float32 or float64
    """
    return v.to(torch.promote_types(v.dtype, torch.float32))


def only_signal(h: Tensor, mask: Tensor | None, d_model: int) -> Tensor:
    """Check tokens, and set those outside the mask to zero.

    Parameters
    ----------
    h : Tensor, shape (batch, length, d_model), float
    mask : Tensor, shape (batch, length), bool, or None
        True where the token sees signal.
    d_model : int

    Returns
    -------
    Tensor, shape (batch, length, d_model)

    Raises
    ------
    TypeError, ValueError
        As `ecgbook.models.layers.check_tokens`.
    """
    check_tokens(h, mask, d_model)
    if mask is None:
        return h
    return h.masked_fill(~mask[..., None], 0)


def stand_still(dt: Tensor, mask: Tensor | None) -> Tensor:
    """Set the steps of tokens outside the mask to zero: a state stays as it is there.

    Parameters
    ----------
    dt : Tensor, shape (batch, length, ...), float
    mask : Tensor, shape (batch, length), bool, or None

    Returns
    -------
    Tensor, shape of `dt`
    """
    if mask is None:
        return dt
    return dt.masked_fill(~mask.view(*mask.shape, *[1] * (dt.ndim - 2)), 0)
