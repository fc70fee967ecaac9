"""State-space scans as pure functions, fast on a CPU in plain PyTorch.

The scans of Mamba-2 (`ssd`), Mamba-3 (`trapezoidal_scan`) and Mamba-1 (`selective_scan`) are linear
recurrences whose coefficients depend on the input. They go through the sequence chunk by chunk, so
that temporaries stay in the cache, and have a backward pass of their own. No exponent is ever
positive, and what is subtracted are sums in float64 over a chunk. While PyTorch compiles, exports
or transforms what is computed, they take the plain forms of `ecgbook.scan.composed`. `ecgbook.scan`
has the equations that all of them equal.

Source: T. Dao and A. Gu (2024), arXiv:2405.21060 (`ssd`); A. Lahoti et al. (2026),
arXiv:2603.15569 (`trapezoidal_scan`); A. Gu and T. Dao (2023), arXiv:2312.00752 (`selective_scan`).
"""

from __future__ import annotations

import functools
import importlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .chunked import ChunkedSelectiveScan, ChunkedSSD
from .composed import is_followed, selective_scan_doubling, shift, ssd_chunks, weighted_chunks
from .recurrences import (
    check_selective,
    check_ssd,
    check_trapezoidal,
    may_go_back,
    segment_sum,
    selective_scan_recurrence,
    ssd_matrix,
    ssd_recurrence,
    trapezoidal_recurrence,
)

__all__ = [
    "Backend", "backend", "segment_sum", "selective_scan", "selective_scan_recurrence", "ssd",
    "ssd_matrix", "ssd_recurrence", "trapezoidal_recurrence", "trapezoidal_scan",
]  # fmt: skip

SSD_CHUNK = 64
SELECTIVE_CHUNK = 8
WITHOUT_FLOAT64 = {"mps"}  # devices where the chunked form cannot add up its log decays


@dataclass(frozen=True)
class Backend:
    """Which implementation the scans use.

    Attributes
    ----------
    name : {"plain", "mamba-ssm"}
        Plain PyTorch, or the CUDA kernels of the package mamba-ssm.
    reason : str
        Why, in one sentence; where an import failed, with its error.
    """

    name: str
    reason: str


def backend(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Backend:
    """Say which implementation the scans use for tensors like these, and why.

    Parameters
    ----------
    device : torch.device or str
    dtype : torch.dtype

    Returns
    -------
    Backend
    """
    kind = torch.device(device).type
    if kind != "cuda":
        return Backend("plain", f"the kernels of mamba-ssm run on CUDA, not on {kind}")
    if dtype == torch.float64:
        return Backend("plain", "the kernels of mamba-ssm do not compute in float64")
    if error := _import_error():
        return Backend("plain", f"importing mamba-ssm failed with {error}")
    return Backend("mamba-ssm", "mamba-ssm can be imported and the tensors are on CUDA")


@functools.cache  # a failed import would be tried again at every scan
def _import_error() -> str:
    """Import the kernels of mamba-ssm; return what went wrong, or nothing."""
    try:
        importlib.import_module("mamba_ssm.ops.triton.ssd_combined")
        importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    except Exception as error:  # a broken build fails in many ways: report it, whatever it is
        return f"{type(error).__name__}: {error}"
    return ""


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    chunk: int | None = None,
    initial_state: Tensor | None = None,
    reverse: bool = False,
) -> Tensor:
    """Compute Mamba-2's scan chunk by chunk: linear in the length, and mostly matrix products.

    Parameters
    ----------
    x : Tensor, shape (batch, length, heads, head_dim)
        Input; float64, float32, float16 or bfloat16. Any length.
    dt : Tensor, shape (batch, length, heads)
        Step sizes, positive; dtype of `x` or a finer one, float32 where `x` is in half precision.
    A : Tensor, shape (heads,)
        Decay rates, negative; dtype of `dt`.
    B, C : Tensor, shape (batch, length, groups, d_state)
        Input and output projections, dtype of `x`. Each group serves ``heads / groups`` heads.
    D : Tensor, shape (heads,), optional
        Skip connection, dtype of `dt`.
    chunk : int, optional
        Steps that are computed together: about 64, or 32 where heads and states are small, if
        omitted. It changes the speed and not the result; the kernels of mamba-ssm choose their own.
    initial_state : Tensor, shape (batch, heads, head_dim, d_state), optional
        State before the first step (after the last one, if `reverse`), dtype of `dt`.
    reverse : bool
        Scan from the last step to the first; nothing is flipped.

    Returns
    -------
    Tensor, shape (batch, length, heads, head_dim)
        In the dtype of `x`. A second derivative goes through `ssd_chunks`, and takes its memory.

    Raises
    ------
    ValueError
        If a shape, dtype or device does not fit, naming what was found and what is wanted.
    """
    check_ssd(x, dt, A, B, C, D, initial_state)
    _check_chunk(chunk)
    if is_followed(x) or x.device.type in WITHOUT_FLOAT64:
        options = {"initial_state": initial_state, "reverse": reverse}
        return ssd_chunks(x, dt, A, B, C, D, chunk=chunk or SSD_CHUNK, **options)
    if backend(x.device, x.dtype).name == "mamba-ssm":
        return _ssd_kernel(x, dt, A, B, C, D, initial_state, reverse)
    skip = torch.zeros_like(dt) if D is None else D.expand_as(dt)
    return _chunked((x, dt, dt * A, B, C, skip, initial_state), chunk, reverse, strict=False)


def trapezoidal_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    share: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    chunk: int | None = None,
    reverse: bool = False,
) -> Tensor:
    """Compute Mamba-3's scan, the exponential-trapezoidal rule, in the chunks of Mamba-2's.

    A step writes a part of its own token and, decayed, a part of the one before. So a token is
    written twice, and its own output sees the first time only:

    ``y_t = sum over s < t of exp(sum of dt_r A_r over s < r <= t) w_s (C_t . B_s) x_s
    + (share_t dt_t (C_t . B_t) + D) x_t`` with ``w_s = share_s dt_s + (1 - share_{s+1}) dt_{s+1}``.

    A share of 1 is Mamba-2's rule, 1/2 the trapezoidal rule of numerical integration.

    Parameters
    ----------
    x : Tensor, shape (batch, length, heads, head_dim)
        Input; float64, float32, float16 or bfloat16. Any length.
    dt : Tensor, shape (batch, length, heads)
        Step sizes, positive; dtype of `x` or a finer one, float32 where `x` is in half precision.
    A : Tensor, shape (batch, length, heads)
        Decay rates, negative, one for each step; dtype of `dt`.
    share : Tensor, shape (batch, length, heads)
        Lambda in the paper, from 0 to 1: what of a step its own token gets; dtype of `dt`.
    B, C : Tensor, shape (batch, length, groups, d_state)
        Input and output projections, dtype of `x`. Each group serves ``heads / groups`` heads.
    D : Tensor, shape (heads,), optional
        Skip connection, dtype of `dt`.
    mask : Tensor, shape (batch, length), bool, optional
        True where there is a token; everywhere, if omitted. The others are passed over: for the
        token behind a gap, the one before it is the one before the gap. Their output means nothing.
    chunk : int, optional
        Steps that are computed together, as in `ssd`. It changes the speed and not the result.
    reverse : bool
        Scan from the last step to the first; nothing is flipped.

    Returns
    -------
    Tensor, shape (batch, length, heads, head_dim)
        In the dtype of `x`, in plain PyTorch on every device. A second derivative goes through
        `weighted_chunks`, and takes its memory.

    Raises
    ------
    ValueError
        If a shape, dtype or device does not fit, naming what was found and what is wanted.
    """
    check_trapezoidal(x, dt, A, share, B, C, D, mask)
    _check_chunk(chunk)
    if mask is not None:
        dt = dt.masked_fill(~mask[..., None], 0)
    now = share * dt
    later = shift((1 - share) * dt, mask, reverse=not reverse)  # the next step's part
    if mask is not None:
        later = later.masked_fill(~mask[..., None], 0)
    seen = (C.to(dt.dtype) * B.to(dt.dtype)).sum(-1)  # (batch, length, groups)
    skip = now * seen.repeat_interleave(x.shape[2] // B.shape[2], dim=2)
    skip = skip if D is None else skip + D
    given = x, now + later, dt * A, B, C, skip, None
    if is_followed(x) or x.device.type in WITHOUT_FLOAT64:
        return weighted_chunks(*given, chunk or SSD_CHUNK, reverse, True)
    return _chunked(given, chunk, reverse, strict=True)


def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    chunk: int = SELECTIVE_CHUNK,
    reverse: bool = False,
) -> Tensor:
    """Compute Mamba-1's selective scan chunk by chunk; only chunk borders are kept for backward.

    Parameters
    ----------
    u, dt : Tensor, shape (batch, length, channels)
        Input and step sizes, steps positive. Any length; float64 or float32, and all inputs alike.
    A : Tensor, shape (channels, d_state)
        Decay rates, negative.
    B, C : Tensor, shape (batch, length, d_state)
        Input and output projections.
    D : Tensor, shape (channels,), optional
        Skip connection.
    chunk : int
        Steps that are computed together. It changes the speed and not the result; the kernels of
        mamba-ssm choose their own.
    reverse : bool
        Scan from the last step to the first; nothing is flipped.

    Returns
    -------
    Tensor, shape (batch, length, channels)
        In the dtype of `u`. A second derivative goes through the plain recurrence, and takes
        its time.

    Raises
    ------
    ValueError
        If a shape, dtype or device does not fit, naming what was found and what is wanted.
    """
    check_selective(u, dt, A, B, C, D)
    _check_chunk(chunk)
    if is_followed(u):
        return selective_scan_doubling(u, dt, A, B, C, D, reverse=reverse)
    if backend(u.device, u.dtype).name == "mamba-ssm":
        return _selective_kernel(u, dt, A, B, C, D, reverse)
    keep = may_go_back(u, dt, A, B, C, D)
    return ChunkedSelectiveScan.apply(u, dt, A, B, C, D, chunk, reverse, keep)


def _check_chunk(chunk: int | None) -> None:
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk={chunk} found, 1 or more wanted")


def _chunked(given: tuple, chunk: int | None, reverse: bool, strict: bool) -> Tensor:
    """Run `ChunkedSSD` on ``x, w, a, B, C, skip, initial_state``."""
    x, _, _, B, *_ = given
    if chunk is None:
        chunk = _fast_chunk(x.shape[1], max(x.shape[-1], B.shape[-1]))
    return ChunkedSSD.apply(*given, chunk, reverse, strict, may_go_back(*given))


def _fast_chunk(length: int, size: int) -> int:
    """Choose steps for heads or states of a size; so that no rest is left, where that can be.

    The work within a chunk grows with its steps, that between chunks with the square of the size.
    """
    wanted = SSD_CHUNK if size > SSD_CHUNK // 2 else SSD_CHUNK // 2
    even = math.ceil(length / max(1, round(length / wanted)))
    return wanted if length % even else even


def _ssd_kernel(x, dt, A, B, C, D, initial_state, reverse):
    """Run the Triton kernels, which only scan forward and like chunks of 256."""
    from mamba_ssm.ops.triton.ssd_combined import (  # pyright: ignore[reportMissingImports]
        mamba_chunk_scan_combined,
    )

    if reverse:
        x, dt, B, C = (v.flip(1) for v in (x, dt, B, C))
    y = mamba_chunk_scan_combined(x, dt, A, B, C, 256, D=D, initial_states=initial_state)
    return y.flip(1) if reverse else y


def _selective_kernel(u, dt, A, B, C, D, reverse):
    """Run the CUDA kernel, which only scans forward and wants the length last."""
    from mamba_ssm.ops.selective_scan_interface import (  # pyright: ignore[reportMissingImports]
        selective_scan_fn,
    )

    u, dt, B, C = (v.transpose(1, 2) for v in (u, dt, B, C))
    if reverse:
        u, dt, B, C = (v.flip(2) for v in (u, dt, B, C))
    y = selective_scan_fn(u, dt, A, B, C, D=D)
    return (y.flip(2) if reverse else y).transpose(1, 2)
