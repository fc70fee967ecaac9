"""Compare the package's layers with those of transformers on equal weights; print errors as JSON.

`tests/test_parity.py` runs this in a process of its own, with transformers on the path and
mamba-ssm not: where transformers finds mamba-ssm, it calls kernels that a CPU does not have.
Its forms in plain PyTorch are what is compared here.
"""

import json

import torch
from scan_cases import errors, pull_like
from transformers import Mamba2Config, MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from ecgbook.models import Mamba, Mamba2


def apart(ours, theirs, length: int) -> dict[str, float]:
    """Worst relative error of the output, and of the gradients of input and parameters."""
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, length, 64, generator=torch.Generator().manual_seed(0))
    found = []
    for layer in (ours, theirs):
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        y.backward(pull_like(y))
        gradients = {name: p.grad for name, p in layer.named_parameters()}
        found.append({"y": y.detach(), "x": leaf.grad} | gradients)
    each = errors(*found)
    return {"output": each.pop("y"), "gradients": max(each.values())}


def mamba2(n_groups: int) -> dict[str, float]:
    config = Mamba2Config(
        hidden_size=64,
        state_size=32,
        head_dim=16,
        num_heads=8,
        expand=2,
        n_groups=n_groups,
        chunk_size=16,
        num_hidden_layers=1,
    )
    theirs = Mamba2Mixer(config, layer_idx=0)
    return apart(Mamba2(64, d_state=32, head_dim=16, n_groups=n_groups), theirs, 101)


def mamba() -> dict[str, float]:
    config = MambaConfig(hidden_size=64, state_size=16, num_hidden_layers=1)
    return apart(Mamba(64), MambaMixer(config, layer_idx=0), 101)


if __name__ == "__main__":
    torch.manual_seed(0)
    print(json.dumps({"mamba": mamba(), "mamba2": mamba2(1), "mamba2, groups": mamba2(2)}))
