"""The named seams of every model: scaling, normalization, scans, gate, masked mean.

Every step that is not a plain convolution or matrix product has a class of its own here, so that
a reader can find it by name and an explanation method can put its own rule in its place.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import repeat

import torch
import torch.distributed
from torch import Tensor, nn

from .. import scan
from ..checks import check_batch

BLOCK_CELLS = 100_000  # of `rms_norm`: computed at once on a CPU


def check_tokens(x: Tensor, mask: Tensor | None, d_model: int) -> None:
    """Refuse tokens of another shape or kind, or a mask that does not belong to them.

    Parameters
    ----------
    x : Tensor, shape (batch, length, d_model), float
        At least one token.
    mask : Tensor, shape (batch, length), bool, or None
        True where the token sees signal.
    d_model : int

    Raises
    ------
    TypeError, ValueError
        As `ecgbook.checks.check_batch`; also if there is no token.
    """
    if isinstance(x, Tensor) and x.ndim == 3 and not x.numel():
        raise ValueError(
            f"tokens of shape {tuple(x.shape)} found, (batch, length, {d_model}), none of them 0, "
            "wanted"
        )
    check_batch(x, mask, d_model, "tokens")


class Scale(nn.Module):
    """Divide millivolts by a fixed constant, the first layer of every model.

    A constant, unlike a z-score, keeps the ratios between leads and gives perturbations a unit.

    Parameters
    ----------
    unit_mv : float
        The amplitude in mV that becomes 1. The default, 0.25 mV, is about the standard deviation
        of a lead in a filtered adult ECG.
    """

    def __init__(self, unit_mv: float = 0.25):
        super().__init__()
        if not unit_mv > 0:
            raise ValueError(f"unit_mv={unit_mv!r} found, a positive number of mV wanted")
        self.unit_mv = unit_mv

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` in mV, any shape, to the model's unit."""
        return x / self.unit_mv

    def extra_repr(self) -> str:
        """Show the constant in ``print(model)``."""
        return f"unit_mv={self.unit_mv}"


class MaskedBatchNorm1d(nn.BatchNorm1d):
    """Batch normalization whose statistics count only positions that hold signal.

    Parameters and state are those of ``torch.nn.BatchNorm1d``. In training, mean and variance are
    taken over the masked-in positions of the whole batch, on every process of a distributed run
    (also on CPU, where ``torch.nn.SyncBatchNorm`` does not work). In evaluation the layer is the
    usual fixed affine map and ignores the mask.

    Source: Ioffe and Szegedy (2015), arXiv:1502.03167.
    """

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalize each channel.

        Parameters
        ----------
        x : Tensor, shape (batch, channels, length), float
        mask : Tensor, shape (batch, length), bool, optional
            True where the position holds signal; everywhere, if omitted.

        Returns
        -------
        Tensor, shape (batch, channels, length)
            Positions outside the mask are normalized too, but do not count.
        """
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if not self.training or (mask is None and not distributed):
            return super().forward(x)
        if x.dtype in (torch.float16, torch.bfloat16):  # too coarse, and too small, for sums
            x = x.float()
        weight = torch.ones_like(x[:, :1]) if mask is None else mask[:, None].to(x.dtype)
        # Fold the count in with the sums, so that one exchange between processes is enough.
        first = torch.cat([(x * weight).sum((0, 2)), weight.sum().reshape(1)])
        first = _sum_over_processes(first, distributed)
        count = first[-1].clamp(min=1)
        mean = first[:-1] / count
        centered = x - mean[:, None]
        second = _sum_over_processes((centered.square() * weight).sum((0, 2)), distributed)
        variance = second / count
        self._remember(mean, variance, first[-1])
        y = centered * torch.rsqrt(variance + self.eps)[:, None]
        if self.weight is not None:
            y = y * self.weight[:, None]
        return y if self.bias is None else y + self.bias[:, None]

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Move the running statistics; a batch without a valid position moves nothing."""
        if self.running_mean is None:
            return
        any_valid = count > 0  # no branch: a graph would have to break there
        self.num_batches_tracked += any_valid
        unbiased = variance * count / (count - 1).clamp(min=1)
        for running, value in ((self.running_mean, mean), (self.running_var, unbiased)):
            share = any_valid.to(running.dtype)
            if self.momentum is None:  # the mean over all batches
                share = share / self.num_batches_tracked.clamp(min=1)
            else:
                share = share * self.momentum
            running.lerp_(value.to(running.dtype), share)


def _sum_over_processes(x: Tensor, distributed: bool) -> Tensor:
    if not distributed:
        return x
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(x)


class MaskedMean(nn.Module):
    """Average over the tokens that see signal, whatever the padding around them."""

    def forward(self, tokens: Tensor, token_mask: Tensor) -> Tensor:
        """Pool tokens to one vector a record.

        Parameters
        ----------
        tokens : Tensor, shape (batch, tokens, d_model), float
        token_mask : Tensor, shape (batch, tokens), bool
            True where the token sees signal.

        Returns
        -------
        Tensor, shape (batch, d_model)
            Zero for a record without any valid token.
        """
        weight = token_mask.to(tokens.dtype)
        weight = weight / weight.sum(1, keepdim=True).clamp(min=1)
        return (tokens * weight[..., None]).sum(1)


class RMSNorm(nn.Module):
    """Divide each token by the root mean square of its channels, and scale each channel.

    Parameters
    ----------
    d : int
        Channels.
    eps : float
        Added to the mean square.
    n_groups : int
        Equal parts of the channels, each with a root mean square of its own.

    Raises
    ------
    ValueError
        If the channels do not fall into `n_groups` equal parts.

    Notes
    -----
    Computed in float32 or better and returned in the dtype of the input.
    Source: Zhang and Sennrich (2019), arXiv:1910.07467.
    """

    def __init__(self, d: int, eps: float = 1e-5, n_groups: int = 1):
        super().__init__()
        if n_groups < 1 or d % n_groups:
            raise ValueError(f"n_groups={n_groups} found, a divisor of the {d} channels wanted")
        self.weight = nn.Parameter(torch.ones(d))
        self.eps, self.n_groups = eps, n_groups

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """Normalize ``x (..., d)``, or ``x * silu(z)``; another last axis is refused."""
        if x.shape[-1:] != self.weight.shape:
            d = len(self.weight)
            hint = "; transpose the last two axes" if d in x.shape[-2:] else ""
            raise ValueError(f"x of shape {tuple(x.shape)} found, (..., {d}) wanted{hint}")
        return rms_norm(x, self.weight, self.eps, z=z, n_groups=self.n_groups)

    def extra_repr(self) -> str:
        """Show the sizes in ``print(model)``."""
        return f"{len(self.weight)}, eps={self.eps}, n_groups={self.n_groups}"


def rms_norm(
    x: Tensor, weight: Tensor, eps: float = 1e-5, *, z: Tensor | None = None, n_groups: int = 1
) -> Tensor:
    """Divide by the root mean square of the last axis, and scale each channel.

    ``y = weight * v / sqrt(mean(v^2) + eps)`` with ``v = x``, or ``v = x * silu(z)``.

    Parameters
    ----------
    x : Tensor, shape (..., channels), float
    weight : Tensor, shape (channels,), float
    eps : float
    z : Tensor, shape of `x`, optional
        A gate that comes before the normalization, as in Mamba-2.
    n_groups : int
        Equal parts of the channels, each with a root mean square of its own.

    Returns
    -------
    Tensor, shape (..., channels)
        In the dtype of `x`; computed in float32 or better.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Notes
    -----
    Source: Zhang and Sennrich (2019), arXiv:1910.07467, equation 4; the gate: Dao and Gu (2024),
    arXiv:2405.21060, section 7.
    """
    if x.ndim < 1 or weight.shape != x.shape[-1:]:
        raise ValueError(
            f"weight of shape {tuple(weight.shape)} found, {tuple(x.shape[-1:])} wanted, "
            f"for x of shape {tuple(x.shape)}"
        )
    if z is not None and z.shape != x.shape:
        raise ValueError(f"z of shape {tuple(z.shape)} found, that of x, {tuple(x.shape)}, wanted")
    if n_groups < 1 or len(weight) % n_groups:
        raise ValueError(f"n_groups={n_groups} found, a divisor of {len(weight)} channels wanted")
    if scan.is_followed(x):
        return _plain_rms_norm(x, z, weight, eps, n_groups)
    return _RMSNorm.apply(x, z, weight, eps, n_groups)


class _RMSNorm(torch.autograd.Function):
    """PyTorch composes this backward pass on a CPU of many passes over the memory.

    Here it goes through a block of tokens at a time, which stays in the cache; what the gate gives
    is computed again rather than kept.
    """

    @staticmethod
    def forward(ctx, x, z, weight, eps, n_groups):
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        scales = []
        with scan.without_autocast(x):
            for part, gate, out in zip(*(_blocks(v, x, n_groups) for v in (x, z, y)), strict=True):
                part = _gated(part, gate)
                mean_square = torch.linalg.vecdot(part, part)[..., None] / part.shape[-1]
                scales.append(torch.rsqrt(mean_square + eps))
                torch.mul(part, scales[-1], out=out).mul_(weight.view(n_groups, -1))
        ctx.save_for_backward(x, z, weight, *scales)
        ctx.eps, ctx.n_groups = eps, n_groups
        return y

    @staticmethod
    def backward(ctx, dy):
        x, z, weight, *scales = ctx.saved_tensors
        if torch.is_grad_enabled():  # asked for with create_graph=True
            plain = partial(_plain_rms_norm, eps=ctx.eps, n_groups=ctx.n_groups)
            return *scan.plain_backward(plain, (x, z, weight), dy), None, None
        exact = torch.promote_types(x.dtype, torch.float32)
        dx, dz = (None if v is None else torch.empty_like(v, memory_format=torch.contiguous_format)
                  for v in (x, z))  # fmt: skip
        groups = weight.to(exact).view(ctx.n_groups, -1)
        dgroups = torch.zeros_like(groups)
        with scan.without_autocast(dy):
            blocks = (_blocks(v, x, ctx.n_groups) for v in (x, z, dy, dx, dz))
            for part, gate, g, out, dgate, scale in zip(*blocks, scales, strict=True):
                v = part = part.to(exact)
                if gate is not None:
                    gate = gate.to(exact)
                    sigmoid = gate.sigmoid()
                    silu = gate * sigmoid
                    v = part * silu
                g = g.to(exact)
                product = v * g
                for dgroup, p, s in zip(dgroups, product.unbind(1), scale.unbind(1), strict=True):
                    dgroup.addmv_(p.T, s[:, 0])
                along = torch.linalg.vecdot(product, groups)[..., None] * scale**3 / v.shape[-1]
                dv = torch.mul(g, groups, out=product).mul_(scale).addcmul_(v, along, value=-1)
                if gate is None:
                    out.copy_(dv)
                else:
                    torch.mul(dv, silu, out=out)
                    slope = sigmoid.addcmul_(silu, sigmoid, value=-1).add_(silu)  # of SiLU
                    torch.mul(dv, slope.mul_(part), out=dgate)
        return dx, dz, dgroups.flatten().to(weight.dtype), None, None


def _plain_rms_norm(x, z, weight, eps, n_groups):
    exact = _gated(x, z).unflatten(-1, (n_groups, -1))
    scale = torch.rsqrt(exact.square().mean(-1, keepdim=True) + eps)
    return ((exact * scale).flatten(-2) * weight).to(x.dtype)


def _gated(x: Tensor, z: Tensor | None) -> Tensor:
    """Return ``x * silu(z)``, or x, in float32 or better."""
    exact = torch.promote_types(x.dtype, torch.float32)
    return x.to(exact) if z is None else torch.nn.functional.silu(z.to(exact)) * x


def _blocks(v: Tensor | None, x: Tensor, n_groups: int) -> Iterable[Tensor | None]:
    """Cut v, of the shape of x, into blocks (tokens, groups, channels); one off a CPU."""
    step = max(1, BLOCK_CELLS // x.shape[-1]) if x.device.type == "cpu" else x.numel()
    if v is None:
        return repeat(None, -(-(x.numel() // x.shape[-1]) // step))
    return v.reshape(-1, n_groups, x.shape[-1] // n_groups).split(step)


class Gate(nn.Module):
    """Multiply a signal by the SiLU of a gate."""

    def __init__(self):
        super().__init__()
        self.act = nn.SiLU()

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        """Return ``y * silu(z)``; both of one shape."""
        return y * self.act(z)


class Skip(nn.Module):
    """Let each token choose how much of itself passes by a scan: a number a head, as Hydra does."""

    def forward(self, x: Tensor, chosen: Tensor, D: Tensor) -> Tensor:
        """Return ``(chosen + D) x``.

        Parameters
        ----------
        x : Tensor, shape (batch, length, heads * head_dim), float
        chosen : Tensor, shape (batch, length, heads), float
        D : Tensor, shape (heads,), float

        Returns
        -------
        Tensor, shape (batch, length, heads * head_dim)
            In the dtype of `x`.
        """
        parts = x.unflatten(-1, (len(D), -1))
        return ((chosen + D)[..., None] * parts).flatten(-2).to(x.dtype)


class SSD(nn.Module):
    """Mamba-2's scan as a layer without parameters: see `ecgbook.scan.ssd`."""

    def forward(
        self,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None = None,
        reverse: bool = False,
    ) -> Tensor:
        """Scan ``x (batch, length, heads, head_dim)``; arguments as for `ecgbook.scan.ssd`."""
        return scan.ssd(x, dt, A, B, C, D, reverse=reverse)


class TrapezoidalScan(nn.Module):
    """Mamba-3's scan as a layer without parameters: see `ecgbook.scan.trapezoidal_scan`."""

    def forward(
        self,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        share: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None = None,
        mask: Tensor | None = None,
        reverse: bool = False,
    ) -> Tensor:
        """Scan ``x (batch, length, heads, head_dim)``; as for `ecgbook.scan.trapezoidal_scan`."""
        return scan.trapezoidal_scan(x, dt, A, share, B, C, D, mask=mask, reverse=reverse)


class SelectiveScan(nn.Module):
    """Mamba-1's scan as a layer without parameters: see `ecgbook.scan.selective_scan`."""

    def forward(
        self,
        u: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None = None,
        reverse: bool = False,
    ) -> Tensor:
        """Scan ``u (batch, length, channels)``; arguments as for `ecgbook.scan.selective_scan`.

        The scan runs in the dtype of `dt`, also under autocast, and returns that of `u`.
        """
        with scan.without_autocast(u):
            exact = (v.to(dt.dtype) for v in (B, C))
            y = scan.selective_scan(u.to(dt.dtype), dt, A, *exact, D, reverse=reverse)
        return y.to(u.dtype)


class FeedForward(nn.Module):
    """A pre-norm residual block of two linear layers, applied to each token.

    ``x + W2 gelu(W1 RMSNorm(x) + b1) + b2``.

    Parameters
    ----------
    d_model : int
        Channels of a token.
    factor : int
        Hidden channels per channel of a token.
    dropout : float
        Probability of dropping a hidden value in training.
    """

    def __init__(self, d_model: int, factor: int = 4, dropout: float = 0.1):
        super().__init__()
        self.norm = RMSNorm(d_model)
        self.linear1 = nn.Linear(d_model, factor * d_model)
        self.act = nn.GELU()
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(factor * d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``x (..., d_model)``."""
        return x + self.linear2(self.dropout(self.act(self.linear1(self.norm(x)))))
