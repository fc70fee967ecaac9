"""Compare `S4D` with its published codes, on the weights of the one; print errors as JSON.

`tests/test_parity.py` runs this in a process of its own, with einops on the path besides.
``s4d.py`` is the minimal layer; ``s4.py`` has the convolution in both directions. What they import
beyond that, a dropout that is not used and a decorator, is replaced.
"""

import json
import sys
import types

import torch
from mixers import layer_gradients
from scan_cases import errors
from torch import nn

from ecgbook.models import S4D

for name in ("src", "src.models", "src.models.nn", "pytorch_lightning.utilities"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["src.models.nn"].DropoutNd = nn.Identity
sys.modules["pytorch_lightning.utilities"].rank_zero_only = lambda function: function
sys.modules["pytorch_lightning"] = types.ModuleType("pytorch_lightning")

from models.s4 import s4, s4d  # noqa: E402


def minimal(dtype) -> dict:
    """Compare output and gradients with the minimal layer, whose tokens have channels first."""
    theirs = s4d.S4D(24, d_state=16, transposed=False)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    ours, name = S4D(24, d_state=16), "output_linear.0.weight"
    weights = theirs.state_dict()
    ours.load_state_dict(weights | {name: weights[name].squeeze(-1)})
    x = torch.randn(2, 150, 24, dtype=dtype)
    found, wanted = layer_gradients(ours.to(dtype), x), layer_gradients(theirs.to(dtype), x)
    apart = errors(found, wanted | {name: wanted[name].squeeze(-1)})
    return {"output": apart.pop("y"), "gradients": max(apart.values())}


def both_directions() -> float:
    """Compare what comes before the output layer, in float64."""
    ours = S4D(24, d_state=16, bidirectional=True).double()
    theirs = s4.FFTConv(24, mode="s4d", d_state=16, bidirectional=True, transposed=False).double()
    kernel = ours.kernel
    weights = {
        "D": ours.D[None],
        "kernel.C": kernel.C,
        "kernel.B": torch.view_as_real(torch.ones(1, 24, 8, dtype=torch.complex128)),
        "kernel.inv_dt": kernel.log_dt[:, None],
        "kernel.A_real": kernel.log_A_real,
        "kernel.A_imag": -kernel.A_imag,  # which it subtracts
    }
    theirs.load_state_dict(weights)
    x, seen = torch.randn(2, 150, 24, dtype=torch.float64), []
    ours.act.register_forward_hook(lambda act, inputs, y: seen.append(y))
    ours(x)
    return errors({"y": seen[0].detach()}, {"y": theirs(x)[0].detach()})["y"]


def start() -> dict:
    """Compare what is not drawn at the start, and say how far what is drawn reaches."""
    torch.manual_seed(0)
    theirs = s4d.S4D(512)
    ours = S4D(512)
    parts = {n: (v, dict(theirs.named_parameters())[n]) for n, v in ours.named_parameters()}
    same = [n for n, (a, b) in parts.items() if a.shape == b.shape and torch.equal(a, b)]
    spread = {n: [float(v.std()) for v in pair] for n, pair in parts.items() if n not in same}
    inverse = S4D(4, d_state=16, start="inv").kernel.A_imag[0].detach()
    A = s4.dplr("inv", N=16)[0][0].imag
    return {"same": same, "spread": spread, "inverse": errors({"y": inverse}, {"y": -A})["y"]}


if __name__ == "__main__":
    torch.manual_seed(0)
    found = {"float32": minimal(torch.float32), "float64": minimal(torch.float64)}
    print(json.dumps(found | {"both": both_directions(), "start": start()}))
