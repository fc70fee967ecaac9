"""Vision Mamba: Mamba-1 that reads the tokens in both directions, in its three variants.

Parameters have the names and shapes of the published code, github.com/hustvl/Vim.
"""

from __future__ import annotations

from torch import Tensor, nn

from .layers import RMSNorm, check_tokens
from .mamba import Mamba

DIRECTIONS = ("none", "v1", "v2")
"""Forward only; both, sharing all but A; both, sharing only gate and projections."""


class VisionMamba(Mamba):
    """The mixer of Vision Mamba: the scans of both directions, added before gate and projection.

    Parameters
    ----------
    d_model : int
        Channels of a token.
    direction : {"none", "v1", "v2"}
        "none": forward only. "v1": one causal convolution and selection serves both scans; only A
        is the backward scan's own (``A_b_log``). "v2": the backward direction has its own
        convolution, selection, A and D (``conv1d_b``, ``x_proj_b``, ``dt_proj_b``, ``A_b_log``,
        ``D_b``).
    d_state, d_conv, expand, dt_rank
        As for `ecgbook.models.Mamba`.

    Raises
    ------
    ValueError
        If the direction is none of these.

    Notes
    -----
    Each variant is computed in one way only: no setting drops the backward direction, and unlike
    in the published code ``dt_proj_b`` starts as ``dt_proj`` does. In "v1" the skip D counts
    twice, as published.
    Source: Zhu et al. (2024), arXiv:2401.09417, algorithm 1 ("v2"); the published code ("v1").
    """

    def __init__(
        self,
        d_model: int,
        direction: str = "v2",
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
    ):
        if direction not in DIRECTIONS:
            wanted = ", ".join(map(repr, DIRECTIONS))
            raise ValueError(f"direction={direction!r} found, one of {wanted} wanted")
        super().__init__(d_model, d_state, d_conv, expand, dt_rank)
        self.direction = direction
        if direction == "none":
            return
        twin = Mamba(d_model, d_state, d_conv, expand, dt_rank)
        self.A_b_log = twin.A_log
        if direction == "v2":
            self.conv1d_b, self.x_proj_b, self.dt_proj_b = twin.conv1d, twin.x_proj, twin.dt_proj
            self.D_b = twin.D

    def _mix(self, x: Tensor, mask: Tensor | None, reverse: bool) -> Tensor:
        chosen = self._select(x, mask, reverse, self.conv1d, self.x_proj, self.dt_proj)
        y, D = self._scan(chosen, self.A_log, self.D, reverse), self.D
        if self.direction == "none":
            return y
        if self.direction == "v2":
            own = self.conv1d_b, self.x_proj_b, self.dt_proj_b
            chosen, D = self._select(x, mask, not reverse, *own), self.D_b
        return y + self._scan(chosen, self.A_b_log, D, not reverse)


class VisionMambaBlock(nn.Module):
    """A pre-norm residual block around Vision Mamba: ``x + VisionMamba(RMSNorm(x))``.

    Parameters
    ----------
    d_model, direction, d_state, d_conv, expand, dt_rank
        As for `VisionMamba`, and so are the errors.
    """

    def __init__(
        self,
        d_model: int,
        direction: str = "v2",
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
    ):
        super().__init__()
        self.d_model = d_model
        self.norm = RMSNorm(d_model)
        self.mixer = VisionMamba(d_model, direction, d_state, d_conv, expand, dt_rank)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Transform tokens; mask and errors as for `ecgbook.models.Mamba.forward`.

        Parameters
        ----------
        x : Tensor, shape (batch, length, d_model), float
        mask : Tensor, shape (batch, length), bool, optional

        Returns
        -------
        Tensor, shape (batch, length, d_model)
        """
        check_tokens(x, mask, self.d_model)
        return x + self.mixer(self.norm(x), mask)
