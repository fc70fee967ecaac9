"""State-space scans as their equations say them: slow, plain, and the measure of the fast forms.

Source: T. Dao and A. Gu (2024), arXiv:2405.21060 (Mamba-2); A. Lahoti et al. (2026),
arXiv:2603.15569 (Mamba-3); A. Gu and T. Dao (2023), arXiv:2312.00752 (Mamba-1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def ssd_recurrence(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
    reverse: bool = False,
) -> Tensor:
    """Follow Mamba-2's recurrence one step at a time.

    ``S_t = exp(dt_t A) S_{t-1} + dt_t x_t B_t^T`` and ``y_t = S_t C_t + D x_t``.

    Parameters
    ----------
    x, dt, A, B, C, D, initial_state, reverse
        As for `ecgbook.scan.ssd`, and so are the errors.

    Returns
    -------
    Tensor, shape (batch, length, heads, head_dim)
    """
    check_ssd(x, dt, A, B, C, D, initial_state)
    batch, length, heads, head_dim = x.shape
    B, C = (v.repeat_interleave(heads // v.shape[2], dim=2) for v in (B, C))
    state = initial_state
    if state is None:
        state = x.new_zeros(batch, heads, head_dim, B.shape[-1])
    ys = [x[:, 0]] * length
    for t in reversed(range(length)) if reverse else range(length):
        decay = torch.exp(dt[:, t] * A)[..., None, None]
        state = decay * state + (dt[:, t, :, None] * x[:, t])[..., None] * B[:, t, :, None]
        ys[t] = (state @ C[:, t, :, :, None])[..., 0]
    y = torch.stack(ys, dim=1)
    return y if D is None else y + D[:, None] * x


def ssd_matrix(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None
) -> Tensor:
    """Compute Mamba-2's scan as one masked matrix product a head: quadratic in the length.

    ``y = (L * C B^T) diag(dt) x + D x`` with ``L_ts = exp(sum of dt_r A over s < r <= t)``.

    Parameters
    ----------
    x, dt, A, B, C, D
        As for `ecgbook.scan.ssd`, and so are the errors.

    Returns
    -------
    Tensor, shape (batch, length, heads, head_dim)
    """
    check_ssd(x, dt, A, B, C, D, None)
    heads = x.shape[2]
    B, C = (v.repeat_interleave(heads // v.shape[2], dim=2).transpose(1, 2) for v in (B, C))
    M = segment_sum((dt * A).transpose(1, 2)).exp() * (C @ B.transpose(-1, -2))
    y = (M @ (dt[..., None] * x).transpose(1, 2)).transpose(1, 2)
    return y if D is None else y + D[:, None] * x


def segment_sum(a: Tensor) -> Tensor:
    """Sum every segment of a sequence, without subtracting large numbers.

    Parameters
    ----------
    a : Tensor, shape (..., length)

    Returns
    -------
    Tensor, shape (..., length, length)
        Entry (t, s) is the sum of ``a_r`` over s < r <= t, and minus infinity for s > t.
    """
    length = a.shape[-1]
    after = torch.ones(length, length, dtype=torch.bool, device=a.device).tril(-1)
    sums = torch.where(after, a[..., :, None], 0).cumsum(-2)
    return sums.masked_fill(after.T, -torch.inf)


def trapezoidal_recurrence(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    share: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    reverse: bool = False,
) -> Tensor:
    """Follow Mamba-3's recurrence one step at a time.

    ``S_t = exp(dt_t A_t) (S_{t-1} + (1 - share_t) dt_t x_{t-1} B_{t-1}^T) + share_t dt_t x_t
    B_t^T`` and ``y_t = S_t C_t + D x_t``, with nothing before the first token.

    Parameters
    ----------
    x, dt, A, share, B, C, D, mask, reverse
        As for `ecgbook.scan.trapezoidal_scan`, and so are the errors.

    Returns
    -------
    Tensor, shape (batch, length, heads, head_dim)
    """
    check_trapezoidal(x, dt, A, share, B, C, D, mask)
    batch, length, heads, head_dim = x.shape
    B, C = (v.repeat_interleave(heads // v.shape[2], dim=2) for v in (B, C))
    state = before = x.new_zeros(batch, heads, head_dim, B.shape[-1])
    ys = [x[:, 0]] * length
    for t in reversed(range(length)) if reverse else range(length):
        step, part = dt[:, t, :, None, None], share[:, t, :, None, None]
        own = x[:, t, :, :, None] * B[:, t, :, None]
        moved = torch.exp(step * A[:, t, :, None, None]) * (state + (1 - part) * step * before)
        moved = moved + part * step * own
        if mask is not None:  # elsewhere the state stands still, and so does the left end
            inside = mask[:, t, None, None, None]
            moved, own = torch.where(inside, moved, state), torch.where(inside, own, before)
        state, before = moved, own
        ys[t] = (state @ C[:, t, :, :, None])[..., 0]
    y = torch.stack(ys, dim=1)
    return y if D is None else y + D[:, None] * x


def selective_scan_recurrence(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    reverse: bool = False,
) -> Tensor:
    """Follow Mamba-1's recurrence one step at a time.

    ``h_t = exp(dt_t A) h_{t-1} + dt_t u_t B_t`` and ``y_t = h_t C_t + D u_t``, a channel at a time.

    Parameters
    ----------
    u, dt, A, B, C, D, reverse
        As for `ecgbook.scan.selective_scan`, and so are the errors.

    Returns
    -------
    Tensor, shape (batch, length, channels)
    """
    check_selective(u, dt, A, B, C, D)
    state = u.new_zeros(u.shape[0], *A.shape)
    ys = [u[:, 0]] * u.shape[1]
    for t in reversed(range(len(ys))) if reverse else range(len(ys)):
        state = torch.exp(dt[:, t, :, None] * A) * state
        state = state + (dt[:, t] * u[:, t])[..., None] * B[:, t, None]
        ys[t] = (state * C[:, t, None]).sum(-1)
    y = torch.stack(ys, dim=1)
    return y if D is None else y + D * u


def may_go_back(*inputs: Tensor | None) -> bool:
    """Say whether a backward pass may follow; a `torch.autograd.Function` itself cannot tell.

    Parameters
    ----------
    *inputs : Tensor or None
        What it will be given.

    Returns
    -------
    bool
    """
    return torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in inputs)


def plain_backward(
    plain: Callable[..., Tensor], inputs: Sequence[Tensor | None], dy: Tensor
) -> tuple[Tensor | None, ...]:
    """Compute gradients that can be differentiated again, from a form that autograd knows.

    The fast backward passes of this package are no part of a graph. Where a gradient is to have
    one (``create_graph=True``), they give way to this.

    Parameters
    ----------
    plain : callable
        Takes the inputs and returns what the fast form returns.
    inputs : sequence of Tensor or None
        Of the fast form, as its forward pass saved them.
    dy : Tensor
        Gradient of the result.

    Returns
    -------
    tuple of Tensor or None
        The gradient of each input that needs one.
    """
    # Each input under a name of its own: one may have been computed from another.
    inputs = [None if v is None else v.view_as(v) for v in inputs]
    wanted = [v for v in inputs if v is not None and v.requires_grad]
    grads = iter(torch.autograd.grad(plain(*inputs), wanted, dy, create_graph=True))
    return tuple(next(grads) if v is not None and v.requires_grad else None for v in inputs)


def check_ssd(x, dt, A, B, C, D, initial_state) -> None:
    """Check shapes, dtypes and devices of the inputs of Mamba-2's scan.

    Parameters
    ----------
    x, dt, A, B, C, D, initial_state
        As for `ecgbook.scan.ssd`; A may be missing.

    Raises
    ------
    ValueError
        Naming the tensor, what was found and what is wanted.
    """
    if x.ndim != 4 or not x.numel():
        raise ValueError(
            f"x of shape {tuple(x.shape)} found, (batch, length, heads, head_dim), none of them 0, "
            "wanted"
        )
    batch, length, heads, head_dim = x.shape
    if B.ndim != 4 or not B.numel() or heads % B.shape[2]:
        raise ValueError(
            f"B of shape {tuple(B.shape)} found, (batch, length, groups, d_state) wanted "
            f"with groups dividing the {heads} heads"
        )
    groups, d_state = B.shape[2:]
    _check_shapes(
        dt=(dt, (batch, length, heads)),
        A=(A, (heads,)),
        B=(B, (batch, length, groups, d_state)),
        C=(C, (batch, length, groups, d_state)),
        D=(D, (heads,)),
        initial_state=(initial_state, (batch, heads, head_dim, d_state)),
    )
    _check_kinds("x", x, B=B, C=C)
    if dt.device != x.device or torch.promote_types(x.dtype, dt.dtype) != dt.dtype:
        raise ValueError(
            f"dt of {dt.dtype} on {dt.device} found, {x.dtype} as x or a finer dtype on {x.device} "
            "wanted; convert it with dt.to(x)"
        )
    _check_kinds("dt", dt, A=A, D=D, initial_state=initial_state)


def check_trapezoidal(x, dt, A, share, B, C, D, mask) -> None:
    """Check shapes, dtypes and devices of the inputs of Mamba-3's scan.

    Parameters
    ----------
    x, dt, A, share, B, C, D, mask
        As for `ecgbook.scan.trapezoidal_scan`.

    Raises
    ------
    ValueError
        Naming the tensor, what was found and what is wanted.
    """
    check_ssd(x, dt, None, B, C, D, None)
    _check_shapes(A=(A, dt.shape), share=(share, dt.shape), mask=(mask, dt.shape[:2]))
    _check_kinds("dt", dt, A=A, share=share)
    if mask is not None and (mask.dtype, mask.device) != (torch.bool, x.device):
        raise ValueError(
            f"mask of {mask.dtype} on {mask.device} found, torch.bool on {x.device} wanted; "
            "convert it with mask.bool().to(x.device)"
        )


def check_selective(u, dt, A, B, C, D) -> None:
    """Check shapes, dtypes and devices of the inputs of Mamba-1's scan.

    Parameters
    ----------
    u, dt, A, B, C, D
        As for `ecgbook.scan.selective_scan`.

    Raises
    ------
    ValueError
        Naming the tensor, what was found and what is wanted.
    """
    if u.ndim != 3 or not u.numel():
        raise ValueError(
            f"u of shape {tuple(u.shape)} found, (batch, length, channels), none of them 0, wanted"
        )
    if A.ndim != 2 or not A.numel():
        raise ValueError(f"A of shape {tuple(A.shape)} found, (channels, d_state) wanted")
    (batch, length, channels), d_state = u.shape, A.shape[1]
    _check_shapes(
        dt=(dt, (batch, length, channels)),
        A=(A, (channels, d_state)),
        B=(B, (batch, length, d_state)),
        C=(C, (batch, length, d_state)),
        D=(D, (channels,)),
    )
    _check_kinds("u", u, dt=dt, A=A, B=B, C=C, D=D)


def _check_shapes(**wanted: tuple[Tensor | None, tuple[int, ...]]) -> None:
    for name, (tensor, shape) in wanted.items():
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} of shape {tuple(tensor.shape)} found, {tuple(shape)} wanted")


def _check_kinds(like: str, pattern: Tensor, **others: Tensor | None) -> None:
    if not pattern.is_floating_point():
        raise ValueError(f"{like} of {pattern.dtype} found, a floating dtype wanted")
    for name, tensor in others.items():
        if tensor is None or (tensor.dtype, tensor.device) == (pattern.dtype, pattern.device):
            continue
        raise ValueError(
            f"{name} of {tensor.dtype} on {tensor.device} found, {pattern.dtype} on "
            f"{pattern.device} as {like} wanted; convert it with {name}.to({like})"
        )
