"""The scans as few, plain operations: what PyTorch can compile, export, trace and transform.

The fast forms write into shared buffers and have backward passes of their own, which nothing that
follows a computation can see through. These here are made of operations that it knows, without a
loop over time, and equal the recurrences. They are also the shortest fast forms to read.

Source: T. Dao and A. Gu (2024), arXiv:2405.21060, section 6 (the four steps of `ssd_chunks`);
W. D. Hillis and G. L. Steele (1986), doi:10.1145/7902.7903 (the doubling of
`selective_scan_doubling`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad
from torch.fx.experimental import proxy_tensor

from .recurrences import check_selective, check_ssd, segment_sum

# torch 2.2 has these under other names.
_is_compiling = getattr(torch.compiler, "is_compiling", None) or vars(torch)["_utils"].is_compiling
_in_dynamo = getattr(torch.compiler, "is_dynamo_compiling", None) or _is_compiling
_proxy_mode = getattr(proxy_tensor, "get_proxy_mode", None) or proxy_tensor.get_innermost_proxy_mode


def is_followed(x: Tensor) -> bool:
    """Say whether PyTorch follows what is computed with a tensor, instead of only running it.

    Parameters
    ----------
    x : Tensor

    Returns
    -------
    bool
        True while it is compiled, exported, traced (`torch.jit.trace`, `make_fx`), under a
        transform of `torch.func` or forward-mode differentiation, or without memory (``meta``).
    """
    return (
        _is_compiling()
        or torch.jit.is_tracing()
        or peek_interpreter_stack() is not None
        or _proxy_mode() is not None
        or forward_ad._current_level >= 0
        or x.device.type == "meta"
        or type(x) not in (Tensor, torch.nn.Parameter)
    )


def is_written_down() -> bool:
    """Say whether a graph is made for another program, such as ONNX.

    Returns
    -------
    bool
        False under `torch.compile`, which makes a graph for itself.
    """
    return not _in_dynamo() and _proxy_mode() is not None


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Leave autocast on the device of a tensor, where that device has it.

    Parameters
    ----------
    x : Tensor

    Returns
    -------
    context manager
    """
    return torch.autocast(x.device.type, enabled=False) if _has_autocast(x) else nullcontext()


def in_autocast(x: Tensor) -> bool:
    """Say whether autocast is on, on the device of a tensor.

    Parameters
    ----------
    x : Tensor

    Returns
    -------
    bool
    """
    if not _has_autocast(x):
        return False
    if hasattr(torch.amp, "is_autocast_available"):
        return torch.is_autocast_enabled(x.device.type)
    # torch 2.2 has one question for each of the two devices
    return torch.is_autocast_cpu_enabled() if x.is_cpu else torch.is_autocast_enabled()


def _has_autocast(x: Tensor) -> bool:
    known = getattr(torch.amp, "is_autocast_available", {"cpu", "cuda"}.__contains__)  # torch 2.2
    return known(x.device.type)


def ssd_chunks(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    chunk: int = 64,
    initial_state: Tensor | None = None,
    reverse: bool = False,
) -> Tensor:
    """Compute Mamba-2's scan in the four steps of the paper, for all chunks at once.

    Parameters
    ----------
    x, dt, A, B, C, D, chunk, initial_state, reverse
        As for `ecgbook.scan.ssd`, and so are the errors.

    Returns
    -------
    Tensor, shape (batch, length, heads, head_dim)
        In the dtype of `x`; computed in that of `dt`.
    """
    check_ssd(x, dt, A, B, C, D, initial_state)
    skip = torch.zeros_like(dt) if D is None else D.expand_as(dt)
    return weighted_chunks(x, dt, dt * A, B, C, skip, initial_state, chunk, reverse, False)


def weighted_chunks(
    x: Tensor,
    w: Tensor,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor,
    initial_state: Tensor | None,
    chunk: int,
    reverse: bool,
    strict: bool,
) -> Tensor:
    """Compute `ssd_chunks` with weight, log decay and skip of each step given apart.

    ``S_t = exp(a_t) S_{t-1} + w_t x_t B_t^T`` and ``y_t = S_t C_t + skip_t x_t``. If `strict`, a
    step reads what was there before it wrote: ``y_t = exp(a_t) S_{t-1} C_t + skip_t x_t``.

    Parameters
    ----------
    x, B, C, initial_state, chunk, reverse
        As for `ecgbook.scan.ssd`, and not checked.
    w, a, skip : Tensor, shape (batch, length, heads)
        Weights; log decays, which are not positive; and how much of its own input a step gets
        besides. All of one dtype, that of `x` or a finer one.
    strict : bool

    Returns
    -------
    Tensor, shape (batch, length, heads, head_dim)
        In the dtype of `x`; computed in that of `w`.
    """
    if reverse:  # time runs backward: turn it around, and the result back
        turned = (v.flip(1) for v in (x, w, a, B, C, skip))
        return weighted_chunks(*turned, initial_state, chunk, False, strict).flip(1)
    batch, length, heads, head_dim = x.shape
    u, B, C = (v.to(w.dtype) for v in (x, B, C))
    B, C = (v.repeat_interleave(heads // v.shape[2], dim=2) for v in (B, C))
    # Fill the last chunk with steps of weight zero, cut time into chunks: (b, c, q, h, ...).
    chunks = (length + chunk - 1) // chunk
    fed, a, B, C = (
        F.pad(v, (0, 0) * (v.ndim - 2) + (0, chunks * chunk - length)).reshape(
            batch, chunks, chunk, *v.shape[2:]
        )
        for v in (w[..., None] * u, a, B, C)
    )
    a = a.permute(0, 3, 1, 2)  # log decays (b, h, c, q)
    L = segment_sum(a).exp()  # from step s to step t of a chunk (b, h, c, q, q)

    # 1. What the steps of a chunk give each other.
    near = torch.einsum(
        "bctsh,bhcts,bcshp->bcthp",
        torch.einsum("bcthn,bcshn->bctsh", C, B),
        L.tril(-1) if strict else L,
        fed,
    )
    # 2. What the steps of a chunk leave behind it.
    left = torch.einsum("bcshn,bhcs,bcshp->bchpn", B, L[..., -1, :], fed)
    # 3. The state before each chunk: what the chunks before it left, decayed since.
    first = torch.zeros_like(left[:, :1]) if initial_state is None else initial_state[:, None]
    whole = F.pad(a.sum(-1), (1, 0))  # (b, h, 1 + c)
    since = segment_sum(whole)[..., :-1, :-1].exp()
    before = torch.einsum("bhzc,bchpn->bzhpn", since, torch.cat([first, left[:, :-1]], 1))
    # 4. What that state gives each step.
    far = torch.einsum("bcthn,bchpn,bhct->bcthp", C, before, a.cumsum(-1).exp())

    y = (near + far).flatten(1, 2)[:, :length]
    return (y + skip[..., None] * u).to(x.dtype)


def shift(v: Tensor, mask: Tensor | None = None, *, reverse: bool = False) -> Tensor:
    """Hand each token what the one before it has; tokens outside a mask are passed over.

    Parameters
    ----------
    v : Tensor, shape (batch, length, ...)
    mask : Tensor, shape (batch, length), bool, optional
        True where there is a token; everywhere, if omitted.
    reverse : bool
        What the token after it has.

    Returns
    -------
    Tensor, shape of `v`
        Zeros where there is no such token.
    """
    ends = (0, 0) * (v.ndim - 2)
    if mask is None:
        return F.pad(v[:, 1:], (*ends, 0, 1)) if reverse else F.pad(v[:, :-1], (*ends, 1, 0))
    number = mask.cumsum(1)  # of the tokens in the mask, counted from 1
    one = mask.to(number.dtype)
    place = torch.arange(1, mask.shape[1] + 1, device=mask.device) * one
    place = F.pad(torch.zeros_like(number), (1, 1)).scatter(1, number * one, place)  # of a number
    found = place.gather(1, number + 1 if reverse else number - one)
    found = found.view(*found.shape, *[1] * (v.ndim - 2)).expand_as(v)
    return F.pad(v, (*ends, 1, 0)).gather(1, found)  # place 0, of no token, holds zeros


def selective_scan_doubling(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    reverse: bool = False,
) -> Tensor:
    """Compute Mamba-1's scan in as many steps as the length has binary digits.

    After k steps, a state holds what the last ``2^k`` inputs left; then each is joined with the
    one ``2^k`` earlier, decayed since.

    Parameters
    ----------
    u, dt, A, B, C, D, reverse
        As for `ecgbook.scan.selective_scan`, and so are the errors.

    Returns
    -------
    Tensor, shape (batch, length, channels)
    """
    check_selective(u, dt, A, B, C, D)
    if reverse:
        turned = (v.flip(1) for v in (u, dt))
        return selective_scan_doubling(*turned, A, B.flip(1), C.flip(1), D).flip(1)
    decay = (dt[..., None] * A).exp()  # (b, l, channels, n)
    state = (dt * u)[..., None] * B[:, :, None]
    span = 1
    while span < u.shape[1]:
        earlier = F.pad(state[:, :-span], (0, 0, 0, 0, span, 0))
        state = state + decay * earlier
        decay = decay * F.pad(decay[:, :-span], (0, 0, 0, 0, span, 0))
        span *= 2
    y = (state * C[:, :, None]).sum(-1)
    return y if D is None else y + D * u
