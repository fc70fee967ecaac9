"""Models: counts, padding that changes no logit, and directions."""

import json

import pytest
import torch
from torch import nn

from ecgbook.leads import INDEPENDENT, LEADS
from ecgbook.models import (
    MAMBA2_PRESETS,
    PREPROCESSING,
    PRESETS,
    CNNBaseline,
    ECGVisionMamba,
    EnhancedECGMamba2,
    MaskedMean,
    Scale,
    TokenClassifier,
    frontend,
)

PLAIN = {"use_multi_branch": False, "use_attention": False}
KINDS = {
    "cnn": (CNNBaseline, PRESETS, {}),
    "vision mamba v2": (ECGVisionMamba, PRESETS, {}),
    "vision mamba v1": (ECGVisionMamba, PRESETS, {"direction": "v1"}),
    "vision mamba none": (ECGVisionMamba, PRESETS, {"direction": "none"}),
    "enhanced": (EnhancedECGMamba2, MAMBA2_PRESETS, {}),
    "enhanced, plain": (EnhancedECGMamba2, MAMBA2_PRESETS, PLAIN),
    "enhanced, one direction": (EnhancedECGMamba2, MAMBA2_PRESETS, {"bidirectional": False}),
}


def trained(kind="cnn", preset="tutorial", n_layers=2, **arguments):
    torch.manual_seed(0)
    cls, presets, more = KINDS[kind]
    model = cls(**{**presets[preset], **more, "n_layers": n_layers, **arguments})
    with torch.no_grad():
        for _ in range(3):  # running statistics as training leaves them, not 0 and 1
            model(torch.randn(2, 512, 12))
    return model.eval()


def count(module):
    return sum(p.numel() for p in module.parameters())


def by_module(model):
    return {name: count(part) for name, part in model.named_children() if count(part)}


def test_parameters_of_the_baseline_by_module_at_both_sizes():
    for preset, d, stem in (("full", 384, 759_808), ("tutorial", 64, 36_288)):
        blocks, head = 4 * (2 * d * d * 7 + 4 * d), 5 * d + 5
        model = CNNBaseline(**PRESETS[preset])
        assert by_module(model) == {"stem": stem, "blocks": blocks, "head": head}


def test_parameters_of_the_original_by_module():
    parts = by_module(ECGVisionMamba())
    blocks = 24 * 1_043_328
    assert parts == {"stem": 759_808, "blocks": blocks, "norm": 384, "head": 1_925}
    one_way = by_module(ECGVisionMamba(direction="none", n_layers=1))
    assert 1_043_328 - one_way["blocks"] == 79_104


def test_parameters_of_the_enhanced_model_by_module_at_both_sizes():
    model = EnhancedECGMamba2()
    feed_forward = 1_181_952
    assert by_module(model) == {
        "stem": 759_808,
        "branches": 2_974_720 + 9_131_296,
        "fusion": 737_664,
        "blocks": 4 * 2_282_824,
        "feed_forwards": 4 * feed_forward,
        "attention": 591_360 + 384 + feed_forward,
        "norm": 384,
        "head": 1_925,
    }
    assert count(model) == 29_238_597
    assert count(model.branches.stems) == 2_974_720
    assert [count(block) for block in model.branches.blocks.values()] == [2_282_824] * 4
    assert count(EnhancedECGMamba2(use_multi_branch=False)) == 16_394_917
    assert count(EnhancedECGMamba2(**PLAIN)) == 14_621_221
    tutorial = EnhancedECGMamba2(**MAMBA2_PRESETS["tutorial"])
    assert count(tutorial) == 915_717
    assert by_module(tutorial) == {
        "stem": 36_288,
        "branches": 129_024 + 273_504,
        "fusion": 20_544,
        "blocks": 273_504,
        "feed_forwards": 406_112 - 273_504,
        "attention": 49_856,
        "norm": 64,
        "head": 325,
    }


@pytest.mark.parametrize(
    ("preset", "kind"), [*(("tutorial", kind) for kind in KINDS), ("full", "cnn"),
                         ("full", "vision mamba v2"), ("full", "enhanced")]
)  # fmt: skip
def test_padding_a_record_changes_no_logit(preset, kind):
    model = trained(kind, preset, n_layers=2 if preset == "tutorial" else 1)
    steps = PREPROCESSING[preset]
    for seconds in (10.0, 4.504) if preset == "tutorial" else (4.504,):
        n = round(seconds * steps.fs_hz)
        x = torch.randn(2, n, 12)
        padded = torch.full((2, steps.n_samples, 12), -3.0)  # what lies there must not matter
        padded[:, :n] = x
        mask = torch.arange(steps.n_samples).expand(2, -1) < n
        with torch.no_grad():
            alone, with_mask, without = model(x), model(padded, mask), model(padded)
        assert (alone - with_mask).abs().max() <= 1e-5
        assert (alone - without).abs().max() > 1e-3  # the mask is what makes it so


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient(kind):
    model = trained(kind).train()
    model(torch.randn(2, 512, 12)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(
    ("kind", "arguments", "both_ways"),
    [
        ("vision mamba v2", {}, True),
        ("vision mamba v1", {}, True),
        ("vision mamba none", {}, False),
        ("enhanced, plain", {}, True),
        ("enhanced, plain", {"use_multi_branch": True}, True),
        ("enhanced, one direction", {"use_attention": False}, False),  # nor do the branches
        ("enhanced, one direction", {"use_multi_branch": False}, True),  # attention looks ahead
    ],
)
def test_the_last_sample_reaches_the_first_token_only_where_a_part_looks_ahead(
    kind, arguments, both_ways
):
    model = trained(kind, **arguments)
    x = torch.randn(1, 512, 12, requires_grad=True)
    tokens, _ = model.tokens(x)
    ahead = torch.autograd.grad(tokens[0, 0].square().sum(), x, retain_graph=True)[0][0, -1]
    back = torch.autograd.grad(tokens[0, -1].square().sum(), x)[0][0, 0]
    assert (ahead != 0).any() == both_ways
    assert (back != 0).any()


def test_dropout_acts_in_training_only():
    for kind in KINDS:
        model, x = trained(kind, dropout=0.5), torch.randn(2, 512, 12)
        assert torch.equal(model(x), model(x))
        model.train()
        assert not torch.equal(model(x), model(x)), kind
        model = trained(kind, dropout=0.0).train()
        assert torch.equal(model(x), model(x)), kind


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_argument_is_refused(kind):
    cls = KINDS[kind][0]
    with pytest.raises(TypeError, match="embed_dims"):
        cls(embed_dims=64)


def test_an_argument_out_of_range_and_a_wrong_input_are_named():
    with pytest.raises(ValueError, match="kernel_size=4 found, an odd number"):
        CNNBaseline(kernel_size=4)
    with pytest.raises(ValueError, match="direction='v3' found"):
        ECGVisionMamba(direction="v3", n_layers=1)
    with pytest.raises(ValueError, match="n_heads=5 found, a divisor of d_model=64"):
        EnhancedECGMamba2(**MAMBA2_PRESETS["tutorial"], n_heads=5)
    with pytest.raises(ValueError, match="head_dim=48 found"):
        EnhancedECGMamba2(**{**MAMBA2_PRESETS["tutorial"], "head_dim": 48})
    for kind in KINDS:
        with pytest.raises(ValueError, match=r"\(2, 2048, 8\) found, \(batch, length, 12\)"):
            trained(kind)(torch.zeros(2, 2048, 8))


@pytest.mark.parametrize("kind", ["cnn", "vision mamba v2", "enhanced"])
@pytest.mark.parametrize(
    ("size", "value"),
    [
        ("n_layers", -1), ("n_layers", 1.5), ("embed_dim", 0), ("n_classes", 0),
        ("stem_width", 0), ("stem_padding", -1), ("kernel_size", -1), ("d_state", 0),
        ("dropout", 1.5), ("dropout", -0.1), ("dropout", float("nan")),
    ],
)  # fmt: skip
def test_a_size_that_makes_no_sense_is_named(kind, size, value):
    if size == ("d_state" if kind == "cnn" else "kernel_size"):
        return  # an argument of others
    cls, presets, _ = KINDS[kind]
    wanted = "0 or more and less than 1" if size == "dropout" else "a whole number of [01] or more"
    with pytest.raises(ValueError, match=f"^{size}={value} found, {wanted} wanted$"):
        cls(**presets["tutorial"] | {size: value})


def test_a_model_without_blocks_is_the_stem_alone_but_not_a_vision_mamba():
    for kind in ("cnn", "enhanced"):
        assert trained(kind, n_layers=0)(torch.randn(2, 512, 12)).shape == (2, 5)
    with pytest.raises(ValueError, match="n_layers=0 found, a whole number of 1 or more wanted"):
        trained("vision mamba v2", n_layers=0)


ANY_LEADS = [(kind, leads) for kind in KINDS for leads in (INDEPENDENT, LEADS[::-1])]
ANY_LEADS += [(kind, ("MLII",)) for kind in ("cnn", "vision mamba v2", "enhanced, plain")]


@pytest.mark.parametrize(("kind", "leads"), ANY_LEADS)
def test_a_model_takes_the_leads_it_is_built_for_and_is_built_again_for_them(kind, leads):
    torch.manual_seed(0)
    cls, presets, more = KINDS[kind]
    model = cls(**presets["tutorial"], **more, n_layers=1, leads=leads).eval()
    assert model.leads == leads and model.config["leads"] == list(leads)
    x = torch.randn(2, 512, len(leads), requires_grad=True)
    model(x).square().sum().backward()
    assert (x.grad.abs().sum((0, 1)) > 0).all()
    again = cls(**json.loads(json.dumps(model.config))).eval()
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again(x), model(x))
    with pytest.raises(ValueError, match=rf"\(2, 512, 5\) found, \(batch, length, {len(leads)}\)"):
        model(torch.randn(2, 512, 5))


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_no_named_leads_is_for_the_twelve(kind):
    model = trained(kind)
    old = {key: value for key, value in model.config.items() if key != "leads"}
    assert model.leads == type(model)(**old).leads == LEADS
    assert model.config["leads"] == list(LEADS)


def test_branches_follow_their_leads_wherever_their_columns_stand():
    model = trained("enhanced")
    turned = EnhancedECGMamba2(**model.config | {"leads": LEADS[::-1]}).eval()
    turned.load_state_dict(model.state_dict())
    with torch.no_grad():
        for conv in (turned.stem.conv1, model.stem.conv1):
            conv.weight.zero_()  # what sees all leads knows no names
    x = torch.randn(2, 512, 12)
    torch.testing.assert_close(turned(x.flip(2)), model(x))
    assert (turned(x) - model(x)).abs().max() > 1e-3


def test_branches_of_some_leads_are_fused_to_the_same_width():
    sizes = MAMBA2_PRESETS["tutorial"]
    model = EnhancedECGMamba2(**sizes, n_layers=1, leads=INDEPENDENT)
    widths = {name: stem.conv1.in_channels for name, stem in model.branches.stems.items()}
    assert widths == {"limb": 2, "anterior": 3, "lateral": 3}
    assert model.fusion.in_features == 4 * 64 and model.fusion.out_features == 64
    for leads, found in ((("I", "II", "III"), "I, II, III of 1 lead"), (["MLII"], "MLII of 0")):
        with pytest.raises(ValueError, match=f"{found}.* limb, .* wanted; .*multi_branch=False$"):
            EnhancedECGMamba2(**sizes, leads=leads)
        EnhancedECGMamba2(**sizes, use_multi_branch=False, leads=leads)


class Plain(TokenClassifier):
    """Each sample is a token; the head sums the leads."""

    def __init__(self):
        super().__init__()
        self.scale, self.pool, self.head = Scale(), MaskedMean(), nn.Linear(12, 1, bias=False)
        nn.init.ones_(self.head.weight)

    def tokens(self, x, mask=None):
        return self.scale(x), torch.ones_like(x[..., 0], dtype=torch.bool) if mask is None else mask


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
        ((2, 20, 12), "20 samples found, 64 or more wanted"),
        ((0, 2048, 12), "an empty batch found, at least one record wanted"),
    ],
)
def test_a_wrong_input_is_named(shape, message):
    with pytest.raises(ValueError, match=message):
        Plain()(torch.zeros(shape))


def test_a_signal_in_double_precision_is_refused_by_a_model_in_single():
    x = torch.zeros(2, 100, 12, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"torch.float64 found, torch.float32 wanted.*x\.to"):
        Plain()(x)
    assert Plain().double()(x).dtype == torch.float64


def test_a_wrong_mask_is_named():
    with pytest.raises(ValueError, match=r"mask of shape \(2, 100\)"):
        Plain()(torch.zeros(2, 2048, 12), torch.ones(2, 100, dtype=torch.bool))
    with pytest.raises(ValueError, match="torch.float32 found"):
        Plain()(torch.zeros(2, 2048, 12), torch.ones(2, 2048))


def test_the_mask_is_followed_once_a_pass_whatever_the_number_of_stems(monkeypatch):
    calls, follow = [], frontend.follow_mask
    monkeypatch.setattr(frontend, "follow_mask", lambda *a: calls.append(a) or follow(*a))
    model = trained("enhanced, plain", use_multi_branch=True)
    mask = torch.ones(2, 512, dtype=torch.bool)
    for given in (mask, None):
        calls.clear()
        model(torch.randn(2, 512, 12), given)
        assert len(calls) == 2, "one for each convolution of a stem"


@pytest.mark.parametrize("kind", KINDS)
def test_without_memory_a_model_has_a_shape_of_logits(kind):
    cls, presets, more = KINDS[kind]
    with torch.device("meta"):
        model = cls(**{**presets["full"], **more, "n_layers": 1}).eval()
    x, mask = torch.zeros(2, 8192, 12, device="meta"), torch.ones(2, 8192, device="meta") > 0
    assert model(x).shape == model(x, mask).shape == (2, 5)
