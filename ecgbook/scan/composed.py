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
    if reverse:  # time runs backward: turn it around, and the result back
        turned = (v.flip(1) for v in (x, dt))
        options = {"chunk": chunk, "initial_state": initial_state}
        return ssd_chunks(*turned, A, B.flip(1), C.flip(1), D, **options).flip(1)
    batch, length, heads, head_dim = x.shape
    u, B, C = (v.to(dt.dtype) for v in (x, B, C))
    B, C = (v.repeat_interleave(heads // v.shape[2], dim=2) for v in (B, C))
    # Fill the last chunk with steps of length zero, cut time into chunks: (b, c, q, h, ...).
    chunks = (length + chunk - 1) // chunk
    fed, a, B, C = (
        F.pad(v, (0, 0) * (v.ndim - 2) + (0, chunks * chunk - length)).reshape(
            batch, chunks, chunk, *v.shape[2:]
        )
        for v in (dt[..., None] * u, dt * A, B, C)
    )
    a = a.permute(0, 3, 1, 2)  # log decays (b, h, c, q)
    L = segment_sum(a).exp()  # from step s to step t of a chunk (b, h, c, q, q)

    # 1. What the steps of a chunk give each other.
    near = torch.einsum(
        "bctsh,bhcts,bcshp->bcthp", torch.einsum("bcthn,bcshn->bctsh", C, B), L, fed
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
    y = y if D is None else y + D[:, None] * u
    return y.to(x.dtype)


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
