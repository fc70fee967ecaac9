"""MambaLRP: relevance sums to the logit, equals LRP written out, and comes in usable shapes."""

import dataclasses
import warnings
from concurrent.futures import ThreadPoolExecutor

import lrp_oracle
import numpy as np
import pytest
import torch
from lrp_cases import MODELS, SAMPLES, build, missed, propagate, signal
from torch import nn

import ecgbook
from ecgbook import synthetic
from ecgbook.explain import (
    MAMBA_LRP,
    CompletenessWarning,
    Explanation,
    MambaLRP,
    OtherFunction,
    attn_lrp,
    gamma,
    page,
    plain,
)
from ecgbook.models import (
    SSD,
    Attend,
    CNNBaseline,
    EnhancedECGMamba2,
    Gate,
    MaskedBatchNorm1d,
    RMSNorm,
    SelectiveScan,
)
from ecgbook.signals import Preprocessing
from ecgbook.training import Bundle

LRP_0 = MAMBA_LRP.without(nn.Conv1d)
SETTINGS = {
    "gamma": {},
    "LRP-0": {"rules": LRP_0},
    "flat": {"flat_input": True},
    "flat, LRP-0": {"rules": LRP_0, "flat_input": True},
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", MODELS)
def test_relevance_of_signal_and_biases_is_the_logit(name, setting):
    model, x = build(name), signal()
    mask = torch.arange(SAMPLES) < torch.tensor([SAMPLES, 140])[:, None]
    with torch.no_grad():
        logits = model(x, mask)
    explainer = MambaLRP(model, **SETTINGS[setting])
    for target in range(5):
        record = target % 2
        found = explainer.explain(x[record], target, mask[record])
        assert found.error < 1e-13
        assert found.logit == pytest.approx(float(logits[record, target]), rel=1e-11)
        total = found.relevance.sum() + found.bias
        assert abs(total - found.logit) < 1e-11 * np.abs(found.relevance).sum()


@pytest.mark.parametrize(
    ("setting", "route"), [("gamma", "matrix"), *((setting, "states") for setting in SETTINGS)]
)
@pytest.mark.parametrize("name", MODELS)
def test_relevance_is_that_written_out_layer_by_layer(name, setting, route):
    model, x = build(name), signal(batch=1)[0]
    options = SETTINGS[setting]
    found = MambaLRP(model, **options).explain(x, 3)
    strength = 0 if options.get("rules") is LRP_0 else 0.25
    wanted, bias, logit = lrp_oracle.explain(
        model, x.numpy(), 3, strength, route, options.get("flat_input", False)
    )
    assert np.abs(found.relevance - wanted).max() <= 1e-9 * np.abs(wanted).max()
    assert found.bias == pytest.approx(bias, rel=1e-9)
    assert found.logit == pytest.approx(logit, rel=1e-9)


WITHOUT = {
    "activation": ("the whole", MAMBA_LRP.without(nn.SiLU)),
    "GELU": ("the whole", MAMBA_LRP.without(nn.GELU)),
    "normalization": ("the whole", MAMBA_LRP.without(RMSNorm)),
    "gate": ("the whole", MAMBA_LRP.without(Gate)),
    "scan": ("the whole", MAMBA_LRP.without(SSD)),
    "attention": ("the whole", MAMBA_LRP.without(Attend)),
    "folding": ("the whole", MAMBA_LRP | {MaskedBatchNorm1d: plain}),
    "AttnLRP": ("the whole", MAMBA_LRP | {Attend: attn_lrp}),
    "selective scan": ("vision mamba, v2", MAMBA_LRP.without(SelectiveScan)),
    "gate of Mamba-1": ("vision mamba, v2", MAMBA_LRP.without(Gate)),
}


@pytest.mark.parametrize("missing", WITHOUT)
def test_without_any_one_rule_logit_and_relevance_are_missed(missing):
    name, rules = WITHOUT[missing]
    model, x = build(name), signal(batch=1)
    found = MambaLRP(model, rules).explain(x, 3)
    assert found.error > (1e-7 if missing == "selective scan" else 1e-3)  # its steps do little
    wanted, *_ = lrp_oracle.explain(model, x[0].numpy(), 3, 0.25)
    assert np.abs(found.relevance - wanted).max() > 1e-3 * np.abs(wanted).max()


@pytest.mark.parametrize("strength", [0, 0.2])
def test_another_gamma_conserves_as_well_but_differs(strength):
    model, x = build("the whole"), signal(batch=1)
    found = MambaLRP(model, MAMBA_LRP | {nn.Conv1d: gamma(strength)}).explain(x, 3)
    wanted, *_ = lrp_oracle.explain(model, x[0].numpy(), 3, 0.25)
    assert found.error < 1e-13
    assert np.abs(found.relevance - wanted).max() > 1e-3 * np.abs(wanted).max()


@pytest.mark.parametrize("name", MODELS)
def test_relevance_of_tokens_and_the_biases_behind_them_is_the_logit(name):
    model, x = build(name), signal()
    with torch.no_grad():
        tokens, mask = model.stem(model.scale(x))
        if name in ("mamba-2, branches", "the whole"):
            more = model.branches(model.scale(x))[0].flatten(2)
            tokens = model.fusion(torch.cat([tokens, more], -1))
    found = MambaLRP(model).attribute_tokens(x, 3)
    (wanted,), biases, out = propagate(Behind(model, mask), [tokens], pull=torch.ones(2))
    torch.testing.assert_close(found, wanted.sum(-1), atol=1e-13, rtol=1e-10)
    assert missed([found, *biases], out) < 1e-13


class Behind(nn.Module):
    """Logit 3 of a model, from the tokens that enter its blocks."""

    def __init__(self, model, mask):
        super().__init__()
        self.model, self.mask = model, mask
        self.eval()

    def forward(self, x):
        model, mask = self.model, self.mask
        for i, block in enumerate(model.blocks):
            x = block(x, mask)
            x = model.feed_forwards[i](x) if hasattr(model, "feed_forwards") else x
        x = model.attention(x, mask) if getattr(model, "attention", None) else x
        x = model.norm(x) if hasattr(model, "norm") else x
        return model.head(model.pool(x, mask))[:, 3]


def test_the_trained_model_is_explained_to_its_logits_in_float32():
    explainer = MambaLRP(ecgbook.load("tutorial"))
    for record in synthetic.make_records(2, seed=3):
        for target in range(5):
            assert explainer.explain(record, target).error < 1e-6


def test_the_full_size_is_explained_to_its_logit_in_float32():
    torch.manual_seed(0)
    model = EnhancedECGMamba2().eval()
    found = MambaLRP(model).explain(signal(batch=1, samples=2000).float(), "AF")
    assert found.error < 1e-5 and np.abs(found.relevance).sum() > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_relevance_of_a_cpu():
    model, x = build("the whole"), signal()
    wanted = MambaLRP(model).attribute(x, 3)
    found = MambaLRP(model.cuda()).attribute(x.cuda(), 3).cpu()
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-9)
    bundle = ecgbook.load("tutorial")
    bundle.model.cuda()
    record = synthetic.make_records(1, seed=3)[0]
    assert MambaLRP(bundle).explain(record, "SR").error < 5e-3  # kernels multiply in TF32


def test_a_batch_is_explained_as_its_records_are():
    model, x = build("the whole"), signal(3)
    explainer = MambaLRP(model)
    together = explainer.attribute(x, 1)
    assert together.shape == x.shape and together.dtype == x.dtype and not together.requires_grad
    for record, found in zip(x, together, strict=True):
        torch.testing.assert_close(explainer.attribute(record[None], 1)[0], found)
    each = explainer.attribute(x, torch.tensor([0, 1, 4]))
    torch.testing.assert_close(each[1], together[1])
    torch.testing.assert_close(each[2], explainer.attribute(x, "PVC")[2])


def test_a_margin_is_the_difference_of_two_logits():
    explainer, x = MambaLRP(build("the whole")), signal(batch=1)
    first, second = (explainer.explain(x, target) for target in ("PVC", "SR"))
    margin = explainer.explain(x, ("PVC", 0))
    assert margin.target == "PVC - SR" and margin.error < 1e-13
    assert margin.logit == pytest.approx(first.logit - second.logit)
    np.testing.assert_allclose(margin.relevance, first.relevance - second.relevance, atol=1e-12)


@pytest.mark.parametrize("target", ["VT", 5, -1])
def test_an_unknown_target_is_refused(target):
    model = build("the whole")
    with pytest.raises(ValueError, match=f"target {target!r} found, one of SR, .* or 0 to 4 wante"):
        MambaLRP(model).attribute(signal(), target)
    odd = ([0, 1, 2], ["PVC", "SR"], (4,), None, 4.0, True, torch.tensor([4.0, 1.0]), [[1, 2]])
    for target in odd:
        with pytest.raises(ValueError, match="target .* found, one of SR, .* 0 to 4.* wanted"):
            MambaLRP(model).attribute(signal(), target)
    for target in (torch.tensor([7, 1]), [-1, 0]):
        with pytest.raises(ValueError, match="target .* found, numbers from 0 to 4 wanted"):
            MambaLRP(model).attribute(signal(), target)
    assert not any("forward" in module.__dict__ for module in model.modules())
    one = MambaLRP(model).attribute(signal(), torch.tensor(4))
    torch.testing.assert_close(one, MambaLRP(model).attribute(signal(), "PVC"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_signal_that_is_not_finite_is_refused(value):
    x = signal(1)
    x[0, 40, 3] = value
    with pytest.raises(ValueError, match="sample 40: NaN or infinity found"):
        MambaLRP(build("the whole")).attribute(x, "PVC")


@pytest.mark.parametrize("setting", ["gamma", "flat"])
def test_padding_has_no_relevance_and_changes_none(setting):
    explainer, x = MambaLRP(build("the whole"), **SETTINGS[setting]), signal(1)
    padded = torch.cat([x, torch.full((1, 60, 12), torch.nan, dtype=torch.float64)], 1)
    mask = torch.arange(SAMPLES + 60)[None] < SAMPLES
    found = explainer.attribute(padded, 3, mask)
    assert not found[:, SAMPLES:].any()
    torch.testing.assert_close(found[:, :SAMPLES], explainer.attribute(x, 3), atol=1e-11, rtol=0)
    result = explainer.explain(padded, 3, mask[0])
    assert result.error < 1e-13 and result.mask.sum() == SAMPLES


def test_only_the_flat_rule_gives_relevance_to_zeros():
    model, x = build("the whole"), signal(1)
    x[:, 60:90] = 0
    assert not MambaLRP(model).attribute(x, 3)[:, 60:90].any()
    assert MambaLRP(model, flat_input=True).attribute(x, 3)[:, 60:90].any()


def test_a_model_without_stem_has_no_flat_rule():
    with pytest.raises(ValueError, match="flat_input=True and no ConvStem in the model found"):
        MambaLRP(nn.Linear(12, 5).eval(), flat_input=True).attribute(torch.ones(2, 12), 0)


def test_a_model_is_explained_where_gradients_are_off():
    model, x = build("mamba-2, one way"), signal()
    wanted = MambaLRP(model).attribute(x, 3)
    exact = {"rtol": 0, "atol": 1e-12}  # the graph is another one, and so may be the last bit
    with torch.no_grad():
        torch.testing.assert_close(MambaLRP(model).attribute(x, 3), wanted, **exact)
        assert not torch.is_grad_enabled()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    torch.testing.assert_close(MambaLRP(model).attribute(x, 3), wanted, **exact)
    assert MambaLRP(model).explain(x[0], 3).error < 1e-13
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())


@pytest.fixture(scope="module")
def bundle():
    torch.manual_seed(0)
    model = CNNBaseline(embed_dim=8, n_layers=1, stem_width=6, stem_padding=7).eval()
    return Bundle(model, Preprocessing(fs_hz=125, n_samples=1024), np.full(5, 0.5))


@pytest.fixture(scope="module")
def record():
    return synthetic.make_records(1, seed=2, fs_hz=250, seconds=10)[0]


def test_a_record_is_prepared_as_the_bundle_says(bundle, record):
    result = MambaLRP(bundle).explain(record, "PVC")
    x, mask = bundle.preprocessing(record.signal_mv, record.fs_hz)
    np.testing.assert_array_equal(result.signal_mv, x)
    np.testing.assert_array_equal(result.mask, mask)
    assert (result.target, result.fs_hz) == ("PVC", 125)
    assert result.start_s == pytest.approx((1250 - 1024) / 2 / 125)
    probability = bundle.predict(record)[4]
    assert 1 / (1 + np.exp(-result.logit)) == pytest.approx(probability, rel=1e-5)
    prepared = MambaLRP(bundle).explain(x, 4, mask)
    np.testing.assert_array_equal(prepared.relevance, result.relevance)
    assert (prepared.target, prepared.fs_hz, prepared.start_s) == ("PVC", 125, 0)
    assert result.input_share == pytest.approx(1 - result.bias / result.logit, abs=1e-4)


def test_what_cannot_be_prepared_is_refused(bundle, record):
    with pytest.raises(ValueError, match="a record and a bare model found, a bundle wanted"):
        MambaLRP(bundle.model).explain(record, "PVC")
    with pytest.raises(ValueError, match="mask or fs_hz found beside a record"):
        MambaLRP(bundle).explain(record, "PVC", fs_hz=500)
    for shape in ((2, 300, 12), (12, 300), (300,)):
        with pytest.raises(ValueError, match="of shape .* found, .* wanted"):
            MambaLRP(bundle).explain(torch.zeros(shape), "PVC")


def explanation(**changes):
    relevance = np.random.default_rng(0).normal(size=(100, 12))
    fields = {"target": "PVC", "logit": 3.0, "relevance": relevance, "bias": 0.5, "error": 0.0}
    shown = {"signal_mv": np.ones((100, 12)), "mask": np.arange(100) < 90, "fs_hz": 50.0}
    return Explanation(**{**fields, **shown, **changes})


def test_relevance_is_summed_by_lead_and_by_beat():
    result = explanation(start_s=1.0)
    np.testing.assert_allclose(result.per_lead(), result.relevance.sum(0))
    # From 1 to 3 s: one beat before the window, two in it, one behind.
    beats = result.per_beat([0.1, 1.4, 2.02, 9.0])
    total = result.relevance.sum(1)
    wanted = [0, total[:36].sum(), total[36:].sum(), 0]  # the border is at 1.71 s
    np.testing.assert_allclose(beats, wanted, atol=1e-12)
    np.testing.assert_allclose(result.per_beat([1.5]), [total.sum()])
    wanted = [total[:25].sum(), total[25:].sum()]  # the sample at 1.5 s, halfway, is the later's
    np.testing.assert_allclose(result.per_beat([1.25, 1.75]), wanted, atol=1e-12)


def test_beats_need_rising_times_and_a_rate():
    for peaks in ([], [1.0, 1.0], [2.0, 1.0], [1.0, np.nan], [[1.0]]):
        with pytest.raises(ValueError, match="one or more rising times in s wanted"):
            explanation().per_beat(peaks)
    unknown = explanation(fs_hz=None)
    for use in (lambda: unknown.per_beat([1.0]), unknown.plot):
        with pytest.raises(ValueError, match="fs_hz=None found; give explain"):
            use()
    assert MambaLRP(build("cnn")).explain(signal(1), 0, fs_hz=125).fs_hz == 125


def test_an_explanation_is_frozen_and_short_in_print():
    with pytest.raises(dataclasses.FrozenInstanceError):
        explanation().bias = 1.0
    assert len(repr(explanation())) < 200
    assert np.isnan(explanation(logit=0.0).input_share)


def test_the_balance_names_logit_shares_and_error():
    relevance = np.full((100, 12), 3.0 / 1200)
    one = explanation(relevance=relevance, logit=2.0, bias=-1.0, error=3.2e-8)
    assert one.balance() == (
        "PVC: logit +2.00 = signal +3.00 (150%) and biases -1.00 (-50%);  completeness error 3e-08"
    )
    margin = dataclasses.replace(one, target="PVC - SR")
    assert margin.balance().startswith("PVC - SR: margin +2.00 = signal")
    nothing = dataclasses.replace(one, logit=0.0, bias=-3.0)
    assert "logit +0.00 = signal +3.00 and biases -3.00;" in nothing.balance()


def test_the_plot_is_the_page_of_the_explanation(monkeypatch):
    calls = []
    monkeypatch.setattr(page, "explanation_page", lambda *a: calls.append(a))
    result = explanation()
    result.plot([1.0, 2.0], start_s=0.5, limit=2.0, title="T")
    assert calls == [(result, [1.0, 2.0], 0.5, 2.0, "T")]


# ---- foreign models, and several threads


class Reordered(nn.Module):
    """Runs its normalization behind the activation, though it stands behind the convolution."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv1d(12, 8, 5), nn.BatchNorm1d(8), nn.ReLU()
        self.head = nn.Linear(8, 3)
        self.norm.running_mean.uniform_(0.2, 0.5)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        return self.head(self.norm(self.act(self.conv(x.mT))).mean(-1))


class InTheOpen(nn.Module):
    """Has a step that is no module, so that no rule can be given for it."""

    def __init__(self, step):
        super().__init__()
        self.first, self.second, self.step = nn.Linear(12, 8), nn.Linear(8, 3), step

    def forward(self, x, mask=None):
        return self.second(self.step(self.first(x))).mean(1)


def test_rules_never_explain_another_function():
    torch.manual_seed(0)
    model, x = Reordered().eval(), torch.randn(2, 40, 12)
    for call in (MambaLRP(model).attribute, lambda x, k: MambaLRP(model).explain(x[0], k)):
        with pytest.raises(OtherFunction, match=r"logit .* found without the rules, .* under them"):
            call(x, 1)
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize(
    "step",
    [torch.nn.functional.silu, lambda v: v * v, lambda v: nn.functional.layer_norm(v, (8,))],
    ids=["silu", "square", "layer norm"],
)
def test_a_step_that_no_rule_reaches_is_said(step):
    torch.manual_seed(0)
    model, x = InTheOpen(step).eval(), torch.randn(1, 64, 12)
    with pytest.warns(CompletenessWarning, match="has a step without a rule"):
        MambaLRP(model).explain(x, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MambaLRP(InTheOpen(nn.ReLU()).eval()).explain(x, 2)


def test_classes_of_another_task_have_no_rhythms_names():
    torch.manual_seed(0)
    model, x = InTheOpen(nn.ReLU()).eval(), torch.randn(1, 64, 12)
    assert MambaLRP(model).explain(x, 1).target == "class 1"
    assert MambaLRP(model).explain(x, (2, 0)).target == "class 2 - class 0"
    with pytest.raises(ValueError, match=r"target 'AF' found, 0 to 2 wanted"):
        MambaLRP(model).explain(x, "AF")


@pytest.mark.parametrize("n_threads", [2, 4, 8])
def test_threads_that_explain_one_model_wait_for_each_other(n_threads):
    model, x = build("mamba-2, one way"), signal()
    wanted = [MambaLRP(model).attribute(x, k) for k in range(5)]
    with ThreadPoolExecutor(n_threads) as pool:
        found = list(pool.map(lambda k: (k, MambaLRP(model).attribute(x, k)), [*range(5)] * 4))
    for k, relevance in found:
        torch.testing.assert_close(relevance, wanted[k], rtol=0, atol=1e-12)
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_rule_of_somebody_s_own_that_loses_relevance_is_named():
    model, x = build("mamba-2, one way"), signal(1)
    halved = MAMBA_LRP | {nn.Linear: lambda linear, x: plain(linear, (x + x.detach()) / 2)}
    with pytest.warns(CompletenessWarning, match="or a rule that loses relevance"):
        MambaLRP(model, halved).attribute(x, 0)
    for known in (MAMBA_LRP, MAMBA_LRP.without(nn.SiLU), MAMBA_LRP | {Attend: attn_lrp}):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            MambaLRP(model, known).attribute(x, 0)
