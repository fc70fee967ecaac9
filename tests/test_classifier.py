"""What the models share: input that is checked, scaled, and pooled over tokens that see signal."""

import pytest
import torch
from torch import nn

from ecgbook.classifier import TokenClassifier
from ecgbook.layers import MaskedMean, Scale


class Plain(TokenClassifier):
    """Each sample is a token; the head sums the leads."""

    def __init__(self):
        super().__init__()
        self.scale, self.pool, self.head = Scale(), MaskedMean(), nn.Linear(12, 1, bias=False)
        nn.init.ones_(self.head.weight)

    def tokens(self, x, mask=None):
        return x, torch.ones_like(x[..., 0], dtype=torch.bool) if mask is None else mask


def test_the_logit_is_the_head_of_the_mean_over_valid_tokens_of_the_scaled_signal():
    x = torch.randn(2, 100, 12)
    mask = torch.arange(100).expand(2, -1) < 70
    torch.testing.assert_close(Plain()(x, mask)[:, 0], 4 * x[:, :70].mean(1).sum(-1))
    torch.testing.assert_close(Plain()(x)[:, 0], 4 * x.mean(1).sum(-1))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 12, 2048), r"\(2, 12, 2048\) found.*transpose"),
        ((2048, 12), r"\(2048, 12\) found, \(batch, length, 12\)"),
        ((2, 2048, 8), r"\(2, 2048, 8\) found"),
        ((2, 20, 12), "20 samples found, at least 64"),
        ((0, 2048, 12), "an empty batch found, at least one record wanted"),
    ],
)
def test_a_wrong_input_is_named(shape, message):
    with pytest.raises(ValueError, match=message):
        Plain()(torch.zeros(shape))


def test_a_signal_in_double_precision_is_refused_by_a_model_in_single():
    x = torch.zeros(2, 100, 12, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"torch.float64 found, torch.float32 wanted.*x\.float"):
        Plain()(x)
    assert Plain().double()(x).dtype == torch.float64


def test_a_wrong_mask_is_named():
    with pytest.raises(ValueError, match=r"mask of shape \(2, 100\)"):
        Plain()(torch.zeros(2, 2048, 12), torch.ones(2, 100, dtype=torch.bool))
    with pytest.raises(ValueError, match="torch.float32 found"):
        Plain()(torch.zeros(2, 2048, 12), torch.ones(2, 2048))
