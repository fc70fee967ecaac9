"""The models of the book and their presets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from numbers import Integral
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from ..checks import check_batch, check_fields
from ..labels import RHYTHMS
from ..leads import LEADS, column_names, group_columns
from ..scan import in_autocast
from ..signals import Preprocessing
from .attention import SelfAttention
from .frontend import ConvStem, LeadBranches, everywhere
from .layers import FeedForward, MaskedBatchNorm1d, MaskedMean, RMSNorm, Scale
from .mamba import Bidirectional, Unidirectional
from .vision_mamba import VisionMambaBlock

LEAST_SAMPLES = 64
"""The shortest signal that a model takes: the stem makes few tokens of it."""

PRESETS: dict[str, dict] = {
    "full": {"embed_dim": 384, "stem_width": 128, "stem_padding": 100},
    "tutorial": {"embed_dim": 64, "stem_width": 32, "stem_padding": 7},
}
"""Keyword arguments of the size of the original and of one that trains on a laptop."""

MAMBA2_PRESETS: dict[str, dict] = {
    "full": {**PRESETS["full"], "d_state": 128, "head_dim": 64},
    "tutorial": {**PRESETS["tutorial"], "d_state": 32, "head_dim": 32},
}
"""The same with what only `EnhancedECGMamba2` takes."""

PREPROCESSING: dict[str, Preprocessing] = {
    "full": Preprocessing(fs_hz=500, n_samples=8192),
    "tutorial": Preprocessing(fs_hz=125, n_samples=2048),
}
"""What each preset wants its records to look like: 16.384 s at 500 or 125 Hz."""


class TokenClassifier(nn.Module, ABC):
    """What the models share: a signal becomes tokens, their mean becomes logits.

    A model gives itself ``scale``, ``pool``, ``head``, the method ``tokens`` and ``config``, the
    arguments that build it again.

    Attributes
    ----------
    leads : tuple of str
        Names of the input's columns, in their order.
    """

    leads: tuple[str, ...] = LEADS
    _least = {  # the smallest sizes that make sense
        "n_classes": 1, "embed_dim": 1, "n_layers": 0, "kernel_size": 1, "d_state": 1,
        "stem_width": 1, "stem_padding": 0,
    }  # fmt: skip

    def _configure(self, leads: Sequence[str], **sizes: object) -> None:
        """Check the arguments that build the model, and keep them."""
        checks = {
            name: (isinstance(sizes[name], Integral) and sizes[name] >= least,
                   f"a whole number of {least} or more")
            for name, least in self._least.items() if name in sizes
        }  # fmt: skip
        checks["dropout"] = 0 <= sizes["dropout"] < 1, "0 or more and less than 1"
        check_fields(SimpleNamespace(**sizes), checks)
        self.leads = column_names(leads)
        self.config = {**sizes, "leads": list(self.leads)}

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Classify records.

        Parameters
        ----------
        x : Tensor, shape (batch, length, leads), float
            Signal in mV, with the columns that ``leads`` names.
        mask : Tensor, shape (batch, length), bool, optional
            True where there is signal; everywhere, if omitted.

        Returns
        -------
        Tensor, shape (batch, n_classes)
            One logit a label.

        Raises
        ------
        TypeError, ValueError
            If the input is no tensor ``(batch, length, leads)`` of 64 samples or more, has another
            dtype than the model, or the mask does not match.
        """
        check_batch(x, mask, len(self.leads))
        if x.shape[1] < LEAST_SAMPLES:
            raise ValueError(f"input of {x.shape[1]} samples found, {LEAST_SAMPLES} or more wanted")
        own = next(self.parameters()).dtype
        mixed = in_autocast(x) and x.dtype != torch.float64
        if x.dtype != own and not mixed:
            raise ValueError(
                f"input of {x.dtype} found, {own} wanted, as the model is; convert it with "
                f"x.to({own})"
            )
        tokens, token_mask = self.tokens(x, mask)
        return self.head(self.pool(tokens, token_mask))

    @abstractmethod
    def tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Turn a signal into the tokens over which the mean is taken.

        Parameters
        ----------
        x : Tensor, shape (batch, length, leads), float
            Signal in mV, as for `forward`.
        mask : Tensor, shape (batch, length), bool, optional

        Returns
        -------
        tokens : Tensor, shape (batch, tokens, d_model)
        token_mask : Tensor, shape (batch, tokens), bool
            True where the token sees signal.
        """


class ConvBlock(nn.Module):
    """A residual block of two convolutions over tokens.

    Parameters
    ----------
    d_model : int
        Channels of a token.
    kernel_size : int
        Tokens that one convolution sees; odd.
    dropout : float
        Probability of dropping a channel's value between the convolutions in training.

    Notes
    -----
    The basic block of He et al. (2016), doi:10.1109/CVPR.2016.90, in one dimension.
    """

    def __init__(self, d_model: int, kernel_size: int = 7, dropout: float = 0.1):
        super().__init__()
        same = kernel_size // 2
        self.conv1 = nn.Conv1d(d_model, d_model, kernel_size, padding=same, bias=False)
        self.norm1 = MaskedBatchNorm1d(d_model)
        self.conv2 = nn.Conv1d(d_model, d_model, kernel_size, padding=same, bias=False)
        self.norm2 = MaskedBatchNorm1d(d_model)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, token_mask: Tensor) -> Tensor:
        """Transform ``tokens (batch, tokens, d_model)``; those outside the mask count as zero."""
        valid = token_mask[:, None]
        x = tokens.transpose(1, 2) * valid
        h = self.dropout(self.relu1(self.norm1(self.conv1(x), token_mask))) * valid
        h = self.relu2(x + self.norm2(self.conv2(h), token_mask))
        return h.transpose(1, 2)


class CNNBaseline(TokenClassifier):
    """Row 0 of the ladder: the stem, residual convolutions, mean, linear classifier.

    Parameters
    ----------
    n_classes : int
        Labels; five rhythms in this book.
    embed_dim : int
        Channels of a token (d_model).
    n_layers : int
        Residual blocks.
    kernel_size : int
        Tokens that a convolution of a block sees; odd.
    stem_width, stem_padding : int
        See `ecgbook.models.ConvStem`.
    dropout : float
        Dropout probability inside the blocks.
    leads : sequence of str
        Names of the input's columns, in their order; any names.

    Raises
    ------
    ValueError
        If `kernel_size` is even, another size makes no sense, or a lead is named twice.
    """

    def __init__(
        self,
        n_classes: int = len(RHYTHMS),
        embed_dim: int = 384,
        n_layers: int = 4,
        kernel_size: int = 7,
        stem_width: int = 128,
        stem_padding: int = 100,
        dropout: float = 0.1,
        *,
        leads: Sequence[str] = LEADS,
    ):
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={kernel_size} found, an odd number wanted")
        self._configure(
            leads,
            n_classes=n_classes,
            embed_dim=embed_dim,
            n_layers=n_layers,
            kernel_size=kernel_size,
            stem_width=stem_width,
            stem_padding=stem_padding,
            dropout=dropout,
        )
        self.scale = Scale()
        self.stem = ConvStem(len(self.leads), stem_width, embed_dim, stem_padding)
        self.blocks = nn.ModuleList(
            ConvBlock(embed_dim, kernel_size, dropout) for _ in range(n_layers)
        )
        self.pool = MaskedMean()
        self.head = nn.Linear(embed_dim, n_classes)

    def tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run the stem and the blocks."""
        tokens, token_mask = self.stem(self.scale(x), mask)
        for block in self.blocks:
            tokens = block(tokens, token_mask)
        return tokens, token_mask


class ECGVisionMamba(TokenClassifier):
    """The original's architecture: the stem, then Vision Mamba blocks.

    Parameters
    ----------
    n_classes : int
        Labels; five rhythms in this book.
    embed_dim : int
        Channels of a token (d_model).
    n_layers : int
        Blocks; the original has 24.
    direction : {"v2", "v1", "none"}
        How the blocks scan, see `ecgbook.models.VisionMambaBlock`. ``"v2"`` is the published
        model, ``"none"`` what its library's slow path silently makes of it.
    d_state : int
        State size of a channel.
    stem_width, stem_padding : int
        See `ecgbook.models.ConvStem`.
    dropout : float
        Probability of dropping a value of the tokens in front of the blocks, in training.
    leads : sequence of str
        Names of the input's columns, in their order; any names.

    Raises
    ------
    ValueError
        If the direction is none of these, a size makes no sense, or a lead is named twice.

    Notes
    -----
    The original adds a learned table of 730 positions, one a token and one for a class token in
    the middle, and classifies that one token. Here there is neither, and the mean over the tokens
    that see signal is classified: a record may have any length, padding cannot change the result,
    and the order is known to the convolutions and scans anyway.

    Source: the stem and the 24 blocks of ECG-Mamba; Zhu et al. (2024), arXiv:2401.09417 (the
    blocks).
    """

    _least = TokenClassifier._least | {"n_layers": 1}

    def __init__(
        self,
        n_classes: int = len(RHYTHMS),
        embed_dim: int = 384,
        n_layers: int = 24,
        direction: str = "v2",
        d_state: int = 16,
        stem_width: int = 128,
        stem_padding: int = 100,
        dropout: float = 0.1,
        *,
        leads: Sequence[str] = LEADS,
    ):
        super().__init__()
        self._configure(
            leads,
            n_classes=n_classes,
            embed_dim=embed_dim,
            n_layers=n_layers,
            direction=direction,
            d_state=d_state,
            stem_width=stem_width,
            stem_padding=stem_padding,
            dropout=dropout,
        )
        self.scale = Scale()
        self.stem = ConvStem(len(self.leads), stem_width, embed_dim, stem_padding)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            VisionMambaBlock(embed_dim, direction, d_state) for _ in range(n_layers)
        )
        self.norm = RMSNorm(embed_dim)
        self.pool = MaskedMean()
        self.head = nn.Linear(embed_dim, n_classes)

    def tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run the stem and the blocks."""
        tokens, token_mask = self.stem(self.scale(x), mask)
        tokens = self.dropout(tokens)
        for block in self.blocks:
            tokens = block(tokens, token_mask)
        return self.norm(tokens), token_mask


class EnhancedECGMamba2(TokenClassifier):
    """The system of the book: lead branches, bidirectional Mamba-2, attention.

    The stem sees all leads; a stem and a Mamba-2 block see each lead group. What they make of a
    stretch of signal is fused to one token. Mamba-2 and feed-forward blocks follow, then one
    block of self-attention, the mean, and a linear classifier.

    Parameters
    ----------
    n_classes : int
        Labels; five rhythms in this book.
    embed_dim : int
        Channels of a token (d_model).
    n_layers : int
        Mamba-2 blocks behind the fusion, each with a feed-forward block.
    use_multi_branch, use_attention : bool
        Whether to build the lead branches and the attention block.
    bidirectional : bool
        Whether the Mamba-2 blocks scan in both directions; if not, none of them does.
    d_state, head_dim : int
        State size and channels of a head of Mamba-2.
    n_heads : int
        Heads of the attention.
    stem_width, stem_padding : int
        See `ecgbook.models.ConvStem`.
    dropout : float
        Probability, in training, of dropping a value of the tokens in front of the blocks and
        inside the feed-forward parts.
    leads : sequence of str
        Names of the input's columns, in their order; with lead branches, they have to be of two or
        more of `ecgbook.leads.LEAD_GROUPS`.

    Raises
    ------
    ValueError
        If a size makes no sense or does not divide another one that it has to, a lead is named
        twice, or there are too few lead groups for branches.
    """

    def __init__(
        self,
        n_classes: int = len(RHYTHMS),
        embed_dim: int = 384,
        n_layers: int = 4,
        use_multi_branch: bool = True,
        use_attention: bool = True,
        *,
        bidirectional: bool = True,
        d_state: int = 128,
        head_dim: int = 64,
        n_heads: int = 4,
        stem_width: int = 128,
        stem_padding: int = 100,
        dropout: float = 0.1,
        leads: Sequence[str] = LEADS,
    ):
        super().__init__()
        self._configure(
            leads,
            n_classes=n_classes,
            embed_dim=embed_dim,
            n_layers=n_layers,
            use_multi_branch=use_multi_branch,
            use_attention=use_attention,
            bidirectional=bidirectional,
            d_state=d_state,
            head_dim=head_dim,
            n_heads=n_heads,
            stem_width=stem_width,
            stem_padding=stem_padding,
            dropout=dropout,
        )
        block = partial(
            Bidirectional if bidirectional else Unidirectional, embed_dim, d_state, head_dim
        )
        self.scale = Scale()
        self.stem = ConvStem(len(self.leads), stem_width, embed_dim, stem_padding)
        self.branches = self.fusion = self.attention = None
        if use_multi_branch:
            over_time = {name: block() for name in group_columns(self.leads)}
            self.branches = LeadBranches(over_time, stem_width, embed_dim, stem_padding, self.leads)
            self.fusion = nn.Linear((1 + len(over_time)) * embed_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(block() for _ in range(n_layers))
        self.feed_forwards = nn.ModuleList(
            FeedForward(embed_dim, dropout=dropout) for _ in range(n_layers)
        )
        if use_attention:
            self.attention = SelfAttention(embed_dim, n_heads, dropout)
        self.norm = RMSNorm(embed_dim)
        self.pool = MaskedMean()
        self.head = nn.Linear(embed_dim, n_classes)

    def tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run stem, branches, blocks and attention, as far as they are built."""
        x, masks = self.scale(x), self.stem.masks(everywhere(x, mask))
        tokens, token_mask = self.stem(x, mask, masks)
        if self.branches is not None:
            branches, _ = self.branches(x, mask, masks)
            tokens = self.fusion(torch.cat([tokens, branches.flatten(2)], dim=-1))
        tokens = self.dropout(tokens)
        for block, feed_forward in zip(self.blocks, self.feed_forwards, strict=True):
            tokens = feed_forward(block(tokens, token_mask))
        if self.attention is not None:
            tokens = self.attention(tokens, token_mask)
        return self.norm(tokens), token_mask
