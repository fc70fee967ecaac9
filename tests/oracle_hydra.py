"""Compare `Hydra` with its published code, on its weights; print errors as JSON.

`tests/test_parity.py` runs this in a process of its own, with mamba-ssm and einops on the path
besides. In the place of two kernels of mamba-ssm, its scan and its gated norm, stand the references
that it has for them.
"""

import json

import torch
from mixers import layer_gradients
from oracle_mamba_ssm import layernorm_gated, ssd_combined
from scan_cases import errors
from torch import nn

from ecgbook.models import Hydra

from hydra.modules import hydra  # isort: skip


class GatedNorm(nn.Module):
    def __init__(self, d, eps, norm_before_gate, device=None, dtype=None):
        super().__init__()
        self.weight, self.eps, self.before = nn.Parameter(torch.ones(d)), eps, norm_before_gate

    def forward(self, y, z):
        options = {"eps": self.eps, "norm_before_gate": self.before}
        return layernorm_gated.rms_norm_ref(y, self.weight, None, z, **options)


def chunk_scan(x, dt, A, B, C, chunk_size, D, z, seq_idx, initial_states):
    assert D is None and z is None and seq_idx is None and initial_states is None
    return ssd_combined.ssd_chunk_scan_combined_ref(x, dt, A, B, C, chunk_size)


hydra.RMSNormGated, hydra.mamba_chunk_scan_combined = GatedNorm, chunk_scan


def layer(n_groups) -> dict:
    """Load the published layer, with no parameter at its start, into ours, and back."""
    theirs = hydra.Hydra(48, d_state=16, headdim=24, ngroups=n_groups, chunk_size=32)
    ours = Hydra(48, d_state=16, head_dim=24, n_groups=n_groups)
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
        ours.dt_bias += 1  # steps long enough for the states to matter
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 96, 48)
    apart = errors(layer_gradients(ours, x), layer_gradients(theirs, x))
    return {"output": apart.pop("y"), "gradients": max(apart.values())}


def start() -> dict:
    """Compare names, shapes and what is not drawn at the start, at the defaults."""
    theirs, ours = hydra.Hydra(64).state_dict(), Hydra(64).state_dict()
    same = [name for name in theirs if torch.equal(theirs[name], ours[name])]
    shapes = {name: v.shape for name, v in theirs.items()}
    return {"same": same, "shapes": shapes == {name: v.shape for name, v in ours.items()}}


if __name__ == "__main__":
    torch.manual_seed(0)
    print(json.dumps({"1": layer(1), "2": layer(2), "start": start()}))
