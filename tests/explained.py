"""Small models and records for the tests of explanations."""

import torch
from torch import nn

from ecgbook.models import CNNBaseline, ECGVisionMamba, EnhancedECGMamba2

STEM = {"stem_width": 8, "stem_padding": 7}
BUILD = {
    "cnn": lambda: CNNBaseline(embed_dim=16, n_layers=1, **STEM),
    "vision mamba": lambda: ECGVisionMamba(embed_dim=16, n_layers=1, d_state=4, **STEM),
    "mamba-2": lambda: EnhancedECGMamba2(embed_dim=32, n_layers=1, d_state=8, head_dim=16, **STEM),
}


class Linear(nn.Module):
    """Logits that are linear in the signal inside the mask: every attribution is known."""

    def __init__(self, length=40, leads=3, n_classes=4, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(
            torch.randn(n_classes, length, leads, generator=generator, dtype=torch.float64)
        )
        self.bias = nn.Parameter(torch.arange(1.0, n_classes + 1).double())
        self.eval()

    def forward(self, x, mask=None):
        if mask is not None:
            x = x.masked_fill(~mask[..., None], 0)
        return torch.einsum("btl,ktl->bk", x, self.weight[:, : x.shape[1]]) + self.bias


class Curved(Linear):
    """The same of a smooth function of the signal."""

    def forward(self, x, mask=None):
        if mask is not None:
            x = x.masked_fill(~mask[..., None], 0)
        return super().forward(torch.tanh(x) + 0.3 * x * x.roll(1, 1), mask)


def book_model(name, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    return BUILD[name]().to(dtype).eval()


def signals(lengths=(40, 40), leads=3, seed=1, padding=float("nan")):
    """Make records that are padded behind, and their mask."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(lengths), max(lengths), leads, generator=generator, dtype=torch.float64)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return x.masked_fill(~mask[..., None], padding), mask
