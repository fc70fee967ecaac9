"""The models of the book, their presets, and how a trained one is saved and loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from .frontend import ConvStem
from .labels import RHYTHMS
from .layers import MaskedBatchNorm1d, MaskedMean, Scale
from .preprocessing import Preprocessing
from .storage import read_safetensors, write_safetensors

PRESETS: dict[str, dict] = {
    "full": {"embed_dim": 384, "stem_width": 128, "stem_padding": 100},
    "tutorial": {"embed_dim": 64, "stem_width": 32, "stem_padding": 7},
}
"""Keyword arguments of the size of the original and of one that trains on a laptop."""

PREPROCESSING: dict[str, Preprocessing] = {
    "full": Preprocessing(fs_hz=500, n_samples=8192),
    "tutorial": Preprocessing(fs_hz=125, n_samples=2048),
}
"""What each preset wants its records to look like: 16.384 s at 500 or 125 Hz."""


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
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, token_mask: Tensor) -> Tensor:
        """Transform ``tokens (batch, tokens, d_model)``; those outside the mask count as zero."""
        valid = token_mask[:, None]
        x = tokens.transpose(1, 2) * valid
        h = self.dropout(self.relu(self.norm1(self.conv1(x), token_mask))) * valid
        h = self.relu(x + self.norm2(self.conv2(h), token_mask))
        return h.transpose(1, 2)


class CNNBaseline(nn.Module):
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
        See `ecgbook.frontend.ConvStem`.
    dropout : float
        Dropout probability inside the blocks.

    Raises
    ------
    ValueError
        If an argument is out of its range, or the input is not ``(batch, length, 12)``.
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
    ):
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={kernel_size} found, an odd number wanted")
        self.config = {
            "n_classes": n_classes,
            "embed_dim": embed_dim,
            "n_layers": n_layers,
            "kernel_size": kernel_size,
            "stem_width": stem_width,
            "stem_padding": stem_padding,
            "dropout": dropout,
        }
        self.scale = Scale()
        self.stem = ConvStem(12, stem_width, embed_dim, stem_padding)
        self.blocks = nn.ModuleList(
            ConvBlock(embed_dim, kernel_size, dropout) for _ in range(n_layers)
        )
        self.pool = MaskedMean()
        self.head = nn.Linear(embed_dim, n_classes)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Classify records.

        Parameters
        ----------
        x : Tensor, shape (batch, length, 12), float
            Signal in mV, standard lead order.
        mask : Tensor, shape (batch, length), bool, optional
            True where there is signal; everywhere, if omitted.

        Returns
        -------
        Tensor, shape (batch, n_classes)
            One logit a label.
        """
        check_input(x, mask)
        tokens, token_mask = self.stem(self.scale(x), mask)
        for block in self.blocks:
            tokens = block(tokens, token_mask)
        return self.head(self.pool(tokens, token_mask))


def check_input(x: Tensor, mask: Tensor | None) -> None:
    """Refuse a batch that is not ``(batch, length, 12)`` with a matching boolean mask.

    Parameters
    ----------
    x : Tensor
    mask : Tensor or None

    Raises
    ------
    ValueError
        Naming the shape found and the shape wanted.
    """
    if x.ndim != 3 or x.shape[-1] != 12:
        hint = "; transpose the last two axes" if x.ndim == 3 and x.shape[1] == 12 else ""
        raise ValueError(
            f"input of shape {tuple(x.shape)} found, (batch, length, 12) in mV wanted{hint}"
        )
    if x.shape[1] < 64:
        raise ValueError(f"input of {x.shape[1]} samples found, at least 64 wanted")
    if mask is not None and (mask.shape != x.shape[:2] or mask.dtype.is_floating_point):
        raise ValueError(
            f"mask of shape {tuple(mask.shape)}, {mask.dtype} found, "
            f"{tuple(x.shape[:2])}, torch.bool wanted"
        )


@dataclass(frozen=True)
class Bundle:
    """A trained model with all that is needed to use it on a record.

    Attributes
    ----------
    model : torch.nn.Module
        In evaluation mode.
    preprocessing : Preprocessing
        What turns a record into the model's input.
    thresholds : ndarray, shape (n_classes,)
        Probability from which a label counts as present, chosen on validation data.
    card : dict
        How the model was trained: data, recipe, scores.
    """

    model: nn.Module
    preprocessing: Preprocessing
    thresholds: np.ndarray
    card: dict = field(default_factory=dict)


def save(bundle: Bundle, path: str | Path) -> Path:
    """Write a model to one safetensors file, atomically.

    The weights are the file's tensors; class, arguments, preprocessing, thresholds and card are
    JSON in its header.

    Parameters
    ----------
    bundle : Bundle
    path : str or Path
        File to write; its folder is made if need be.

    Returns
    -------
    Path
    """
    header = {
        "model": type(bundle.model).__name__,
        "config": bundle.model.config,
        "preprocessing": bundle.preprocessing.to_dict(),
        "thresholds": np.asarray(bundle.thresholds, dtype=float).tolist(),
        "card": bundle.card,
    }
    return write_safetensors(path, bundle.model.state_dict(), header)


def load(path: str | Path) -> Bundle:
    """Read a model that `save` wrote.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    Bundle

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no model of this package.
    """
    tensors, header = read_safetensors(path)
    cls = {c.__name__: c for c in (CNNBaseline,)}.get(header.get("model"))
    if cls is None:
        raise ValueError(f"{path}: model {header.get('model')!r} found, a model of ecgbook wanted")
    model = cls(**header["config"])
    model.load_state_dict(tensors)
    return Bundle(
        model=model.eval(),
        preprocessing=Preprocessing.from_dict(header["preprocessing"]),
        thresholds=np.array(header["thresholds"]),
        card=header["card"],
    )
