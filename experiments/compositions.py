"""What PyTorch can do with the layers and models of the book, each tried and compared.

``python experiments/compositions.py`` writes results/compositions.json: for each layer or model and
each way, the largest error against the layer as it is, relative to the largest value, or the
sentence with which it refuses. With ``--only`` some ways are tried, with ``--models`` some models,
and all else is kept; then `provenance_of` says of a way or a model with what it was tried.
tests/experiments/test_compositions.py tries again what is quick.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import pickle
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.ao.quantization
from provenance import provenance
from torch import Tensor, nn

from ecgbook import models, results
from ecgbook.storage import write_json

RESULT = Path(__file__).parent / "results" / "compositions.json"
SMALL = {"embed_dim": 16, "stem_width": 8, "stem_padding": 7, "n_layers": 1}
MODELS: dict[str, Callable[[], nn.Module]] = {
    "Mamba": lambda: models.Mamba(16, d_state=8),
    "Mamba2": lambda: models.Mamba2(16, d_state=8, head_dim=8),
    "SharedMamba2": lambda: models.SharedMamba2(16, d_state=8, head_dim=8),
    "Bidirectional": lambda: models.Bidirectional(16, d_state=8, head_dim=8),
    "Mamba3": lambda: models.Mamba3(16, d_state=8, head_dim=8),
    "Hydra": lambda: models.Hydra(16, d_state=8, head_dim=8),
    "S4D": lambda: models.S4D(16, d_state=8, bidirectional=True),
    "CNNBaseline": lambda: models.CNNBaseline(**SMALL),
    "ECGVisionMamba": lambda: models.ECGVisionMamba(**SMALL),
    "EnhancedECGMamba2": lambda: models.EnhancedECGMamba2(**SMALL, d_state=8, head_dim=8),
}


def build(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a layer or model in evaluation mode, an input, and a mask with padding."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    length, channels = (240, 12) if hasattr(model, "head") else (70, 16)
    mask = torch.arange(length) < torch.tensor([length, 3 * length // 4])[:, None]
    return model, 0.5 * torch.randn(2, length, channels), mask


def apart(found: Tensor, wanted: Tensor) -> float:
    """Return the largest difference, relative to the largest value."""
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))


def gradients(run: Callable, model: nn.Module, x: Tensor, mask: Tensor) -> list[Tensor]:
    """Return the gradients of the input and of all parameters that have one."""
    model.zero_grad()
    x = x.clone().requires_grad_()
    run(x, mask).square().sum().backward()
    return [x.grad, *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def compiled(model, x, mask, backend: str = "inductor") -> float:
    """`torch.compile` without a graph break: values, and gradients in one pass."""
    torch._dynamo.reset()
    run = torch.compile(model, fullgraph=True, backend=backend)
    with torch.no_grad():
        worst = apart(run(x, mask), model(x, mask))
    found, wanted = (gradients(each, model, x, mask) for each in (run, model))
    return max(worst, *(apart(a, b) for a, b in zip(found, wanted, strict=True)))


def compiled_dynamic(model, x, mask, backend: str = "inductor") -> float:
    """`torch.compile(dynamic=True)`: other batches and lengths."""
    torch._dynamo.reset()
    run, worst = torch.compile(model, fullgraph=True, dynamic=True, backend=backend), 0.0
    with torch.no_grad():
        for batch, length in ((2, x.shape[1]), (3, x.shape[1] // 2), (5, 2 * x.shape[1])):
            other = torch.randn(batch, length, x.shape[2])
            worst = max(worst, apart(run(other), model(other)))
    return worst


def exported(model, x, mask) -> float:
    """`torch.export` with any batch."""
    batch = torch.export.Dim("batch", min=1, max=64)
    graph = torch.export.export(model, (x, mask), dynamic_shapes=({0: batch}, {0: batch})).module()
    x, mask = torch.randn(5, *x.shape[1:]), mask[:1].expand(5, -1)
    return apart(graph(x, mask), model(x, mask))


def traced(model, x, mask) -> float:
    """`torch.jit.trace`."""
    return apart(torch.jit.trace(model, (x, mask), check_trace=False)(x, mask), model(x, mask))


def mapped(model, x, mask) -> float:
    """`torch.func.vmap` over the batch."""
    run = torch.func.vmap(lambda v, m: model(v[None], m[None])[0])
    return apart(run(x, mask), model(x, mask))


def functional_gradient(model, x, mask) -> float:
    """`torch.func.grad`."""
    found = torch.func.grad(lambda v: model(v, mask).square().sum())(x)
    return apart(found, gradients(model, model, x, mask)[0])


def forward_derivative(model, x, mask) -> float:
    """`torch.func.jvp`, against finite differences in float64."""
    model, x = copy.deepcopy(model).double(), x.double()
    along = torch.randn_like(x)
    _, found = torch.func.jvp(lambda v: model(v, mask), (x,), (along,))
    step = 1e-6 * along
    with torch.no_grad():
        wanted = (model(x + step, mask) - model(x - step, mask)) / 2e-6
    return apart(found, wanted)


def second_derivative(model, x, mask) -> float:
    """Compute a Hessian-vector product by two passes backward; finite differences in float64."""
    model, x = copy.deepcopy(model).double(), x.double().requires_grad_()
    along = torch.randn_like(x)

    def gradient(x: Tensor) -> Tensor:
        return torch.autograd.grad(model(x, mask).square().sum(), x, create_graph=True)[0]

    (found,) = torch.autograd.grad((gradient(x) * along).sum(), x)
    near = [gradient((x + s * along).detach().requires_grad_()).detach() for s in (1e-7, -1e-7)]
    return apart(found, (near[0] - near[1]) / 2e-7)


def copied(model, x, mask) -> float:
    """`copy.deepcopy`, `pickle` and `torch.save` of the whole module."""
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    saved = torch.load(file, weights_only=False)
    again = copy.deepcopy(model), pickle.loads(pickle.dumps(model)), saved
    return max(apart(each(x, mask), model(x, mask)) for each in again)


def hooked(model, x, mask) -> float:
    """Forward hooks on every Linear and Conv1d: each is called, and nothing changes."""
    wanted, called = model(x, mask), set()
    parts = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv1d)]
    handles = [m.register_forward_hook(lambda m, *_: called.add(m) and None) for m in parts]
    try:
        found = model(x, mask)
    finally:
        for handle in handles:
            handle.remove()
    if silent := len(parts) - len(called):
        raise RuntimeError(f"{silent} of {len(parts)} hooks are silent")
    return apart(found, wanted)


def adapted(model, x, mask) -> float:
    """Every Linear replaced by one with a low-rank part beside it, which begins at zero."""

    class Adapted(nn.Module):
        def __init__(self, linear: nn.Linear):
            super().__init__()
            self.linear = linear
            self.down = nn.Linear(linear.in_features, 2, bias=False)
            self.up = nn.Linear(2, linear.out_features, bias=False)
            nn.init.zeros_(self.up.weight)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x) + self.up(self.down(x))

    other = copy.deepcopy(model)
    for parent in list(other.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and not isinstance(parent, Adapted):
                setattr(parent, name, Adapted(child))
    found = other(x, mask)
    found.sum().backward()
    if any(m.up.weight.grad is None for m in other.modules() if isinstance(m, Adapted)):
        raise RuntimeError("an adapter without a gradient")
    return apart(found, model(x, mask))


def half_precision(model, x, mask, dtype: torch.dtype = torch.bfloat16) -> float:
    """Autocast on a CPU: the error is that of eight bits in bfloat16, of eleven in float16."""
    with torch.no_grad(), torch.autocast("cpu", dtype):
        found = model(x, mask)
    return apart(found.float(), model(x, mask))


def quantized(model, x, mask) -> float:
    """`torch.ao.quantization.quantize_dynamic` of every Linear: eight bits, deprecated in 2.13."""
    small = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    if left := [name for name, part in small.named_modules() if type(part) is nn.Linear]:
        raise RuntimeError(f"{left[0]} is not quantized")
    with torch.no_grad():
        return apart(small(x, mask), model(x, mask))


WAYS: dict[str, Callable] = {
    "compile": compiled,
    "compile, dynamic": compiled_dynamic,
    "export": exported,
    "jit.trace": traced,
    "func.vmap": mapped,
    "func.grad": functional_gradient,
    "func.jvp": forward_derivative,
    "second derivatives": second_derivative,
    "copy, pickle, save": copied,
    "hooks": hooked,
    "adapters": adapted,
    "bfloat16": half_precision,
    "float16": partial(half_precision, dtype=torch.float16),
    "dynamic quantization": quantized,
}
ALLOWED = {
    "bfloat16": 0.1,
    "float16": 0.02,
    "dynamic quantization": 0.2,
    "func.jvp": 1e-5,
    "second derivatives": 1e-5,
}
"""Largest error of a way; 1e-5 for all others."""


def attempt(name: str, way: str, **options) -> float | str:
    """Try one way with one model; return its error, or what it said."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return WAYS[way](*build(name), **options)
        except Exception as error:  # whatever is said belongs into the table
            return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"


def main() -> None:
    """Try all ways with all models, or some, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=WAYS, metavar="WAY", help="keep the others")
    parser.add_argument("--models", nargs="+", choices=MODELS, metavar="MODEL", help="likewise")
    asked = parser.parse_args()
    words = {kind: " ".join(map(json.dumps, names)) for kind, names in vars(asked).items() if names}
    some = "".join(f" --{kind} {names}" for kind, names in words.items())
    made_with = provenance(f"python experiments/compositions.py{some}")
    found = results("compositions") if some else {"errors": {}}
    for name in asked.models or MODELS:
        kept = found["errors"].get(name, {})
        row = {way: attempt(name, way) for way in asked.only or WAYS}
        print(name, row, flush=True)
        found["errors"][name] = {way: (kept | row)[way] for way in WAYS}
    found["errors"] = {name: found["errors"][name] for name in MODELS}
    if some:
        tried = dict.fromkeys(asked.models or asked.only, made_with)
        found["provenance_of"] = found.get("provenance_of", {}) | tried
    else:
        found["provenance"] = made_with
    write_json(RESULT, found)


if __name__ == "__main__":
    main()
