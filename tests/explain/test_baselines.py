"""Attributions: exact on a linear model, by hand where a formula is short, and free of traces."""

from functools import partial

import captum.attr
import numpy as np
import pytest
import torch
from explained import BUILD, STEM, Curved, Linear, book_model, signals

from ecgbook.explain import baselines as methods
from ecgbook.models import (
    CNNBaseline,
    ConvStem,
    EnhancedECGMamba2,
    MaskedMean,
    Scale,
    SelfAttention,
    TokenClassifier,
)

EXACT = {"atol": 1e-12, "rtol": 1e-12}
ANY = {  # on any model
    "gradient_times_input": methods.gradient_times_input,
    "smooth_grad": partial(methods.smooth_grad, samples=2),
    "integrated_gradients": partial(methods.integrated_gradients, steps=3),
    "occlusion": partial(methods.occlusion, window=32),
    "random": methods.random_relevance,
}
ALL = {**ANY, "grad_cam": methods.grad_cam, "attention_rollout": methods.attention_rollout}


class TwoAttentions(TokenClassifier):
    """A stem, two blocks of attention, the mean: what rollout was made for."""

    def __init__(self):
        super().__init__()
        self.scale, self.stem = Scale(), ConvStem(12, 8, 16, 7)
        self.first, self.second = SelfAttention(16, 2), SelfAttention(16, 2)
        self.pool, self.head = MaskedMean(), torch.nn.Linear(16, 5)

    def tokens(self, x, mask=None):
        tokens, token_mask = self.stem(self.scale(x), mask)
        return self.second(self.first(tokens, token_mask), token_mask), token_mask


# ---- values


@pytest.mark.parametrize("name", ["gradient_times_input", "smooth_grad", "integrated_gradients"])
@pytest.mark.parametrize("target", [2, torch.tensor([3, 0])])
def test_gradients_are_exact_on_a_linear_model(name, target):
    model, (x, mask) = Linear(), signals((40, 25))
    wanted = (model.weight[target] * x).masked_fill(~mask[..., None], 0)
    found = ALL[name](model, x, target, mask)
    tolerance = 1e-6 if name == "integrated_gradients" else 1e-12  # Captum's steps are float32
    torch.testing.assert_close(found, wanted.detach(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("per_lead", [False, True])
def test_occlusion_of_a_linear_model_is_the_sum_over_each_window(per_lead):
    model, (x, mask) = Linear(), signals((40, 25))
    parts = (model.weight[1] * x).masked_fill(~mask[..., None], 0).detach()
    found = methods.occlusion(model, x, 1, mask, window=12, per_lead=per_lead)
    for start in (0, 12, 24, 36):  # 40 is no multiple of 12
        for lead in range(3):
            leads = slice(lead, lead + 1) if per_lead else slice(None)
            whole = parts[:, start : start + 12, leads].sum((1, 2))[:, None]
            wanted = whole * mask[:, start : start + 12]
            part = found[:, start : start + 12, lead]
            torch.testing.assert_close(part, wanted, atol=1e-6, rtol=1e-6)  # Captum's float32


@pytest.mark.parametrize("name", list(BUILD))
def test_gradient_times_input_is_that_of_captum(name):
    model, (x, mask) = book_model(name), signals((256, 200), leads=12, padding=0.0)
    found = methods.gradient_times_input(model, x, 3, mask)
    leaf = x.clone().requires_grad_()
    wanted = captum.attr.InputXGradient(model).attribute(
        leaf, target=3, additional_forward_args=(mask,)
    )
    torch.testing.assert_close(found, wanted.detach(), **EXACT)
    assert found.abs().max() > 1e-3


@pytest.mark.parametrize("name", ["toy", "cnn"])
def test_integrated_gradients_add_up_to_the_difference_from_a_flat_record(name):
    model = Curved(256, 12) if name == "toy" else book_model("cnn")
    if name == "cnn":  # with biases; without any, the gradient alone adds up
        for norm in (model.stem.norm1, model.stem.norm2):
            torch.nn.init.normal_(norm.bias)
    x, mask = signals((256, 200), leads=12)
    with torch.no_grad():
        rise = (model(x, mask) - model(torch.zeros_like(x), mask))[:, 2]
    gaps = []
    for steps in (2, 100):
        found = methods.integrated_gradients(model, x, 2, mask, steps=steps, batch_size=50)
        gaps.append((found.sum((1, 2)) - rise).abs().max() / rise.abs().max())
    assert gaps[1] < 0.05 and gaps[1] < gaps[0] / 10
    plain = methods.gradient_times_input(model, x, 2, mask).sum((1, 2))
    assert (plain - rise).abs().max() / rise.abs().max() > 0.05


def test_smooth_grad_averages_the_gradient_over_the_noise_of_its_generator():
    def cube(x, mask=None):
        return (weight * x**3).sum((1, 2))[:, None]

    x, _ = signals()
    weight = torch.rand(40, 3, dtype=torch.float64)
    options = {"samples": 5, "sigma_mv": 0.3}
    found = methods.smooth_grad(cube, x, 0, **options, generator=torch.Generator().manual_seed(4))
    generator = torch.Generator().manual_seed(4)
    noise = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for _ in range(5)]
    mean = sum(3 * weight * (x + 0.3 * e) ** 2 for e in noise) / 5
    torch.testing.assert_close(found, x * mean, **EXACT)
    silent = methods.smooth_grad(cube, x, 0, samples=2, sigma_mv=0)
    torch.testing.assert_close(silent, methods.gradient_times_input(cube, x, 0), **EXACT)


def test_grad_cam_where_the_slope_is_known():
    torch.manual_seed(0)
    model = CNNBaseline(embed_dim=16, n_layers=0, **STEM).double().eval()
    x, mask = signals((256, 200), leads=12)
    found = methods.grad_cam(model, x, 3, mask)
    with torch.no_grad():
        tokens, token_mask = model.stem(model.scale(x), mask)
        for row, length in enumerate((256, 200)):
            n = int(token_mask[row].sum())
            # The logit is the mean over tokens of head.weight @ token, so its slope is known.
            values = (tokens[row, :n] @ model.head.weight[3] / n).relu().numpy()
            at = 12 * np.arange(n) + 4.5  # kernels 14 and 15, strides 3 and 4, paddings 2 and 7
            wanted = np.interp(np.arange(length), at, values)
            assert (wanted > 0).any() and (wanted == 0).any()
            for lead in (0, 11):
                np.testing.assert_allclose(found[row, :length, lead], wanted, atol=1e-12)


def test_a_token_lies_in_the_middle_of_the_samples_that_it_sees():
    stem = ConvStem(12, 8, 16, padding=7).double().eval()
    x = torch.ones(1, 256, 12, dtype=torch.float64, requires_grad=True)
    token = 9
    stem(x)[0][0, token].sum().backward()
    seen = x.grad.abs().sum((0, 2)).nonzero()[:, 0].double()
    tokens, token_mask = stem(x)
    one = torch.nn.functional.one_hot(torch.tensor([token]), tokens.shape[1])
    spread = methods._to_samples(one.double(), token_mask, stem, x)[0, :, 0]
    middle = (spread * torch.arange(256)).sum() / spread.sum()
    assert middle.item() == pytest.approx((seen.min() + seen.max()).item() / 2)


def test_rollout_is_the_product_of_half_attention_half_identity():
    torch.manual_seed(0)
    model, (x, mask) = TwoAttentions().double().eval(), signals((256, 200), leads=12)
    for block in (model.first, model.second):  # sharper than at the start of training
        block.in_proj.weight.data *= 6
    found = methods.attention_rollout(model, x, 0, mask)
    with torch.no_grad():
        tokens, token_mask = model.stem(model.scale(x), mask)
        rollout, identity = None, torch.eye(tokens.shape[1], dtype=torch.float64)
        for block in (model.first, model.second):
            q, k, _ = block.heads(tokens)
            weights = torch.stack([q[:, h] @ k[:, h].mT / 8**0.5 for h in range(2)])
            weights = weights.masked_fill(~token_mask[None, :, None], -1e9).softmax(-1).mean(0)
            step = 0.5 * weights + 0.5 * identity
            rollout = step if rollout is None else step @ rollout
            tokens = block(tokens, token_mask)
        for row, length in enumerate((256, 200)):
            n = int(token_mask[row].sum())
            shares = rollout[row, :n].mean(0)
            assert shares.sum().item() == pytest.approx(1) and shares.std() > 0.1 / n
            wanted = np.interp(np.arange(length), 12 * np.arange(n) + 4.5, shares[:n].numpy())
            np.testing.assert_allclose(found[row, :length, 5], wanted, atol=1e-12)


def test_random_relevance_is_standard_normal_and_repeats_with_its_generator():
    x, mask = signals((4000, 3000), padding=0.0)
    one, two = (
        methods.random_relevance(Linear(), x, 0, mask, generator=torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    assert torch.equal(one, two)
    inside = one[mask]
    assert abs(inside.mean()) < 0.03 and abs(inside.std() - 1) < 0.03


# ---- what all have in common


@pytest.mark.parametrize(
    ("name", "method"),
    [(n, m) for n in BUILD for m in ALL if n == "mamba-2" or m != "attention_rollout"],
)
def test_a_map_is_shaped_like_the_record_and_leaves_no_trace(method, name):
    model, (x, mask) = book_model(name, torch.float32), signals((256, 200), leads=12)
    x = x.float()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    model.stem.requires_grad_(False)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    copy, grad_mode = x.clone(), torch.is_grad_enabled()

    found = ALL[method](model, x, torch.tensor([4, 1]), mask)

    assert found.shape == x.shape and found.dtype == x.dtype and not found.requires_grad
    assert found.isfinite().all()
    assert (found[1, 200:] == 0).all() and (found[1, :200] != 0).any()
    assert torch.equal(x.nan_to_num(9), copy.nan_to_num(9)) and not x.requires_grad
    assert x.grad is None and torch.is_grad_enabled() == grad_mode
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all((p.grad == 7).all() for p in model.parameters())
    assert not any(p.requires_grad for p in model.stem.parameters())
    assert model.head.weight.requires_grad
    for module in model.modules():
        assert not module.training
        assert not module._forward_hooks and not module._forward_pre_hooks
        assert not module._backward_hooks and not module._backward_pre_hooks


@pytest.mark.parametrize("method", [name for name in ALL if name not in ("random", "smooth_grad")])
def test_padding_and_company_do_not_change_a_map(method):
    model, (x, mask) = book_model("mamba-2"), signals((256, 192), leads=12)
    together = ALL[method](model, x, torch.tensor([4, 1]), mask)
    alone = ALL[method](model, x[1:, :192], 1)
    tolerance = 1e-6 if method == "integrated_gradients" else 1e-10
    torch.testing.assert_close(together[1:, :192], alone, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("method", [name for name in ALL if name != "attention_rollout"])
def test_maps_can_be_made_where_gradients_are_off_and_parameters_frozen(method):
    model, (x, mask) = book_model("mamba-2"), signals((256, 200), leads=12)
    wanted = ALL[method](model, x, 1, mask)
    model.requires_grad_(False)
    with torch.no_grad():
        found = ALL[method](model, x, 1, mask)
    if method not in ("random", "smooth_grad"):
        torch.testing.assert_close(found, wanted)
        assert (found - ALL[method](model, x, 0, mask)).abs().max() > 1e-6, "the class matters"


@pytest.mark.parametrize("method", ["random", "smooth_grad"])
def test_a_generator_leaves_the_chance_of_torch_alone(method):
    model, (x, mask) = Linear(), signals()
    before = torch.get_rng_state()
    ALL[method](model, x, 0, mask, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)


# ---- refusals


@pytest.mark.parametrize("method", list(ALL))
def test_training_mode_is_refused_before_anything_runs(method):
    model, (x, mask) = book_model("mamba-2").train(), signals((256, 200), leads=12)
    before = model.stem.norm1.running_mean.clone()
    with pytest.raises(ValueError, match="training mode found, evaluation mode wanted"):
        ALL[method](model, x, 0, mask)
    assert torch.equal(model.stem.norm1.running_mean, before)
    assert not model.stem._forward_hooks and not model.attention.attend._forward_pre_hooks


@pytest.mark.parametrize("method", list(ANY))
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": torch.tensor([0, 1, 2])}, r"target of shape \(3,\), torch.int64 found"),
        ({"target": 1.0}, "torch.float32 found, a whole number or 2"),
        ({"target": True}, "torch.bool found, a whole number or 2"),
        ({"mask": torch.ones(2, 39, dtype=torch.bool)}, r"mask of shape \(2, 39\)"),
        ({"mask": torch.ones(2, 40)}, "torch.float32 found, .* torch.bool wanted"),
        ({"x": torch.ones(40, 40)}, r"input of shape \(40, 40\) found"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(method, change, message):
    x, mask = signals()
    arguments = {"x": x, "target": 0, "mask": mask, **change}
    with pytest.raises(ValueError, match=message):
        ANY[method](Linear(), **arguments)


@pytest.mark.parametrize("target", [4, -1])
def test_a_class_that_the_model_does_not_have_is_refused(target):
    x, mask = signals()
    with pytest.raises(ValueError, match=f"target .*{target}.* found, 0 to 3 wanted"):
        methods.gradient_times_input(Linear(), x, target, mask)


def test_rollout_without_attention_and_grad_cam_without_stem_are_refused():
    x, mask = signals((256, 200), leads=12)
    torch.manual_seed(0)
    without = EnhancedECGMamba2(embed_dim=32, n_layers=1, head_dim=16, use_attention=False, **STEM)
    for model in (without.double().eval(), book_model("cnn")):
        with pytest.raises(ValueError, match="without SelfAttention found, a model with attention"):
            methods.attention_rollout(model, x, 0, mask)
    for method in (methods.grad_cam, methods.attention_rollout):
        with pytest.raises(ValueError, match="Linear without a ConvStem called stem found"):
            method(Linear(), x, 0, mask)


def test_options_out_of_range_are_refused():
    model, (x, mask) = Linear(), signals()
    for options in ({"samples": 0}, {"sigma_mv": -0.1}, {"sigma_mv": float("nan")}):
        with pytest.raises(ValueError, match="1 or more samples and 0 mV or more"):
            methods.smooth_grad(model, x, 0, mask, **options)
    for window in (0, 41):
        with pytest.raises(ValueError, match=f"window={window} found, 1 to 40"):
            methods.occlusion(model, x, 0, mask, window=window)
