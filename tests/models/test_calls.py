"""Layers are called as modules: hooks fire, wrappers take part, other tools find what they seek."""

import contextlib
import copy
import io
import warnings

import captum.attr
import pytest
import torch
from mixers import scramble, tokens
from torch import nn

from ecgbook.models import (
    DIRECTIONS,
    MAMBA2_PRESETS,
    S4D,
    Bidirectional,
    CNNBaseline,
    ECGVisionMamba,
    EnhancedECGMamba2,
    Hydra,
    Mamba,
    Mamba2,
    Mamba3,
    SelfAttention,
    SharedMamba2,
    TokenClassifier,
    VisionMamba,
)

STEM = {"embed_dim": 16, "n_layers": 1, "stem_width": 6, "stem_padding": 7}
SMALL = {"d_state": 4, "head_dim": 8}
LAYERS = {
    "Mamba": lambda: Mamba(16, d_state=4),
    "Mamba2": lambda: Mamba2(16, **SMALL),
    "Mamba3": lambda: Mamba3(16, **SMALL),
    "SharedMamba2": lambda: SharedMamba2(16, **SMALL),
    "Hydra": lambda: Hydra(16, **SMALL),
    "S4D": lambda: S4D(16, d_state=4),
    **{f"VisionMamba {d}": lambda d=d: VisionMamba(16, d, d_state=4) for d in DIRECTIONS},
    "Bidirectional": lambda: Bidirectional(16, **SMALL),
    "Bidirectional, shared": lambda: Bidirectional(16, **SMALL, shared=True),
    "SelfAttention": lambda: SelfAttention(16),
    "CNNBaseline": lambda: CNNBaseline(**STEM),
    "ECGVisionMamba": lambda: ECGVisionMamba(**STEM, d_state=4),
    "EnhancedECGMamba2": lambda: EnhancedECGMamba2(**STEM, **SMALL),
}
PROJECTIONS = "in_proj", "x_proj", "dt_proj", "out_proj", "x_proj_b", "dt_proj_b", "fc_D", "0"


def made(name):
    torch.manual_seed(0)
    layer = scramble(LAYERS[name]()).eval()
    x = tokens(128, 12) if isinstance(layer, TokenClassifier) else tokens()
    return layer, x.requires_grad_()


def run(layer, x):
    """Return the output, and the gradients of input and parameters by their names."""
    names, parameters = zip(*layer.named_parameters(), strict=True)
    y = layer(x)
    grads = torch.autograd.grad(y.square().sum(), [x, *parameters])
    return dict(zip(["y", "x", *names], [y.detach(), *grads], strict=True))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    "kind", ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"]
)
def test_a_hook_on_any_layer_fires_and_changes_nothing(name, kind):
    layer, x = made(name)
    wanted, fired = run(layer, x), set()
    watched = {m for m in layer.modules() if isinstance(m, nn.Linear | nn.Conv1d)}
    for module in watched:
        getattr(module, f"register_{kind}")(lambda module, *_: fired.add(module))
    torch.testing.assert_close(run(layer, x), wanted)
    assert fired == watched


class LoRA(nn.Module):
    """A linear layer and a product of low rank beside it, which starts at zero."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear
        self.down = nn.Linear(linear.in_features, 2, bias=False).double()
        self.up = nn.Linear(2, linear.out_features, bias=False).double()
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.linear(x) + self.up(self.down(x))


@pytest.mark.parametrize("name", [n for n in LAYERS if n not in ("SelfAttention", "CNNBaseline")])
def test_a_wrapped_projection_takes_part(name):
    layer, x = made(name)
    wanted = run(layer, x)
    wrapped = copy.deepcopy(layer)
    for parent in list(wrapped.modules()):
        for name, child in list(parent.named_children()):
            if name in PROJECTIONS and type(child) is nn.Linear:
                setattr(parent, name, LoRA(child))
    found = run(wrapped, x)
    found = {name.replace(".linear.", "."): value for name, value in found.items()}
    torch.testing.assert_close({name: found[name] for name in wanted}, wanted)
    added = [name for name in found if name.endswith("up.weight")]
    assert added and all(found[name].abs().max() > 0 for name in added)


def test_a_projection_with_a_bias_adds_it():
    mixer, h = scramble(Mamba2(16, **SMALL)), tokens()
    wanted, plain = mixer(h), mixer.in_proj
    mixer.in_proj = nn.Linear(16, plain.out_features).double()
    mixer.in_proj.weight = plain.weight
    assert (mixer(h) - wanted).abs().max() > 1e-3
    nn.init.zeros_(mixer.in_proj.bias)
    torch.testing.assert_close(mixer(h), wanted)


@pytest.mark.skipif(torch.backends.quantized.engine == "none", reason="no quantized engine")
@pytest.mark.parametrize(
    "make",
    [
        lambda: Mamba(64),
        lambda: Mamba2(64),
        lambda: EnhancedECGMamba2(**MAMBA2_PRESETS["tutorial"], n_layers=1),
    ],
    ids=["Mamba", "Mamba2", "EnhancedECGMamba2"],
)
def test_a_dynamically_quantized_model_stays_near(make):
    quantization = pytest.importorskip("torch.ao.quantization")
    torch.manual_seed(0)
    model = make().eval()
    x = tokens(128, 12 if isinstance(model, TokenClassifier) else 64).float()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the function will move to another package
        quantized = quantization.quantize_dynamic(model, {nn.Linear})
        found, wanted = quantized(x), model(x)
    assert not any(type(m) is nn.Linear for m in quantized.modules())
    assert 0 < (found - wanted).norm() <= 0.2 * wanted.norm()


@pytest.mark.parametrize("name", ["Hydra", "S4D"])
def test_a_mixer_runs_as_onnx_for_any_batch(name, tmp_path):
    runtime, path = pytest.importorskip("onnxruntime"), tmp_path / "mixer.onnx"
    layer, x = made(name)
    layer, x = layer.float(), x.detach().float()
    mask = torch.tensor([[0, 1, 1, 0, 1, 0, 0, 1, 0], [1, 1, 0, 1, 1, 1, 1, 0, 0]]).bool()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of what the exporter says about itself
        options = {"dynamic_shapes": 2 * ({0: "batch"},), "opset_version": 18, "dynamo": True}
        torch.onnx.export(layer, (x, mask), verbose=False, **options).save(str(path))
    more = torch.cat([x, x + 1, x - 1]), mask.repeat(3, 1)
    feeds = dict(zip(("h", "mask"), (v.numpy() for v in more), strict=True))
    (found,) = runtime.InferenceSession(str(path)).run(None, feeds)
    torch.testing.assert_close(torch.from_numpy(found), layer(*more).detach(), rtol=0, atol=1e-5)


def test_deep_lift_explains_the_cnn():
    model, x = made("CNNBaseline")
    with torch.no_grad():
        wanted = (model(x) - model(torch.zeros_like(x)))[:, 4]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it puts hooks on the activations
        found = captum.attr.DeepLift(model).attribute(x, target=4)
    torch.testing.assert_close(found.sum((1, 2)).detach(), wanted)
