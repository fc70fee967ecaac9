"""Small models with parameters as after training, and what relevance in them must add up to."""

import torch
from mixers import scramble
from torch import nn

from ecgbook.explain import MAMBA_LRP, lrp
from ecgbook.models import CNNBaseline, ECGVisionMamba, EnhancedECGMamba2

STEM = {"stem_width": 6, "stem_padding": 7}
MAMBA2 = {**STEM, "embed_dim": 8, "n_layers": 1, "d_state": 4, "head_dim": 8, "n_heads": 2}
ONE_WAY = {"use_multi_branch": False, "use_attention": False, "bidirectional": False}
MODELS = {
    "cnn": lambda: CNNBaseline(embed_dim=8, n_layers=2, kernel_size=3, **STEM),
    "vision mamba, none": lambda: vision("none"),
    "vision mamba, v1": lambda: vision("v1"),
    "vision mamba, v2": lambda: vision("v2"),
    "mamba-2, one way": lambda: EnhancedECGMamba2(**MAMBA2, **ONE_WAY),
    "mamba-2, both ways": lambda: EnhancedECGMamba2(**MAMBA2, **{**ONE_WAY, "bidirectional": True}),
    "mamba-2, branches": lambda: EnhancedECGMamba2(**MAMBA2, use_attention=False),
    "mamba-2, attention": lambda: EnhancedECGMamba2(**MAMBA2, use_multi_branch=False),
    "the whole": lambda: EnhancedECGMamba2(**MAMBA2),
}
SAMPLES = 205  # the stem makes 17 tokens of them


def vision(direction):
    return ECGVisionMamba(embed_dim=8, n_layers=2, direction=direction, d_state=4, **STEM)


def settle(module, seed=0):
    """Return the module in evaluation mode and float64, with everything moved from its start."""
    scramble(module, seed)
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm1d)]
    for number, norm in enumerate(norms, 8):  # draws in which no missing rule hides by chance
        norm.running_mean.copy_(0.3 * normal(norm.running_mean.shape, seed=number))
        norm.running_var.copy_(normal(norm.running_var.shape, seed=number + 1).exp())
    return module.eval()


def build(name):
    torch.manual_seed(0)
    return settle(MODELS[name]())


def normal(shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def signal(batch=2, samples=SAMPLES, seed=1):
    """Return smooth signals in mV."""
    x = torch.nn.functional.avg_pool1d(normal((batch, 12, samples + 4), seed), 5, 1)
    return x.transpose(1, 2).contiguous()


def propagate(module, inputs, rules=MAMBA_LRP, of=None, pull=None):
    """Return the relevance of inputs and of biases, and that of the output.

    The output's is itself times a random `pull`, or as given. `of` are the numbers of the inputs
    that relevance is computed of; by default all but masks and flags.
    """
    inputs = [v.clone() if isinstance(v, torch.Tensor) else v for v in inputs]
    if of is None:
        of = [i for i, v in enumerate(inputs) if getattr(v, "dtype", None) == torch.float64]
    with lrp(module, rules) as additive:
        leaves = [inputs[i].requires_grad_() for i in of]
        y = module(*inputs)
        pull = normal(y.shape, seed=9) if pull is None else pull
        grads = torch.autograd.grad((y * pull).sum(), [*leaves, *additive], allow_unused=True)
    parts = [torch.zeros_like(v) if g is None else v.detach() * g
             for v, g in zip([*leaves, *additive], grads, strict=True)]  # fmt: skip
    return parts[: len(leaves)], parts[len(leaves) :], (y * pull).detach()


def missed(parts, total):
    """Return by how much relevance misses its total, over the sum of all absolute relevance."""
    absolute = sum(part.abs().sum() for part in parts)
    return float((sum(part.sum() for part in parts) - total.sum()).abs() / absolute)


def imbalance(module, inputs, rules=MAMBA_LRP, of=None):
    """Return by how much the relevance of inputs and biases misses that of the output."""
    found, biases, out = propagate(module, inputs, rules, of)
    return float((sum(p.sum() for p in [*found, *biases]) - out.sum()).abs() / out.abs().sum())
