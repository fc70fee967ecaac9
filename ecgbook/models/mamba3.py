"""Mamba-3: a scan by the trapezoidal rule, with states that turn, and no convolution.

Parameters have the names and shapes of the mamba-ssm package. Masks act as in
`ecgbook.models.mamba`. A step of Mamba-3 also looks back at the token before it; behind a gap in
the mask that is the last one before the gap. So tokens outside the mask are as good as not there.

Code and paper (Lahoti et al. 2026, section 3), beside what `ecgbook.models.mamba` has:

============  ==================================================================================
code          in the paper
============  ==================================================================================
A             decay rates, negative, chosen by the token: (batch, length, heads)
share         lambda, what of a step its own token gets: (batch, length, heads)
angles        theta, what a step turns pairs of states by: (batch, length, pairs)
B, C          normalized, with a bias for each head, and turned: (batch, length, heads, d_state)
============  ==================================================================================
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layers import Gate, RMSNorm, TrapezoidalScan
from .mixing import (
    count_heads,
    exact,
    initial_dt_bias,
    only_signal,
    project,
    stand_still,
    undecayed,
)


class Mamba3(nn.Module):
    """The Mamba-3 mixer with one input and one output a head: rotation, trapezoidal scan, gate.

    Parameters
    ----------
    d_model : int
        Channels of a token.
    d_state : int
        States of a channel; of every four, two turn as a pair.
    head_dim : int
        Channels of a head, which share step size, decay and rotation.
    expand : int
        Inner channels per channel of a token.
    n_groups : int
        Sets of B and C; each serves an equal share of the heads.

    Raises
    ------
    ValueError
        If the inner channels do not fall into heads, the heads into groups, or no pair can turn.

    Notes
    -----
    Initial step sizes are log-uniform in [0.001, 0.1]; the published floor of 1e-4 lies below.
    Decay rates are those of mamba-ssm since its change 962; with weights that its release 2.3.2
    has trained, put ``-softplus`` in the place of `decay`.

    Source: Lahoti et al. (2026), arXiv:2603.15569, section 3.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        head_dim: int = 64,
        expand: int = 2,
        n_groups: int = 1,
    ):
        super().__init__()
        d_inner = expand * d_model
        heads, pairs = count_heads(d_inner, head_dim, n_groups), d_state // 4
        if pairs < 1:
            raise ValueError(f"d_state={d_state} found, 4 or more wanted: of every four, two turn")
        self.d_model, self.heads, self.n_groups = d_model, heads, n_groups
        # z, x, B, C, dt, A, share, angles
        self.outer = [d_inner] * 2 + [n_groups * d_state] * 2 + [heads] * 3 + [pairs]
        self.in_proj = nn.Linear(d_model, sum(self.outer), bias=False)
        self.dt_bias = undecayed(initial_dt_bias(heads))
        self.softplus = nn.Softplus()
        self.decay = DecayRate()
        self.share = TrapezoidShare()
        self.B_norm, self.C_norm = RMSNorm(d_state), RMSNorm(d_state)
        self.B_bias = nn.Parameter(torch.ones(heads, 1, d_state))
        self.C_bias = nn.Parameter(torch.ones(heads, 1, d_state))
        self.rotation = Rotation()
        self.D = undecayed(torch.ones(heads))
        self.scan = TrapezoidalScan()
        self.gate = Gate()
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

    def forward(self, h: Tensor, mask: Tensor | None = None, reverse: bool = False) -> Tensor:
        """Mix tokens over time; arguments, result and errors as for `Mamba.forward`."""
        h = only_signal(h, mask, self.d_model)
        z, x, B, C, dt, A, share, angles = project(self.in_proj, h, self.outer)
        dt = stand_still(self.softplus(exact(dt) + exact(self.dt_bias)), mask)  # (b, l, heads)
        A, share = self.decay(exact(A)), self.share(exact(share))
        B = self._of_heads(B, self.B_norm, self.B_bias)  # (b, l, heads, d_state)
        C = self._of_heads(C, self.C_norm, self.C_bias)
        B, C = (v.to(x.dtype) for v in self.rotation(B, C, dt, exact(angles), reverse))
        x = x.unflatten(-1, (self.heads, -1))
        y = self.scan(x, dt, A, share, B, C, exact(self.D), mask, reverse).flatten(-2)
        return self.out_proj(self.gate(y, z))  # (b, l, d_model)

    def _of_heads(self, v: Tensor, norm: nn.Module, bias: Tensor) -> Tensor:
        """Normalize the B or C of each group, and give each of its heads a bias of its own."""
        v = norm(v.unflatten(-1, (self.n_groups, 1, -1)))
        bias = bias.view(self.n_groups, -1, bias.shape[-1])
        return (exact(v) + exact(bias)).flatten(2, 3)


class DecayRate(nn.Module):
    """Turn any number into a negative rate: ``-(1 + v)`` for v > 0 and ``-1 / (1 - v)`` below.

    Parameters
    ----------
    floor : float
        No rate is nearer to zero, so that every state fades.
    """

    def __init__(self, floor: float = 1e-4):
        super().__init__()
        self.floor = floor

    def forward(self, v: Tensor) -> Tensor:
        """Map ``v``, any shape."""
        return -(v.relu() + 1 / (1 - v.clamp(max=0))).clamp(min=self.floor)

    def extra_repr(self) -> str:
        """Show the floor in ``print(model)``."""
        return f"floor={self.floor}"


class TrapezoidShare(nn.Sigmoid):
    """Turn any number into Mamba-3's lambda: what of a step its own token gets, from 0 to 1."""


class Rotation(nn.Module):
    """Turn pairs of states by angles that add up over time: the imaginary part of Mamba-3's A.

    The states' numbers 1 and 2 are a pair, 3 and 4 are the next, and so on, as far as there are
    angles; the rest stays as it is. Where B and C are turned alike, what a step wrote is read
    turned by what came since.
    """

    def forward(
        self, B: Tensor, C: Tensor, dt: Tensor, angles: Tensor, reverse: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Turn B and C.

        Parameters
        ----------
        B, C : Tensor, shape (batch, length, heads, d_state), float
        dt : Tensor, shape (batch, length, heads), float
            Step sizes.
        angles : Tensor, shape (batch, length, pairs), float
            Any numbers; a step turns by ``pi tanh(angles) dt`` radians.
        reverse : bool
            Let time run from the last token to the first.

        Returns
        -------
        tuple of Tensor
            B and C, turned.
        """
        turns = dt[..., None] * (torch.pi * angles.tanh())[:, :, None]
        angle = turns.flip(1).cumsum(1).flip(1) if reverse else turns.cumsum(1)
        cos, sin = angle.cos(), angle.sin()  # (batch, length, heads, pairs)
        return _turned(B, cos, sin), _turned(C, cos, sin)


def _turned(v: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    size = 2 * cos.shape[-1]
    pairs, rest = v.split([size, v.shape[-1] - size], -1)
    first, second = pairs.unflatten(-1, (-1, 2)).unbind(-1)
    pairs = torch.stack([first * cos - second * sin, first * sin + second * cos], -1)
    return torch.cat([pairs.flatten(-2), rest], -1)
