"""Rules: values stay, the model comes back, relevance is conserved, and every rule is needed."""

import copy

import pytest
import torch
from lrp_cases import MODELS, build, imbalance, missed, normal, propagate, settle, signal
from torch import nn

from ecgbook.explain import MAMBA_LRP, MissingRule, Rules, attn_lrp, gamma, lrp, plain
from ecgbook.leads import LEAD_GROUPS
from ecgbook.models import (
    S4D,
    SSD,
    Attend,
    Bidirectional,
    ConvBlock,
    ConvStem,
    DepthwiseConv,
    EnhancedECGMamba2,
    FeedForward,
    Gate,
    Hydra,
    LeadBranches,
    Mamba,
    Mamba2,
    Mamba3,
    MaskedBatchNorm1d,
    RMSNorm,
    SelectiveScan,
    SelfAttention,
    Skip,
    TrapezoidalScan,
    Unidirectional,
    VisionMamba,
)
from ecgbook.scan import ssd_recurrence

SMALL = {"d_state": 4, "head_dim": 8}
LRP_0 = MAMBA_LRP.without(nn.Conv1d)
MASK = torch.arange(13) < torch.tensor([13, 9])[:, None]
GAPS = MASK & (torch.arange(13) % 4 != torch.tensor([1, 2])[:, None])


def tokens(d_model=16):
    return normal((2, 13, d_model))


def steps(*shape):
    return normal(shape, seed=3).exp() * 0.3


def branches():
    torch.manual_seed(0)
    return LeadBranches({name: Bidirectional(8, **SMALL) for name in LEAD_GROUPS}, 6, 8, 7)


SCAN = (
    normal((2, 13, 2, 4)), steps(2, 13, 2), -steps(2), normal((2, 13, 1, 3)),
    normal((2, 13, 1, 3), 5), normal((2,)),
)  # fmt: skip
TRAPEZOIDAL = (
    normal((2, 13, 2, 4)), steps(2, 13, 2), -steps(2, 13, 2), normal((2, 13, 2), 4).sigmoid(),
    normal((2, 13, 1, 3)), normal((2, 13, 1, 3), 5), normal((2,)), MASK,
)  # fmt: skip
SELECTIVE = (
    tokens(), steps(2, 13, 16), -steps(16, 3), normal((2, 13, 3)), normal((2, 13, 3), 5),
    normal((16,)),
)  # fmt: skip
HEADS = tuple(normal((2, 4, 13, 6), seed) for seed in (1, 2, 3))
STEM_INPUT = signal(samples=150)
LAYERS = {
    "SiLU": (nn.SiLU, [tokens()], nn.SiLU),
    "GELU": (nn.GELU, [tokens()], nn.GELU),
    "RMSNorm": (lambda: RMSNorm(16), [tokens()], RMSNorm),
    "RMSNorm, groups": (lambda: RMSNorm(16, n_groups=2), [tokens()], RMSNorm),
    "LayerNorm": (lambda: nn.LayerNorm(16), [tokens()], nn.LayerNorm),
    "gate": (Gate, [tokens(), normal((2, 13, 16), 5)], Gate),
    "SSD": (SSD, SCAN, SSD),
    "trapezoidal scan": (TrapezoidalScan, TRAPEZOIDAL, TrapezoidalScan),
    "selective scan": (SelectiveScan, SELECTIVE, SelectiveScan),
    "GLU": (nn.GLU, [tokens()], nn.GLU),
    "skip": (Skip, [tokens(), normal((2, 13, 4), 5), normal((4,))], Skip),
    "Mamba": (lambda: Mamba(16, d_state=4), [tokens(), MASK], Gate),
    "Vision Mamba v1": (lambda: VisionMamba(16, "v1", d_state=4), [tokens()], Gate),
    "Vision Mamba v2": (lambda: VisionMamba(16, "v2", d_state=4), [tokens()], Gate),
    "Mamba-2": (lambda: Mamba2(16, **SMALL, n_groups=2), [tokens(), MASK, True], Gate),
    "Hydra": (lambda: Hydra(16, **SMALL, n_groups=2), [tokens(), MASK], Gate),
    "Hydra, diagonal": (lambda: Hydra(16, **SMALL), [tokens(), GAPS], Skip),
    "S4D": (lambda: S4D(16, d_state=4), [tokens(), MASK, True], nn.GLU),
    "S4D, both": (lambda: S4D(16, d_state=4, bidirectional=True), [tokens(), GAPS], nn.GELU),
    "Mamba-3": (lambda: Mamba3(16, **SMALL, n_groups=2), [tokens(), MASK, True], Gate),
    "Mamba-3, scan": (lambda: Mamba3(16, **SMALL), [tokens(), GAPS], TrapezoidalScan),
    "one-way block": (lambda: Unidirectional(16, **SMALL), [tokens()], RMSNorm),
    "two-way block": (lambda: Bidirectional(16, **SMALL), [tokens(), MASK], Gate),
    "shared block": (lambda: Bidirectional(16, **SMALL, shared=True), [tokens()], Gate),
    "feed-forward": (lambda: FeedForward(16), [tokens()], nn.GELU),
    "CP attention": (Attend, [*HEADS, MASK], Attend),
    "attention block": (lambda: SelfAttention(16), [tokens(), MASK], Attend),
    "convolution": (lambda: nn.Conv1d(16, 8, 3, padding=2), [tokens().mT], None),
    "convolution and norm": (lambda: conv_norm(), [tokens().mT], None),
    "residual convolutions": (lambda: ConvBlock(16, 3), [tokens(), MASK], None),
}


def conv_norm():
    return nn.Sequential(nn.Conv1d(16, 8, 3), nn.BatchNorm1d(8))


def layer(name):
    make, inputs, kind = LAYERS[name]
    torch.manual_seed(0)
    module = settle(make())
    scan = [0, 1, 3, 4]  # x, dt, B and C
    of = {"SSD": scan, "selective scan": scan, "trapezoidal scan": [*scan, 5], "skip": [0, 1]}
    return module, inputs, kind, of.get(name)


def own_forwards(model):
    return [path for path, module in model.named_modules() if "forward" in module.__dict__]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("rules", [MAMBA_LRP, LRP_0], ids=["gamma", "LRP-0"])
def test_each_layer_conserves_relevance(name, rules):
    module, inputs, _, of = layer(name)
    assert imbalance(module, inputs, rules, of) < 1e-13
    with torch.no_grad(), lrp(module, rules):
        found = module(*inputs)
    torch.testing.assert_close(found, module(*inputs), atol=1e-13, rtol=1e-12)


@pytest.mark.parametrize("name", [name for name, (*_, kind) in LAYERS.items() if kind])
def test_a_layer_without_its_rule_does_not(name):
    module, inputs, kind, of = layer(name)
    assert imbalance(module, inputs, MAMBA_LRP.without(kind), of) > 1e-3


def test_stem_and_branches_conserve_relevance():
    torch.manual_seed(0)
    mask = torch.arange(150) < torch.tensor([150, 110])[:, None]
    for module in (settle(ConvStem(12, 6, 8, 7)), settle(branches())):
        with_mask = Tokens(module)
        for inputs in ([STEM_INPUT], [STEM_INPUT, mask]):
            assert imbalance(with_mask, inputs) < 1e-13
            assert imbalance(with_mask, inputs, MAMBA_LRP | {MaskedBatchNorm1d: plain}) > 1e-3


class Tokens(nn.Module):
    """The tokens alone of what also returns their mask."""

    def __init__(self, module):
        super().__init__()
        self.module = module.eval()
        self.eval()

    def forward(self, *inputs):
        return self.module(*inputs)[0]


@pytest.mark.parametrize("kind", [nn.SiLU, nn.GELU, lambda: RMSNorm(16, n_groups=2)])
def test_what_multiplies_by_a_constant_passes_relevance_on(kind):
    (found,), _, out = propagate(settle(kind()), [tokens()])
    torch.testing.assert_close(found, out, atol=1e-15, rtol=1e-12)


def test_activations_pass_relevance_on_at_zero_and_far_from_it():
    x = torch.tensor([0.0, -0.0, 1e-300, -800.0, 800.0], dtype=torch.float64)
    for act in (nn.SiLU(), nn.GELU()):
        (found,), _, out = propagate(act.eval(), [x])
        assert found.isfinite().all()
        torch.testing.assert_close(found, out)


def test_a_gate_shares_equally():
    (y, z), _, out = propagate(Gate().eval(), LAYERS["gate"][1])
    torch.testing.assert_close(y, out / 2)
    torch.testing.assert_close(z, out / 2)


def test_step_sizes_b_and_c_get_no_relevance_and_neither_do_queries_and_keys():
    for module, inputs in ((SSD(), SCAN), (SelectiveScan(), SELECTIVE)):
        found, _, _ = propagate(module.eval(), inputs)
        x, dt, A, B, C, _ = found
        assert x.abs().sum() > 1 and not any(v.any() for v in (dt, A, B, C))
    (x, *chosen, _), _, _ = propagate(TrapezoidalScan().eval(), TRAPEZOIDAL)
    assert x.abs().sum() > 1 and len(chosen) == 5 and not any(v.any() for v in chosen)
    (q, k, v), _, _ = propagate(Attend().eval(), HEADS)
    assert v.abs().sum() > 1 and not q.any() and not k.any()


def test_what_a_token_chooses_of_itself_and_what_opens_a_glu_get_no_relevance():
    (x, chosen, _), _, out = propagate(Skip().eval(), LAYERS["skip"][1])
    torch.testing.assert_close(x, out)
    assert not chosen.any()
    (found,), _, out = propagate(nn.GLU().eval(), [tokens()])
    torch.testing.assert_close(found, torch.cat([out, torch.zeros_like(out)], -1))


def test_gamma_is_its_formula():
    conv, x = settle(nn.Conv1d(3, 4, 3, stride=2, padding=1)), normal((2, 3, 9))
    for strength in (0.0, 0.25, 1e6):
        (found,), (bias,), out = propagate(conv, [x], {nn.Conv1d: gamma(strength)})
        padded = nn.functional.pad(x, (1, 1))
        R_x, R_b = torch.zeros_like(padded), torch.zeros_like(conv.bias)
        for n in range(2):
            for j in range(4):
                for t in range(out.shape[2]):
                    at = slice(2 * t, 2 * t + 3)
                    parts = conv.weight[j] * padded[n, :, at]
                    b = conv.bias[j]
                    z = parts.sum() + b
                    parts = parts + strength * parts * (parts.sign() == z.sign())
                    b = b + strength * b * (b.sign() == z.sign())
                    unit = out[n, j, t] / (parts.sum() + b)
                    R_x[n, :, at] += parts * unit
                    R_b[j] += b * unit
        torch.testing.assert_close(found, R_x[..., 1:-1].detach(), atol=1e-12, rtol=1e-9)
        torch.testing.assert_close(bias, R_b.detach(), atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(
        propagate(conv, [x], {nn.Conv1d: gamma(0)})[0][0], propagate(conv, [x], LRP_0)[0][0]
    )


def test_gamma_of_a_negative_strength_is_refused():
    with pytest.raises(ValueError, match="strength=-1 found, 0 or more wanted"):
        gamma(-1)


def test_gamma_gives_nothing_where_there_is_nothing():
    conv = settle(nn.Conv1d(3, 4, 3, bias=False))
    (found,), _, out = propagate(conv, [torch.zeros(1, 3, 9, dtype=torch.float64)])
    assert not found.any() and not out.any()


def test_a_convolution_and_its_norm_follow_gamma_as_one():
    """Where the norm turns the sign of a channel, gamma before and after it differ."""
    pair = settle(conv_norm())
    with torch.no_grad():
        pair[1].weight[0] = -1.0
    conv, norm = pair
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    one = settle(nn.Conv1d(16, 8, 3))
    with torch.no_grad():
        one.weight.copy_(conv.weight * scale[:, None, None])
        one.bias.copy_((conv.bias - norm.running_mean) * scale + norm.bias)
    x = tokens().mT
    (found,), (bias,), _ = propagate(pair, [x])
    (wanted,), (bias_wanted,), _ = propagate(one, [x])
    torch.testing.assert_close(found, wanted, atol=1e-13, rtol=1e-10)
    torch.testing.assert_close(bias, bias_wanted, atol=1e-13, rtol=1e-10)
    (apart,), _, _ = propagate(pair, [x], MAMBA_LRP | {nn.BatchNorm1d: plain})
    assert (apart - wanted).abs().max() > 1e-3 * wanted.abs().max()


@pytest.mark.parametrize("length", [1, 63, 64, 150])
def test_relevance_does_not_depend_on_how_the_scan_is_computed(length):
    def step_by_step(scan, x, dt, A, B, C, D=None, reverse=False):
        dt, A, B, C = (v.detach() for v in (dt, A, B, C))
        return ssd_recurrence(x, dt, A, B, C, D, reverse=reverse)

    torch.manual_seed(0)
    block, x = settle(Bidirectional(16, **SMALL)), normal((1, length, 16))
    (fast,), _, _ = propagate(block, [x])
    (slow,), _, _ = propagate(block, [x], MAMBA_LRP | {SSD: step_by_step})
    assert (fast - slow).abs().max() <= 1e-12 * slow.abs().max()


def test_a_later_token_changes_no_explanation_of_an_earlier_one():
    torch.manual_seed(0)
    block, x, pull = settle(Unidirectional(16, **SMALL)), tokens(), torch.zeros(2, 13, 16)
    pull[:, 6] = normal((2, 16)).float()
    moved = x.clone()
    moved[:, 7:] += 1
    (found,), _, _ = propagate(block, [x], pull=pull)
    (again,), _, _ = propagate(block, [moved], pull=pull)
    assert found[:, :7].abs().amax((0, 2)).min() > 1e-6 and not found[:, 7:].any()
    torch.testing.assert_close(again, found, atol=1e-15, rtol=1e-12)
    moved[:, 6] += 1
    (now,), _, _ = propagate(block, [moved], pull=pull)
    assert (now - found).abs().max() > 1e-3


def test_a_reversed_input_has_its_relevance_reversed_where_directions_change_places():
    torch.manual_seed(0)
    block, x, pull = settle(Bidirectional(16, **SMALL)), tokens(), normal((2, 13, 16), 9)
    turned = copy.deepcopy(block)
    turned.ahead, turned.back = turned.back, turned.ahead
    with torch.no_grad():
        turned.fuse.weight.copy_(block.fuse.weight.roll(16, 1))
    (found,), _, _ = propagate(block, [x], pull=pull)
    (mirrored,), _, _ = propagate(turned, [x.flip(1)], pull=pull.flip(1))
    torch.testing.assert_close(mirrored.flip(1), found, atol=1e-14, rtol=1e-11)
    (unturned,), _, _ = propagate(block, [x.flip(1)], pull=pull.flip(1))
    assert (unturned.flip(1) - found).abs().max() > 1e-3


def test_attn_lrp_reaches_queries_and_keys_but_does_not_conserve():
    rules = MAMBA_LRP | {Attend: attn_lrp}
    (q, k, v), _, out = propagate(Attend().eval(), HEADS, rules)
    assert q.abs().sum() > 0.1 and q.sum() == pytest.approx(float(k.sum()))
    assert v.sum() == pytest.approx(float(out.sum()) / 2)
    assert imbalance(settle(SelfAttention(16)), [tokens(), MASK], rules) > 1e-3


def test_attn_lrp_is_its_formula():
    """The softmax gives a score its own relevance less its share of all, and products halve."""
    q, k, v = (a[:1, :1] for a in HEADS)
    pull = normal((1, 1, 13, 6), 9)
    (R_q, R_k, R_v), _, _ = propagate(
        Attend().eval(), [q, k, v], MAMBA_LRP | {Attend: attn_lrp}, pull=pull
    )
    scores = (q @ k.mT / 6**0.5)[0, 0]
    P = scores.softmax(-1)
    R_P = P * (pull @ v.mT)[0, 0] / 2
    R_scores = scores * (R_P - P * R_P.sum(-1, keepdim=True))
    each = torch.einsum("td,sd->tsd", q[0, 0], k[0, 0]) / 6**0.5 / scores[..., None]
    torch.testing.assert_close(R_q[0, 0], (each * R_scores[..., None] / 2).sum(1))
    torch.testing.assert_close(R_k[0, 0], (each * R_scores[..., None] / 2).sum(0))
    torch.testing.assert_close(R_v[0, 0], v[0, 0] * (P.mT @ pull[0, 0]) / 2)


@pytest.mark.parametrize("name", MODELS)
def test_values_stay_and_the_model_comes_back(name):
    model, x = build(name), signal()
    model.head.bias.requires_grad_(False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    wants = {k: p.requires_grad for k, p in model.named_parameters()}
    with torch.no_grad():
        logits = model(x)
        with lrp(model):
            explained = model(x)
            assert own_forwards(model)
        with pytest.raises(RuntimeError, match="in the middle"), lrp(model):
            raise RuntimeError("in the middle")
        again = model(x)
    assert (explained - logits).abs().max() <= 1e-12 * logits.abs().max()
    assert torch.equal(again, logits) and own_forwards(model) == []
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(before[k], after[k]) for k in before)
    assert {k: p.requires_grad for k, p in model.named_parameters()} == wants
    model, x = model.float(), x.float()
    with torch.no_grad(), lrp(model):
        explained = model(x)
    torch.testing.assert_close(explained, logits.float(), atol=1e-5, rtol=1e-5)


def test_an_inner_context_gives_way_to_the_outer_one():
    act, x = nn.SiLU().eval(), tokens()
    with lrp(act):
        outer = propagate(act, [x])[0][0]
        with lrp(act, MAMBA_LRP.without(nn.SiLU)):
            inner = act(x.requires_grad_())
            assert (torch.autograd.grad(inner.sum(), x)[0] - x.sigmoid()).abs().max() > 1e-2
        grad = torch.autograd.grad(act(x).sum(), x)[0]
        torch.testing.assert_close(grad, x.sigmoid().detach())
    torch.testing.assert_close(outer, propagate(act, [x.detach()])[0][0])


def test_additive_parameters_are_the_biases_each_once():
    model = build("mamba-2, one way")
    names = {id(p): name for name, p in model.named_parameters()}
    model.head.bias.requires_grad_(False)
    with lrp(model) as additive:
        known = {names[id(p)] for p in additive if id(p) in names}
        assert len(additive) == len(known) + 2  # two folded convolutions
        assert all(p.requires_grad for p in additive)
    wanted = {n for n in names.values() if n.endswith("bias") and ".norm" not in n}
    assert known == {n for n in wanted if not n.endswith("dt_bias")}
    twice = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).eval()
    twice[1].bias = twice[0].bias
    with lrp(twice) as additive:
        assert len(additive) == 1
    assert imbalance(settle(twice), [normal((3, 4))]) < 1e-14


class Swish(nn.SiLU):
    pass


class Offset(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.inner = nn.Parameter(torch.ones(5)), nn.ReLU()


@pytest.mark.parametrize("odd", [nn.Tanh(), Swish(), Offset(), MaskedBatchNorm1d(8)], ids=type)
def test_a_module_without_rule_is_named(odd):
    model = build("mamba-2, one way")
    model.feed_forwards[0].act = odd.eval()
    kind = type(odd).__name__
    with pytest.raises(MissingRule, match=rf"^feed_forwards.0.act: a {kind} found") as caught:
        with lrp(model):
            pass
    assert ("directly before it" in str(caught.value)) == ("Norm" in kind)
    assert own_forwards(model) == []
    if kind == "Tanh":
        with lrp(model, MAMBA_LRP | {nn.Tanh: plain}):
            model(signal())
    with pytest.raises(MissingRule, match="^the model: a Tanh found"), lrp(nn.Tanh().eval()):
        pass


def test_a_gelu_by_another_formula_is_refused():
    with pytest.raises(ValueError, match=r"approximate='tanh'\) found, 'none' wanted"):
        propagate(nn.GELU("tanh").eval(), [tokens()])


def test_a_model_without_blocks_has_all_rules():
    sizes = {"embed_dim": 8, "n_layers": 0, "stem_width": 6, "use_multi_branch": False}
    torch.manual_seed(0)
    with lrp(EnhancedECGMamba2(**sizes).eval()):
        pass


def test_training_mode_autocast_and_compiled_models_are_refused():
    model = build("the whole")
    model.branches.blocks["limb"].train()
    with pytest.raises(ValueError, match=r"'branches.blocks.limb' in training mode found, .*eval"):
        with lrp(model):
            pass
    with pytest.raises(ValueError, match=r"^a model in training mode found, .* call model.eval"):
        with lrp(model.train()):
            pass
    with pytest.raises(ValueError, match="autocast found, full precision wanted"):
        with torch.autocast("cpu", torch.bfloat16), lrp(model.eval()):
            pass
    compiled = nn.Module()  # what torch.compile returns holds the model under this name
    compiled._orig_mod = model
    with pytest.raises(ValueError, match="compiled model found, .* model._orig_mod"):
        with lrp(compiled):
            pass


def test_rules_can_be_switched_off_and_replaced():
    assert MAMBA_LRP.without(Gate, SSD)[Gate] is plain
    assert MAMBA_LRP.without(Gate)[SSD] is MAMBA_LRP[SSD] and MAMBA_LRP[Gate] is not plain
    changed = MAMBA_LRP | {Attend: attn_lrp}
    assert isinstance(changed, Rules) and changed[Attend] is attn_lrp
    with pytest.raises(ValueError, match="Tanh found, one of SiLU, GELU, .* wanted"):
        MAMBA_LRP.without(nn.Tanh)
    x, model = signal(), build("the whole")
    as_dict = propagate(model, [x], dict(MAMBA_LRP))[0][0]
    assert torch.equal(as_dict, propagate(model, [x])[0][0])


@pytest.mark.parametrize("name", MODELS)
def test_a_rule_reaches_every_layer_of_its_class(name):
    model, reached, kinds = build(name), set(), (nn.Linear, DepthwiseConv)

    def noted(layer, *args, **kwargs):
        reached.add(layer)
        return plain(layer, *args, **kwargs)

    with torch.no_grad(), lrp(model, MAMBA_LRP | dict.fromkeys(kinds, noted)):
        model(signal())
    assert reached == {module for module in model.modules() if type(module) in kinds}


@pytest.mark.parametrize(
    "name", ["Mamba", "Mamba-2", "Mamba-3", "Vision Mamba v1", "Vision Mamba v2"]
)
def test_a_rule_changes_what_passes_each_layer(name):
    def double(layer, *args, **kwargs):
        y = plain(layer, *args, **kwargs)
        return 2 * y - y.detach()

    mixer, inputs, *_ = layer(name)
    h, before, _ = propagate(mixer, inputs)
    doubled, biases, _ = propagate(mixer, inputs, MAMBA_LRP | {nn.Linear: double})
    torch.testing.assert_close(doubled[0], 4 * h[0])  # through in_proj and out_proj
    torch.testing.assert_close(biases, [2 * b for b in before])  # those of convolutions: one
    if any(isinstance(part, DepthwiseConv) for part in mixer.modules()):
        h_z = propagate(mixer, inputs, MAMBA_LRP | {DepthwiseConv: double})[0][0] - h[0]
        assert h_z.abs().max() > 1e-3 * h[0].abs().max()  # half of it passes a convolution


@pytest.mark.parametrize("name", MODELS)
def test_whole_models_conserve_relevance_of_all_logits_at_once(name):
    (found,), biases, out = propagate(build(name), [signal()])
    assert missed([found, *biases], out) < 1e-13
