"""What `benchmarks/scan.py` and `benchmarks/models.py` compare the package with.

Other libraries are found in ``.oracles`` (`make oracles`); where they are absent, their makers
return None.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecgbook.models import (
    ConvStem,
    Mamba,
    Mamba2,
    MaskedMean,
    Scale,
    TokenClassifier,
    causal_conv,
    rms_norm,
)
from ecgbook.scan import segment_sum, ssd

ORACLES = Path(__file__).resolve().parents[1] / ".oracles"
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # transformers asks no server for kernels


class ListingMamba2(Mamba2):
    """Mamba-2 as its paper's listing has it: all chunks at once, and PyTorch's autograd.

    Source: Dao and Gu (2024), arXiv:2405.21060, listing 1; written from the algorithm. Parameters
    are those of ours.
    """

    chunk = 64

    def forward(self, h: Tensor) -> Tensor:
        """Mix tokens (batch, length, d_model) over time."""
        length = h.shape[1]
        z, xBC, dt = self.in_proj(h).split(self.outer, -1)
        xBC = F.silu(self._convolve(xBC)[..., :length].transpose(1, 2))
        x, B, C = xBC.split(self.inner, -1)
        x = x.unflatten(-1, (self.heads, -1))
        B, C = (
            v.unflatten(-1, (self.n_groups, -1)).repeat_interleave(self.heads // self.n_groups, 2)
            for v in (B, C)
        )
        dt = F.softplus(dt + self.dt_bias)
        log_decay = -self.A_log.exp() * dt
        y = self._scan_in_parallel(x * dt[..., None], log_decay, B, C)
        y = (y[:, :length] + self.D[:, None] * x).flatten(-2)
        return self.out_proj(self.norm(y * F.silu(z)))

    def _convolve(self, xBC: Tensor) -> Tensor:
        weight, bias = self.conv1d.weight, self.conv1d.bias
        width = weight.shape[-1]
        return F.conv1d(xBC.transpose(1, 2), weight, bias, padding=width - 1, groups=len(weight))

    def _scan_in_parallel(self, X: Tensor, a: Tensor, B: Tensor, C: Tensor) -> Tensor:
        missing = -X.shape[1] % self.chunk
        X, B, C = (F.pad(v, (0, 0, 0, 0, 0, missing)) for v in (X, B, C))
        a = F.pad(a, (0, 0, 0, missing))
        X, a, B, C = (v.unflatten(1, (-1, self.chunk)) for v in (X, a, B, C))
        a = a.permute(0, 3, 1, 2)  # batch, heads, chunks, steps
        sums = a.cumsum(-1)
        within = torch.einsum("bclhn,bcshn,bhcls,bcshp->bclhp", C, B, segment_sum(a).exp(), X)
        fed = torch.einsum("bcshn,bhcs,bcshp->bchpn", B, (sums[..., -1:] - sums).exp(), X)
        passed = segment_sum(F.pad(sums[..., -1], (1, 0))).exp()[..., :-1, 1:]
        states = torch.einsum("bhzc,bchpn->bzhpn", passed, fed)
        before = torch.einsum("bclhn,bchpn,bhcl->bclhp", C, states, sums.exp())
        return (within + before).flatten(1, 2)


class LoopScan(nn.Module):
    """Mamba-1's scan as a loop over steps, with PyTorch's autograd."""

    def forward(self, u, dt, A, B, C, D, reverse):
        """Scan as `ecgbook.scan.selective_scan` does, forward only."""
        assert not reverse
        state, ys = u.new_zeros(u.shape[0], *A.shape), []
        # unbind, not indexing: the backward pass of indexing fills a whole tensor each step.
        for u_t, dt_t, B_t, C_t in zip(*(v.unbind(1) for v in (u, dt, B, C)), strict=True):
            state = torch.exp(dt_t[..., None] * A) * state + (dt_t * u_t)[..., None] * B_t[:, None]
            ys.append((state @ C_t[..., None])[..., 0])
        return torch.stack(ys, 1) + D * u


class ScanAlone(nn.Module):
    """Mamba-1's scan without the layer around it.

    Parameters
    ----------
    scan : torch.nn.Module
        Called as `ecgbook.models.SelectiveScan` is.
    batch, length, channels, d_state : int
    """

    def __init__(self, scan, batch, length, channels, d_state=16):
        super().__init__()
        self.scan = scan
        self.dt = nn.Parameter(F.softplus(torch.randn(batch, length, channels) - 4))
        self.A = nn.Parameter(-torch.arange(1.0, d_state + 1).repeat(channels, 1))
        self.B = nn.Parameter(torch.randn(batch, length, d_state))
        self.C = nn.Parameter(torch.randn(batch, length, d_state))
        self.D = nn.Parameter(torch.ones(channels))

    def forward(self, u: Tensor) -> Tensor:
        """Scan u (batch, length, channels); a shorter one with the first step sizes."""
        batch, length, _ = u.shape
        dt, B, C = (v[:batch, :length] for v in (self.dt, self.B, self.C))
        return self.scan(u, dt, self.A, B, C, self.D, False)


class TransformerClassifier(TokenClassifier):
    """PyTorch's Transformer encoder behind the stem, then the mean and a linear classifier.

    Parameters
    ----------
    embed_dim, stem_width, stem_padding, dropout
        As for `ecgbook.models.EnhancedECGMamba2`.
    n_layers : int
        Encoder layers; 5 are as deep as four Mamba-2 blocks and one of attention.
    n_heads : int

    Notes
    -----
    There is no code for the position; it would add nothing to speak of to time or memory.
    """

    def __init__(self, embed_dim, stem_width, stem_padding, n_layers=5, n_heads=4, dropout=0.1):
        super().__init__()
        self.scale = Scale()
        self.stem = ConvStem(12, stem_width, embed_dim, stem_padding)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                embed_dim,
                n_heads,
                4 * embed_dim,
                dropout,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.pool = MaskedMean()
        self.head = nn.Linear(embed_dim, 5)

    def tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run the stem and the layers."""
        tokens, token_mask = self.stem(self.scale(x), mask)
        tokens = self.dropout(tokens)
        for block in self.blocks:
            tokens = block(tokens, src_key_padding_mask=~token_mask)
        return self.norm(tokens), token_mask


class GroupedStem(ConvStem):
    """The stems of the lead groups as one stem whose convolutions are grouped.

    Parameters
    ----------
    stems : sequence of ecgbook.models.ConvStem
        In the order of `ecgbook.leads.GROUPS`, which is that of the leads; their values are copied.
    """

    def __init__(self, stems: Sequence[ConvStem]):
        first, n = stems[0], len(stems)
        width, d_model = first.conv1.out_channels, first.conv2.out_channels
        (padding,) = first.conv2.padding
        super().__init__(12, n * width, n * d_model, padding)
        for conv in (self.conv1, self.conv2):
            conv.groups, conv.in_channels = n, conv.in_channels // n
        parts = [stem.state_dict() for stem in stems]
        for name, value in (*self.named_parameters(), *self.named_buffers()):
            if value.ndim:
                value.data = torch.cat([part[name] for part in parts])

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Turn x (batch, length, 12) into tokens (batch, tokens, groups, d_model)."""
        tokens, token_mask = super().forward(x, mask)
        return tokens.unflatten(-1, (self.conv1.groups, -1)), token_mask


class GroupedMamba2(nn.Module):
    """Mamba-2 layers side by side, each over tokens of its own, as one layer.

    Parameters
    ----------
    layers : sequence of ecgbook.models.Mamba2
        Of one size and with one group of B and C; their values are copied.
    """

    def __init__(self, layers: Sequence[Mamba2]):
        super().__init__()
        self.outer, self.inner, self.heads = layers[0].outer, layers[0].inner, layers[0].heads

        def stacked(get: Callable[[Mamba2], Tensor]) -> nn.Parameter:
            return nn.Parameter(torch.stack([get(layer).detach() for layer in layers]))

        self.in_proj = stacked(lambda m: m.in_proj.weight)
        self.conv_weight = stacked(lambda m: m.conv1d.weight[:, 0])
        self.conv_bias = stacked(lambda m: m.conv1d.bias)
        self.dt_bias, self.A_log = stacked(lambda m: m.dt_bias), stacked(lambda m: m.A_log)
        self.D, self.norm = stacked(lambda m: m.D), stacked(lambda m: m.norm.weight)
        self.out_proj = stacked(lambda m: m.out_proj.weight)

    def forward(self, h: Tensor) -> Tensor:
        """Mix tokens (batch, length, layers, d_model) over time."""
        n = len(self.in_proj)
        z, xBC, dt = (self._project(h, weight) for weight in self.in_proj.split(self.outer, 1))
        dt = F.softplus(dt + self.dt_bias).flatten(2)
        weight, bias = self.conv_weight.flatten(0, 1), self.conv_bias.flatten()
        xBC = F.silu(causal_conv(xBC.flatten(2), weight, bias)).unflatten(2, (n, -1))
        x, B, C = xBC.split(self.inner, -1)
        x = x.unflatten(-1, (self.heads, -1)).flatten(2, 3)
        y = ssd(x, dt, -self.A_log.exp().flatten(), B, C, self.D.flatten())
        y = y.flatten(2).unflatten(2, (n, -1)) * F.silu(z)
        return self._project(rms_norm(y, torch.ones_like(self.norm[0]), 1e-5) * self.norm,
                             self.out_proj)  # fmt: skip

    def _project(self, h: Tensor, weights: Tensor) -> Tensor:
        return torch.einsum("blgi,goi->blgo", h, weights)


def mambapy_scan() -> nn.Module | None:
    """Return mambapy's parallel scan, called as ours is."""
    if not _found("mambapy"):
        return None
    from mambapy.pscan import pscan

    class ParallelScan(nn.Module):
        def forward(self, u, dt, A, B, C, D, reverse):
            assert not reverse
            decay = torch.exp(dt[..., None] * A)
            states = pscan(decay, (dt * u)[..., None] * B[:, :, None])
            return (states @ C[..., None])[..., 0] + D * u

    return ParallelScan()


def loop_mamba(d_model: int) -> nn.Module:
    layer = Mamba(d_model)
    layer.scan = LoopScan()
    return layer


def mambapy_mamba(d_model: int) -> nn.Module | None:
    """Make mambapy's Mamba-1, which scans in parallel."""
    if not _found("mambapy"):
        return None
    from mambapy.mamba import MambaBlock, MambaConfig

    return MambaBlock(MambaConfig(d_model=d_model, n_layers=1))


def transformers_mamba2(d_model: int, d_state: int) -> nn.Module | None:
    """Make transformers' Mamba-2, which falls back to plain PyTorch on a CPU."""
    if not _found("transformers"):
        return None
    from transformers import Mamba2Config, logging
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    logging.set_verbosity_error()
    config = Mamba2Config(
        hidden_size=d_model,
        state_size=d_state,
        head_dim=64,
        num_heads=2 * d_model // 64,
        expand=2,
        n_groups=1,
        chunk_size=64,
        num_hidden_layers=1,
    )
    return Mamba2Mixer(config, layer_idx=0)


def _found(library: str) -> bool:
    folder = ORACLES / library
    if folder.is_dir() and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return folder.is_dir()


def _operands(b: int, m: int, k: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
    # A linear layer's weight comes transposed, which costs small products half of their speed.
    right = torch.randn(1, n, k).mT if b == 1 else torch.randn(b, k, n)
    return torch.randn(b, m, k), right, torch.empty(b, m, n)


class MatrixProducts:
    """Only the matrix products of a Mamba-2 layer: what no implementation can do without.

    Parameters
    ----------
    batch, length, d_model, d_state : int
    head_dim, chunk : int
        Buffers of a chunk are used again for the next, so that they stay in the cache.
    """

    def __init__(self, batch, length, d_model, d_state, head_dim=64, chunk=64):
        d_inner, tokens = 2 * d_model, batch * length
        heads = d_inner // head_dim
        shapes = [(1, tokens, d_model, width) for width in (d_inner, d_inner + 2 * d_state, heads)]
        shapes.append((1, tokens, d_inner, d_model))
        full, rest = divmod(length, chunk)
        for steps in [chunk] * full + [rest] * (rest > 0):
            shapes += [
                (batch, steps, d_state, steps),  # C B^T
                (batch * heads, steps, steps, head_dim),  # its masked form times x
                (batch, steps, d_state, d_inner),  # C S
                (batch, d_inner, steps, d_state),  # x B^T
            ]
        buffers = {(b, m, k, n): _operands(b, m, k, n) for b, m, k, n in set(shapes)}
        self.operands = [buffers[shape] for shape in shapes]
        self.flop = sum(2 * b * m * k * n for b, m, k, n in shapes)

    def forward(self) -> None:
        """Multiply once."""
        for a, b, out in self.operands:
            if len(a) == 1:
                torch.mm(a[0], b[0], out=out[0])
            else:
                torch.bmm(a, b, out=out)

    def training(self) -> None:
        """Multiply three times: each product's backward pass is two of the same size."""
        for _ in range(3):
            self.forward()
