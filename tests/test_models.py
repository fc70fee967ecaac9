"""Models: shapes, counts, padding that changes no logit, and files that give the model back."""

import numpy as np
import pytest
import torch

from ecgbook import models, storage
from ecgbook.models import PREPROCESSING, PRESETS, Bundle, CNNBaseline


def trained(preset="tutorial", **arguments):
    torch.manual_seed(0)
    model = CNNBaseline(**{**PRESETS[preset], **arguments})
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(4, 1024, 12))
    return model.eval()


def test_parameters_by_module_at_both_sizes():
    counts = {}
    for preset in PRESETS:
        model = CNNBaseline(**PRESETS[preset])
        counts[preset] = [
            sum(p.numel() for p in part.parameters())
            for part in (model.stem, model.blocks, model.head, model)
        ]
    d, k = 384, 7
    blocks = 4 * (2 * d * d * k + 4 * d)
    assert counts["full"] == [759_808, blocks, 5 * d + 5, 759_808 + blocks + 5 * d + 5]
    d = 64
    blocks = 4 * (2 * d * d * k + 4 * d)
    assert counts["tutorial"] == [36_288, blocks, 5 * d + 5, 36_288 + blocks + 5 * d + 5]


@pytest.mark.parametrize("preset", PRESETS)
def test_padding_a_record_changes_no_logit(preset):
    model = trained(preset, n_layers=2)
    steps = PREPROCESSING[preset]
    for seconds in (10.0, 4.504):
        n = round(seconds * steps.fs_hz)
        x = torch.randn(2, n, 12)
        padded = torch.full((2, steps.n_samples, 12), -3.0)  # what lies there must not matter
        padded[:, :n] = x
        mask = torch.arange(steps.n_samples).expand(2, -1) < n
        with torch.no_grad():
            alone, with_mask, without = model(x), model(padded, mask), model(padded)
        assert (alone - with_mask).abs().max() <= 1e-5
        assert (alone - without).abs().max() > 1e-3  # the mask is what makes it so


def test_every_parameter_gets_a_gradient():
    model = trained().train()
    model(torch.randn(2, 2048, 12)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 12, 2048), r"\(2, 12, 2048\) found.*transpose"),
        ((2048, 12), r"\(2048, 12\) found, \(batch, length, 12\)"),
        ((2, 2048, 8), r"\(2, 2048, 8\) found"),
        ((2, 20, 12), "20 samples found, at least 64"),
    ],
)
def test_a_wrong_input_is_named(shape, message):
    with pytest.raises(ValueError, match=message):
        trained()(torch.zeros(shape))


def test_a_wrong_mask_or_argument_is_named():
    with pytest.raises(ValueError, match=r"mask of shape \(2, 100\)"):
        trained()(torch.zeros(2, 2048, 12), torch.ones(2, 100, dtype=torch.bool))
    with pytest.raises(ValueError, match="torch.float32 found"):
        trained()(torch.zeros(2, 2048, 12), torch.ones(2, 2048))
    with pytest.raises(ValueError, match="kernel_size=4 found, an odd number"):
        CNNBaseline(kernel_size=4)
    with pytest.raises(TypeError, match="embed_dims"):
        CNNBaseline(embed_dims=64)


def test_a_saved_model_comes_back_with_all_it_needs(tmp_path):
    model = trained(n_layers=2, dropout=0.3)
    bundle = Bundle(model, PREPROCESSING["tutorial"], np.linspace(0.1, 0.9, 5), {"data": "x"})
    again = models.load(models.save(bundle, tmp_path / "m.safetensors"))
    x = torch.randn(2, 2048, 12)
    assert torch.equal(again.model(x), model(x))
    assert not again.model.training and again.model.config == model.config
    assert again.preprocessing == bundle.preprocessing and again.card == bundle.card
    np.testing.assert_array_equal(again.thresholds, bundle.thresholds)


def test_a_foreign_file_is_refused(tmp_path):
    path = storage.write_safetensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match="model None found, a model of ecgbook wanted"):
        models.load(path)
