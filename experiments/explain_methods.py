"""The methods that experiments/run_explain.py compares: each ``method(model, x, target, mask)``.

All of them explain one logit of every record and return relevance shaped like the signal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import run_ladder
import torch
from torch import Tensor, nn

from ecgbook import explain
from ecgbook.explain import MAMBA_LRP, MambaLRP, attn_lrp
from ecgbook.models import SSD, Attend, Gate, RMSNorm

WINDOW = round(0.2 * run_ladder.STEPS.fs_hz)
"""Samples that occlusion covers at a time, and that are deleted together."""

Method = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]


def by_rules(model, x, target, mask, **options) -> Tensor:
    """Explain by layer-wise relevance propagation; options as for `MambaLRP`."""
    return MambaLRP(model, **options).attribute(x, target, mask)


def by_tokens(model, x, target, mask) -> Tensor:
    """Explain by the tokens in front of the blocks, spread over the samples between centers."""
    values = MambaLRP(model).attribute_tokens(x, target, mask).numpy()
    valid = model.stem.masks(mask)[1].numpy()
    center = np.arange(values.shape[1])
    for conv in (model.stem.conv2, model.stem.conv1):  # backward: from tokens to samples
        center = center * conv.stride[0] - conv.padding[0] + (conv.kernel_size[0] - 1) / 2
    at = np.arange(x.shape[1])
    over_time = [np.interp(at, center[v], row[v]) for row, v in zip(values, valid, strict=True)]
    relevance = torch.from_numpy(np.stack(over_time)).to(x)[..., None].expand_as(x)
    return relevance.masked_fill(~mask[..., None], 0)


RULES = {
    "LRP-0": {"rules": MAMBA_LRP.without(nn.Conv1d)},
    "MambaLRP": {},
    "MambaLRP, flat input": {"flat_input": True},
    "AttnLRP": {"rules": MAMBA_LRP | {Attend: attn_lrp}},
}
NO_RULE = {"no rule": {"rules": MAMBA_LRP.without(*MAMBA_LRP)}}
BASELINES: dict[str, Method] = {
    "random": explain.random_relevance,
    "gradient x input": explain.gradient_times_input,
    "SmoothGrad": partial(explain.smooth_grad, samples=16, sigma_mv=0.1),
    "integrated gradients": partial(explain.integrated_gradients, steps=32),
    "Grad-CAM": explain.grad_cam,
    "attention rollout": explain.attention_rollout,
}
METHODS: dict[str, Method] = {
    **BASELINES,
    "occlusion": partial(explain.occlusion, window=WINDOW),
    **{name: partial(by_rules, **options) for name, options in RULES.items()},
    "MambaLRP, tokens": by_tokens,
}
ABLATION: dict[str, Method] = {"MambaLRP": METHODS["MambaLRP"]} | {
    name: partial(by_rules, rules=MAMBA_LRP.without(*kinds))
    for name, kinds in {
        "without normalization": (RMSNorm,),
        "without scan": (SSD,),
        "without gate": (Gate,),
        "without SiLU": (nn.SiLU,),
        "without GELU": (nn.GELU,),
        "without attention": (Attend,),
        "without gamma": (nn.Conv1d,),
        "normalization and gamma only": (SSD, Gate, nn.SiLU, nn.GELU, Attend),
    }.items()
}


def settings(method: object) -> dict:
    """Return the numbers that a method is called with; of each one, if there are several."""
    if isinstance(method, Mapping) and all(map(callable, method.values())):
        return {name: settings(each) for name, each in method.items()}
    options = method if isinstance(method, Mapping) else getattr(method, "keywords", {})
    return {name: value for name, value in options.items() if isinstance(value, int | float)}
