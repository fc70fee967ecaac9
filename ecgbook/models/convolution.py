"""Depthwise convolutions over time, channels last, with a backward pass of their own.

PyTorch's own backward pass for a depthwise ``Conv1d`` costs many times the forward pass on a CPU.
Here the input's gradient is the mirrored convolution, and the weights' gradient adds one product
a tap. A SiLU behind the convolution can be taken along: then a record's values are still in the
cache when it is applied, and the backward pass convolves once more instead of keeping them.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..scan import is_followed, plain_backward, slices, without_autocast

CELLS = 1_000_000  # values that are convolved at once on a CPU
WINDOW_CELLS = 32_768  # and multiplied with the windows around them, which stay in the cache


class DepthwiseConv(nn.Conv1d):
    """`causal_conv` or `centered_conv` as a layer; parameters and state are those of ``Conv1d``.

    Parameters
    ----------
    channels : int
        Channels, each with a kernel of its own.
    width : int
        Steps that a kernel covers; odd if `centered`.
    centered : bool
        Cover as many steps behind as ahead, rather than the present and the past.
    """

    def __init__(self, channels: int, width: int, centered: bool = False):
        super().__init__(channels, channels, width, groups=channels)
        self.centered = centered

    def forward(self, x: Tensor, reverse: bool = False, silu: bool = False) -> Tensor:
        """Convolve over time.

        Parameters
        ----------
        x : Tensor, shape (batch, length, channels), float
        reverse : bool
            Let time run backward.
        silu : bool
            Apply SiLU to what comes out.

        Returns
        -------
        Tensor, shape (batch, length, channels)
            In the dtype of `x`.

        Raises
        ------
        ValueError
            As `causal_conv` and `centered_conv` do.
        """
        weight = self.weight[:, 0]
        if self.centered:
            return centered_conv(x, weight.flip(1) if reverse else weight, self.bias, silu=silu)
        return causal_conv(x, weight, self.bias, reverse=reverse, silu=silu)


def causal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    reverse: bool = False,
    silu: bool = False,
) -> Tensor:
    """Convolve each channel with its own kernel over the present and the past.

    ``y_t = bias + sum over k of weight_k x_{t - width + 1 + k}``, with zeros before the start.

    Parameters
    ----------
    x : Tensor, shape (batch, length, channels), float
    weight : Tensor, shape (channels, width), float
        The last tap is that of the present step.
    bias : Tensor, shape (channels,), optional
    reverse : bool
        Let time run backward: over the present and the future; nothing is flipped but the kernel.
    silu : bool
        Apply SiLU to what comes out.

    Returns
    -------
    Tensor, shape (batch, length, channels)
        In the dtype of `x`.

    Raises
    ------
    ValueError
        If a shape does not fit, naming the shape found and the shape wanted.
    """
    _check(x, weight, bias)
    if reverse:
        return _depthwise(x, weight.flip(1), bias, weight.shape[1] - 1, silu)
    return _depthwise(x, weight, bias, 0, silu)


def centered_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, silu: bool = False
) -> Tensor:
    """Convolve each channel with its own kernel over as many steps behind as ahead.

    Parameters
    ----------
    x : Tensor, shape (batch, length, channels), float
    weight : Tensor, shape (channels, width), float
        The width is odd; the middle tap is that of the present step.
    bias : Tensor, shape (channels,), optional
    silu : bool
        Apply SiLU to what comes out.

    Returns
    -------
    Tensor, shape (batch, length, channels)
        In the dtype of `x`.

    Raises
    ------
    ValueError
        If a shape does not fit or the width is even.
    """
    _check(x, weight, bias)
    if weight.shape[1] % 2 == 0:
        raise ValueError(f"a kernel of width {weight.shape[1]} found, an odd width wanted")
    return _depthwise(x, weight, bias, weight.shape[1] // 2, silu)


def _depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, ahead: int, silu: bool) -> Tensor:
    if is_followed(x):
        return _plain(x, weight, bias, ahead, silu)
    return _DepthwiseConv.apply(x, weight, bias, ahead, silu)


def _check(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if x.ndim != 3 or not x.numel():
        raise ValueError(
            f"x of shape {tuple(x.shape)} found, (batch, length, channels), none of them 0, wanted"
        )
    if weight.ndim != 2 or len(weight) != x.shape[2] or weight.shape[1] < 1:
        raise ValueError(
            f"weight of shape {tuple(weight.shape)} found, ({x.shape[2]}, width) wanted"
        )
    if bias is not None and bias.shape != (x.shape[2],):
        raise ValueError(f"bias of shape {tuple(bias.shape)} found, ({x.shape[2]},) wanted")


class _DepthwiseConv(torch.autograd.Function):
    """The window of step t reaches from ``t + ahead - width + 1`` to ``t + ahead``."""

    @staticmethod
    def forward(ctx, x, weight, bias, ahead, silu):
        ctx.save_for_backward(x, weight, bias)
        ctx.ahead, ctx.silu = ahead, silu
        if not silu:
            return _plain(x, weight, bias, ahead, silu)
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        for row in slices(len(x), x[0].numel(), CELLS, x.device):
            torch.ops.aten.silu.out(_plain(x[row], weight, bias, ahead, False), out=y[row])
        return y

    @staticmethod
    def backward(ctx, dy):
        x, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled():  # asked for with create_graph=True
            plain = partial(_plain, ahead=ctx.ahead, silu=ctx.silu)
            return *plain_backward(plain, (x, weight, bias), dy), None, None
        mirrored = weight.to(dy.dtype).flip(1)
        dx = torch.empty_like(x, memory_format=torch.contiguous_format)
        _, learned, learned_bias, *_ = ctx.needs_input_grad
        dweight = torch.zeros_like(weight) if learned else None
        dbias = torch.zeros_like(bias) if learned_bias else None
        for row in slices(len(x), x[0].numel(), CELLS, x.device):
            pull = dy[row]
            if ctx.silu:
                y = _plain(x[row], weight, bias, ctx.ahead, False)
                pull = torch.ops.aten.silu_backward(pull, y)
            dx[row] = _convolve(pull, mirrored, None, weight.shape[1] - 1 - ctx.ahead)
            if dweight is not None:
                dweight += _tap_products(x[row], pull, weight.shape[1], ctx.ahead)
            if dbias is not None:
                dbias += pull.sum((0, 1), dtype=bias.dtype)
        return dx, dweight, dbias, None, None


def _plain(x, weight, bias, ahead, silu):
    """Convolve in the dtype of the signal; all in PyTorch's own operations."""
    y = _convolve(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), ahead)
    return F.silu(y) if silu else y


def _convolve(x, weight, bias, ahead):
    """Run a 2-D convolution over a signal of height 1, which keeps channels last in memory."""
    width, length = weight.shape[1], x.shape[1]
    side = max(ahead, width - 1 - ahead)  # the padding is the same on both sides
    image = x.transpose(1, 2)[:, :, None]
    with without_autocast(x):
        y = F.conv2d(image, weight[:, None, None], bias, padding=(0, side), groups=len(weight))
    start = side - (width - 1 - ahead)
    return y[:, :, 0, start : start + length].transpose(1, 2)


def _tap_products(x, dy, width, ahead):
    """Sum ``dy_t x_{t + ahead - width + 1 + k}`` over batch and time: (channels, width)."""
    exact = torch.promote_types(x.dtype, torch.float32)
    rows = x.shape[1]
    if x.device.type == "cpu":
        rows = min(max(1, WINDOW_CELLS // x.shape[2]), rows)
    sums = x.new_zeros(width, rows, x.shape[2], dtype=exact)
    for signal, pull in zip(x, dy, strict=True):
        for start in range(0, len(pull), rows):
            part = pull[start : start + rows]
            first, last = start - (width - 1 - ahead), start + len(part) + ahead
            seen = signal[max(first, 0) : last]
            seen = F.pad(seen, (0, 0, max(-first, 0), max(last - len(signal), 0)))
            windows = seen.unfold(0, width, 1).permute(2, 0, 1)  # (width, steps, channels)
            sums[:, : len(part)].addcmul_(windows, part)
    return sums.sum(1).T
