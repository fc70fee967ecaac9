"""State-space layers over tokens: Mamba, Mamba-2, and Mamba-2 in both directions.

Mixers (`Mamba`, `Mamba2`, `SharedMamba2`) map tokens to tokens; blocks (`Unidirectional`,
`Bidirectional`) add normalization before and the residual around them. Parameters have the names
and shapes of the mamba-ssm package.

A token outside the mask enters as zero and takes a step of length zero, which leaves the state as
it is; so padding on either side changes nothing at the tokens that see signal.

Code and papers (Mamba-1: Gu and Dao 2023, algorithm 2; Mamba-2: Dao and Gu 2024, section 7):

============  ==================================================================================
code          in the papers
============  ==================================================================================
h             tokens that enter a mixer: (batch, length, d_model)
z             the gate: (batch, length, d_inner), d_inner = expand * d_model
x, u          inner channels, behind the short convolution u: (batch, length, d_inner)
xBC           x, B and C side by side, as one convolution takes them: Mamba-2 only
dt            step sizes, Delta, after softplus: (batch, length, d_inner), or a number a head
A_log, A      A = -exp(A_log): (d_inner, d_state), or a number a head
B, C          what is written into the state and read from it: (batch, length, groups, d_state)
D             skip connection: a number a channel, or a head
============  ==================================================================================
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .convolution import DepthwiseConv
from .layers import SSD, Gate, RMSNorm, SelectiveScan, check_tokens
from .mixing import (
    activated,
    count_heads,
    exact,
    initial_dt_bias,
    is_bare,
    only_signal,
    project,
    stand_still,
    undecayed,
)


class Mamba(nn.Module):
    """The Mamba-1 mixer: convolution, selective scan of each channel, gate.

    Parameters
    ----------
    d_model : int
        Channels of a token.
    d_state : int
        States of a channel.
    d_conv : int
        Tokens that the causal convolution sees.
    expand : int
        Inner channels per channel of a token.
    dt_rank : int, optional
        Rank of the projection to step sizes; a sixteenth of `d_model`, rounded up, if omitted.

    Notes
    -----
    Initial step sizes are log-uniform in [0.001, 0.1]; the published floor of 1e-4 lies below.
    Source: Gu and Dao (2023), arXiv:2312.00752, sections 3.4 to 3.6.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
    ):
        super().__init__()
        d_inner = expand * d_model
        self.d_model, self.d_inner, self.d_state = d_model, d_inner, d_state
        self.dt_rank = math.ceil(d_model / 16) if dt_rank is None else dt_rank
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.conv1d = DepthwiseConv(d_inner, d_conv)
        self.act = nn.SiLU()
        self.x_proj = nn.Linear(d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, d_inner)
        nn.init.uniform_(self.dt_proj.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        self.dt_proj.bias = nn.Parameter(initial_dt_bias(d_inner))
        self.softplus = nn.Softplus()
        self.A_log = undecayed(torch.arange(1.0, d_state + 1).log().repeat(d_inner, 1))
        self.D = undecayed(torch.ones(d_inner))
        self.scan = SelectiveScan()
        self.gate = Gate()
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

    def forward(self, h: Tensor, mask: Tensor | None = None, reverse: bool = False) -> Tensor:
        """Mix tokens over time.

        Parameters
        ----------
        h : Tensor, shape (batch, length, d_model), float
        mask : Tensor, shape (batch, length), bool, optional
            True where the token sees signal; everywhere, if omitted.
        reverse : bool
            Let time run from the last token to the first.

        Returns
        -------
        Tensor, shape (batch, length, d_model)
            Without meaning outside the mask.

        Raises
        ------
        ValueError
            If a shape does not fit, naming the shape found and the shape wanted.
        """
        h = only_signal(h, mask, self.d_model)
        x, z = project(self.in_proj, h, [self.d_inner, self.d_inner])  # twice (b, l, d_inner)
        return self.out_proj(self.gate(self._mix(x, mask, reverse), z))

    def _mix(self, x: Tensor, mask: Tensor | None, reverse: bool) -> Tensor:
        chosen = self._select(x, mask, reverse, self.conv1d, self.x_proj, self.dt_proj)
        return self._scan(chosen, self.A_log, self.D, reverse)

    def _select(self, x, mask, reverse, conv1d, x_proj, dt_proj):
        """Let the input choose what the scan works with: u, dt, B and C."""
        u = activated(conv1d, self.act, x, reverse)
        dt, B, C = x_proj(u).split([self.dt_rank, self.d_state, self.d_state], -1)
        if is_bare(dt_proj, nn.Linear):  # no half precision rounds the bias
            dt = exact(F.linear(dt, dt_proj.weight)) + exact(dt_proj.bias)
        else:
            dt = exact(dt_proj(dt))
        return u, stand_still(self.softplus(dt), mask), B, C

    def _scan(self, chosen, A_log, D, reverse):
        u, dt, B, C = chosen
        return self.scan(u, dt, _rates(A_log), B, C, exact(D), reverse)


class _Mamba2(nn.Module):
    """The parameters of Mamba-2 with B, C and dt for one direction or for two."""

    directions: int

    def __init__(self, d_model, d_state, head_dim, expand, d_conv, n_groups):
        super().__init__()
        d_inner = expand * d_model
        heads = count_heads(d_inner, head_dim, n_groups)
        self.d_model, self.heads, self.n_groups = d_model, heads, n_groups
        self.inner = [d_inner] + 2 * self.directions * [n_groups * d_state]  # x, then B, C in turn
        self.outer = [d_inner, sum(self.inner), self.directions * heads]  # z, xBC, dt
        self.in_proj = nn.Linear(d_model, sum(self.outer), bias=False)
        self.conv1d = DepthwiseConv(sum(self.inner), d_conv, centered=self.directions == 2)
        self.act = nn.SiLU()
        self.softplus = nn.Softplus()
        self.dt_bias = undecayed(initial_dt_bias(heads))
        self.A_log = undecayed(torch.empty(heads).uniform_(1, 16).log())
        self.D = undecayed(torch.ones(heads))
        self.ssd = SSD()
        self.gate = Gate()
        self.norm = RMSNorm(d_inner, n_groups=n_groups)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

    def _enter(self, h: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return z, xBC and the step sizes of each direction (batch, length, directions, heads)."""
        h = only_signal(h, mask, self.d_model)
        z, xBC, dt = project(self.in_proj, h, self.outer)
        dt = exact(dt).unflatten(-1, (self.directions, self.heads)) + exact(self.dt_bias)
        return z, xBC, stand_still(self.softplus(dt), mask)

    def _scan(self, x, dt, B, C, D, reverse):
        x = x.unflatten(-1, (self.heads, -1))
        B, C = (v.unflatten(-1, (self.n_groups, -1)) for v in (B, C))
        return self.ssd(x, dt, _rates(self.A_log), B, C, D, reverse).flatten(-2)

    def _leave(self, y: Tensor, z: Tensor) -> Tensor:
        gate, norm = self.gate, self.norm
        if is_bare(gate, Gate) and is_bare(gate.act, nn.SiLU) and is_bare(norm, RMSNorm):
            return self.out_proj(norm(y, z))  # takes the gate along
        return self.out_proj(norm(gate(y, z)))


class Mamba2(_Mamba2):
    """The Mamba-2 mixer: convolution, SSD scan of each head, gate, normalization.

    Parameters
    ----------
    d_model : int
        Channels of a token.
    d_state : int
        States of a channel.
    head_dim : int
        Channels of a head, which share step size and decay.
    expand : int
        Inner channels per channel of a token.
    d_conv : int
        Tokens that the causal convolution sees.
    n_groups : int
        Sets of B and C; each serves an equal share of the heads, and is normalized on its own.

    Raises
    ------
    ValueError
        If the inner channels do not fall into heads, or the heads into groups.

    Notes
    -----
    Initial step sizes are log-uniform in [0.001, 0.1]; the published floor of 1e-4 lies below.
    Source: Dao and Gu (2024), arXiv:2405.21060, section 7.
    """

    directions = 1

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        head_dim: int = 64,
        expand: int = 2,
        d_conv: int = 4,
        n_groups: int = 1,
    ):
        super().__init__(d_model, d_state, head_dim, expand, d_conv, n_groups)

    def forward(self, h: Tensor, mask: Tensor | None = None, reverse: bool = False) -> Tensor:
        """Mix tokens over time; arguments, result and errors as for `Mamba.forward`."""
        z, xBC, dt = self._enter(h, mask)  # (b, l, d_inner), (b, l, inner), (b, l, 1, heads)
        xBC = activated(self.conv1d, self.act, xBC, reverse)
        x, B, C = xBC.split(self.inner, -1)  # (b, l, d_inner), twice (b, l, groups * d_state)
        y = self._scan(x, dt[:, :, 0], B, C, exact(self.D), reverse)  # (b, l, d_inner)
        return self._leave(y, z)  # (b, l, d_model)


class SharedMamba2(_Mamba2):
    """Mamba-2 in both directions at little more than the price of one.

    Gate, x, convolution (centered), A, dt_bias, D, normalization and projections are shared; each
    direction has its own B, C and dt. The two scans are added, and D counts once.

    Parameters
    ----------
    d_model, d_state, head_dim, expand, n_groups
        As for `Mamba2`, and so are the errors.
    d_conv : int
        Tokens that the centered convolution sees; odd.

    Raises
    ------
    ValueError
        If `d_conv` is even.

    Notes
    -----
    After Hydra (Hwang, Lahoti, Dao and Gu 2024, arXiv:2407.09941), from which it differs: both
    scans see the present token (Hydra shifts each by a step), D is a constant of the head (Hydra
    adds a projection of x), the gate comes before the normalization, and A starts in [1, 16]
    (Hydra: 1).
    """

    directions = 2

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        head_dim: int = 64,
        expand: int = 2,
        d_conv: int = 7,
        n_groups: int = 1,
    ):
        if d_conv % 2 == 0:
            raise ValueError(
                f"d_conv={d_conv} found, an odd width wanted for a centered convolution, such as 7"
            )
        super().__init__(d_model, d_state, head_dim, expand, d_conv, n_groups)

    def forward(self, h: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix tokens over time; arguments, result and errors as for `Mamba.forward`."""
        z, xBC, dt = self._enter(h, mask)
        xBC = activated(self.conv1d, self.act, xBC)
        x, B, C, B_b, C_b = xBC.split(self.inner, -1)
        y = self._scan(x, dt[:, :, 0], B, C, exact(self.D), False)
        y = y + self._scan(x, dt[:, :, 1], B_b, C_b, None, True)
        return self._leave(y, z)


class Unidirectional(nn.Module):
    """A pre-norm residual block around Mamba-2, forward only: ``x + Mamba2(RMSNorm(x))``.

    Parameters
    ----------
    d_model, d_state, head_dim, expand, d_conv, n_groups
        As for `Mamba2`, and so are the errors.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        head_dim: int = 64,
        expand: int = 2,
        d_conv: int = 4,
        n_groups: int = 1,
    ):
        super().__init__()
        self.d_model = d_model
        self.norm = RMSNorm(d_model)
        self.mixer = Mamba2(d_model, d_state, head_dim, expand, d_conv, n_groups)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Transform tokens ``x (batch, length, d_model)``; mask and errors as for `Mamba`."""
        check_tokens(x, mask, self.d_model)
        return x + self.mixer(self.norm(x), mask)


class Bidirectional(nn.Module):
    """A pre-norm residual block around Mamba-2 in both directions.

    With ``h = RMSNorm(x)``: ``x + Linear([ahead(h), back(h)])``, or ``x + SharedMamba2(h)``.

    Parameters
    ----------
    d_model, d_state, head_dim, expand, n_groups
        As for `Mamba2`, and so are the errors.
    d_conv : int, optional
        Tokens that a convolution sees; 4, or 7 if `shared`, which needs an odd width.
    shared : bool
        Let the directions share what `SharedMamba2` shares, instead of a `Mamba2` for each.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        head_dim: int = 64,
        expand: int = 2,
        d_conv: int | None = None,
        n_groups: int = 1,
        shared: bool = False,
    ):
        super().__init__()
        if d_conv is None:
            d_conv = 7 if shared else 4
        sizes = d_model, d_state, head_dim, expand, d_conv, n_groups
        self.d_model, self.shared = d_model, shared
        self.norm = RMSNorm(d_model)
        if shared:
            self.mixer = SharedMamba2(*sizes)
        else:
            self.ahead, self.back = Mamba2(*sizes), Mamba2(*sizes)
            self.fuse = nn.Linear(2 * d_model, d_model)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Transform tokens ``x (batch, length, d_model)``; mask and errors as for `Mamba`."""
        check_tokens(x, mask, self.d_model)
        h = self.norm(x)
        if self.shared:
            return x + self.mixer(h, mask)
        both = self.ahead(h, mask), self.back(h, mask, reverse=True)
        return x + self.fuse(torch.cat(both, -1))


def _rates(A_log: Tensor) -> Tensor:
    return -exact(A_log).exp()
