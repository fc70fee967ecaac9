"""Root-mean-square normalization with a backward pass of its own.

PyTorch composes the backward pass of ``rms_norm`` on a CPU of many passes over the memory. Here
it goes through a block of tokens at a time, which stays in the cache.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK_CELLS = 100_000  # cells that are computed at once on a CPU


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    """Divide by the root mean square of the last axis, and scale each channel.

    ``y = weight * x / sqrt(mean(x^2) + eps)``.

    Parameters
    ----------
    x : Tensor, shape (..., channels), float
    weight : Tensor, shape (channels,), float
    eps : float

    Returns
    -------
    Tensor, shape (..., channels)
        In the dtype of `x`; computed in float32 or better. It can be differentiated once.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Notes
    -----
    Source: Zhang and Sennrich (2019), arXiv:1910.07467, equation 4.
    """
    if x.ndim < 1 or weight.shape != x.shape[-1:]:
        raise ValueError(
            f"weight of shape {tuple(weight.shape)} found, {tuple(x.shape[-1:])} wanted, "
            f"for x of shape {tuple(x.shape)}"
        )
    return _RMSNorm.apply(x, weight, eps)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps):
        tokens = x.reshape(-1, x.shape[-1])
        exact = torch.promote_types(x.dtype, torch.float32)
        y, scales = torch.empty_like(tokens), []
        with torch.autocast(x.device.type, enabled=False):
            for part, out in zip(_blocks(tokens), _blocks(y), strict=True):
                part = part.to(exact)
                mean_square = torch.linalg.vecdot(part, part) / part.shape[-1]
                scales.append(torch.rsqrt(mean_square + eps)[:, None])
                torch.mul(part, scales[-1], out=out).mul_(weight)
        ctx.save_for_backward(tokens, weight, *scales)
        ctx.shape = x.shape
        return y.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        tokens, weight, *scales = ctx.saved_tensors
        exact = torch.promote_types(tokens.dtype, torch.float32)
        dy = dy.reshape(tokens.shape)
        dx, dweight = torch.empty_like(tokens), torch.zeros_like(weight, dtype=exact)
        with torch.autocast(dy.device.type, enabled=False):
            for x, g, out, scale in zip(*map(_blocks, (tokens, dy, dx)), scales, strict=True):
                x, g = x.to(exact), g.to(exact)
                product = x * g
                dweight.addmv_(product.T, scale[:, 0])
                along = (product @ weight.to(exact))[:, None] * scale**3 / x.shape[-1]
                torch.mul(g, weight, out=out).mul_(scale).sub_(torch.mul(x, along, out=product))
        return dx.view(ctx.shape), dweight.to(weight.dtype), None


def _blocks(tokens: Tensor) -> tuple[Tensor, ...]:
    if tokens.device.type != "cpu":
        return (tokens,)
    return tokens.split(max(1, BLOCK_CELLS // tokens.shape[-1]))
