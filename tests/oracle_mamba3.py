"""Compare Mamba-3 with mamba-ssm's references and its layer; print errors as JSON.

`tests/test_parity.py` runs this in a process of its own. The references are a test file of
mamba-ssm's repository, and the layer is newer than its releases: both lie in ``.oracles/mamba3``,
and import from the release beside it. As in `oracle_mamba_ssm`, stand-ins take the place of the
package itself and of Triton; the layer's two kernels give way to their references.
"""

import json
import sys

import torch
from oracle_mamba_ssm import layernorm_gated, triton  # puts the stand-ins in place
from scan_cases import errors, pull_like

from ecgbook.models import Mamba3, Rotation
from ecgbook.scan import trapezoidal_scan

sys.modules["triton.testing"] = triton.testing

import mamba3  # noqa: E402
import test_mamba3_siso as references  # noqa: E402

BATCH, HEADS, HEAD_DIM, D_STATE, PAIRS = 2, 4, 8, 16, 4


def inputs(length, groups, dtype):
    """What the references take, in their layout: length last in ADT, DT and Trap."""
    generator = torch.Generator().manual_seed(groups)

    def normal(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)

    dt = torch.nn.functional.softplus(normal(BATCH, HEADS, length))
    angles = normal(BATCH, length, 1, PAIRS).expand(-1, -1, HEADS, -1)
    return {
        "Q": normal(BATCH, length, groups, D_STATE),
        "K": normal(BATCH, length, groups, D_STATE),
        "V": normal(BATCH, length, HEADS, HEAD_DIM),
        "ADT": -dt * normal(BATCH, HEADS, length).exp(),
        "DT": dt,
        "Trap": normal(BATCH, HEADS, length),
        "Q_bias": normal(HEADS, D_STATE),
        "K_bias": normal(HEADS, D_STATE),
        "Angles": angles,
        "D": normal(HEADS),
        "Z": normal(BATCH, length, HEADS, HEAD_DIM),
    }


def ours(Q, K, V, ADT, DT, Trap, Q_bias, K_bias, Angles, D, Z):
    """Compute what the references do by the parts of `Mamba3`."""
    dt, log_decay, share = (v.transpose(1, 2) for v in (DT, ADT, Trap.sigmoid()))
    each = HEADS // Q.shape[2]
    B, C = (v.repeat_interleave(each, 2) + bias for v, bias in ((K, K_bias), (Q, Q_bias)))
    B, C = Rotation()(B, C, dt, Angles[:, :, 0])
    return trapezoidal_scan(V, dt, log_decay / dt, share, B, C, D) * torch.nn.functional.silu(Z)


def gradients(form, case):
    """Output and the gradient of every input; heads share angles, so theirs are added."""
    leaves = {name: v.clone().requires_grad_() for name, v in case.items()}
    y = form(**leaves)
    y = y if isinstance(y, torch.Tensor) else y[0]
    y.backward(pull_like(y))
    found = {"y": y.detach()} | {name: v.grad for name, v in leaves.items()}
    return found | {"Angles": found["Angles"].sum(2)}


def scan() -> dict:
    """Compare rotation, scan and gate with both references, in float32 and float64."""
    forms = {
        "step": references.mamba3_siso_step_ref,
        "forward": references.mamba3_siso_fwd_ref,
    }
    apart = {}
    for groups in (1, 2):
        for name, form in forms.items():
            key = f"{name}, {groups} groups"
            apart[key] = {}
            for dtype in (torch.float32, torch.float64):
                case = inputs(150, groups, dtype)
                options = {"dtype": dtype} if name == "forward" else {}
                wanted = gradients(lambda f=form, o=options, **case: f(**case, **o), case)
                apart[key][str(dtype).split(".")[1]] = errors(gradients(ours, case), wanted)
    return apart


def norm(x, weight, bias, z=None, eps=1e-6, group_size=None, norm_before_gate=True, **_):
    assert bias is z is group_size is None
    return layernorm_gated.rms_norm_ref(x, weight, bias, eps=eps)


def combined(chunk_size, Input_States, return_final_states, cu_seqlens, **case):
    assert Input_States is cu_seqlens is None and not return_final_states
    return references.mamba3_siso_step_ref(**case)[0]


def layer() -> dict:
    """Load the parameters of mamba-ssm's layer into ours and back; compare output and gradients."""
    layernorm_gated.rmsnorm_fn, mamba3.mamba3_siso_combined = norm, combined
    apart = {}
    for groups in (1, 2):
        torch.manual_seed(0)
        theirs = mamba3.Mamba3(48, d_state=16, headdim=24, ngroups=groups)
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        mixer = Mamba3(48, d_state=16, head_dim=24, n_groups=groups)
        mixer.load_state_dict(theirs.state_dict())
        theirs.load_state_dict(mixer.state_dict())
        x = torch.randn(2, 100, 48)

        def results(model, x=x):
            names, parameters = zip(*sorted(model.named_parameters()), strict=True)
            leaf = x.clone().requires_grad_()
            y = model(leaf)
            grads = torch.autograd.grad((y * pull_like(y)).sum(), [leaf, *parameters])
            return dict(zip(["y", "x", *names], [y.detach(), *grads], strict=True))

        apart[groups] = errors(results(mixer), results(theirs))
    return apart


def defaults() -> bool:
    """Load the parameters of mamba-ssm's layer at its defaults into ours at its own, and back."""
    theirs, mixer = mamba3.Mamba3(64), Mamba3(64)
    mixer.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(mixer.state_dict())
    return True


if __name__ == "__main__":
    print(json.dumps({check.__name__: check() for check in (scan, layer, defaults)}))
