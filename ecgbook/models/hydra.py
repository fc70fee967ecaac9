"""Hydra: Mamba-2's scan in both directions as one quasi-separable matrix.

The scan of one direction multiplies by a lower triangular matrix. Hydra moves it by a step, so that
its diagonal is empty, does the same in the other direction, and fills the diagonal with numbers
that the tokens choose: past, future and present each have one place, and none is counted twice.

Parameters have the names and shapes of the published code, github.com/goombalab/hydra; for what
the letters mean see `ecgbook.models.mamba`.
"""

from __future__ import annotations

from torch import Tensor, nn

from ..scan import shift
from .layers import RMSNorm, Skip
from .mamba import SharedMamba2
from .mixing import activated


class Hydra(SharedMamba2):
    """The Hydra mixer: convolution, shifted scans of both directions, normalization, gate.

    Parameters
    ----------
    d_model, d_state, head_dim, expand, d_conv, n_groups
        As for `SharedMamba2`, and so are the errors; normalization is over all groups at once.

    Notes
    -----
    With SS the scan of `Mamba2` without its D, ``y = shift(SS(x)) + flip(shift(SS(flip(x)))) +
    (fc_D x + D) x``. A shift hands each token what the one before it that sees signal found, read
    with that one's C, so a gap in the mask is stepped over as in `Mamba`.

    Source: Hwang, Lahoti, Dao and Gu (2024), arXiv:2407.09941, section 3.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        head_dim: int = 64,
        expand: int = 2,
        d_conv: int = 7,
        n_groups: int = 1,
    ):
        super().__init__(d_model, d_state, head_dim, expand, d_conv, n_groups)
        d_inner = expand * d_model
        nn.init.zeros_(self.A_log)
        self.fc_D = nn.Linear(d_inner, self.heads, bias=False)
        self.skip = Skip()
        self.norm = RMSNorm(d_inner)

    def forward(self, h: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix tokens over time; arguments, result and errors as for `Mamba.forward`."""
        z, xBC, dt = self._enter(h, mask)
        xBC = activated(self.conv1d, self.act, xBC)
        x, B, C, B_b, C_b = xBC.split(self.inner, -1)
        past = shift(self._scan(x, dt[:, :, 0], B, C, None, False), mask)
        future = shift(self._scan(x, dt[:, :, 1], B_b, C_b, None, True), mask, reverse=True)
        y = past + future + self.skip(x, self.fc_D(x), self.D)
        return self.out_proj(self.gate(self.norm(y), z))
