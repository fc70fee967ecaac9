"""Compare relevance in a small network with zennit's; print errors as JSON.

`tests/test_parity.py` runs this in a process of its own, with zennit on the path. Its stabilizer is
set to next to nothing. It gets the network with batch normalization folded in by PyTorch.
"""

import copy
import json
import sys
from unittest.mock import MagicMock

# Zennit imports torchvision for the sake of models that are not used here.
try:
    import torchvision  # noqa: F401
except ImportError:
    sys.modules |= dict.fromkeys(
        ["torchvision", "torchvision.models", "torchvision.models.resnet"], MagicMock()
    )

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from zennit.composites import LayerMapComposite
from zennit.rules import Epsilon, Gamma, Norm, Pass

from ecgbook.explain import MAMBA_LRP, MambaLRP, gamma, plain

LEADS, WIDTH, TARGET, TINY = 12, 16, 3, 1e-15


class Net(nn.Module):
    """Two convolutions with norms; the second one gets, and the first one gives, both signs."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv1d(LEADS, WIDTH, 5, 2, 3), nn.BatchNorm1d(WIDTH)
        self.conv2, self.norm2 = nn.Conv1d(WIDTH, WIDTH, 3, groups=2), nn.BatchNorm1d(WIDTH)
        self.relu, self.pool, self.head = nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Linear(WIDTH, 5)

    def forward(self, x, mask=None):
        x = self.norm1(self.conv1(x.transpose(1, 2)))
        x = self.relu(self.norm2(self.conv2(x)))
        return self.head(self.pool(x)[..., 0])


def folded(net: Net) -> Net:
    net = copy.deepcopy(net)
    for number in "12":
        conv, norm = getattr(net, f"conv{number}"), getattr(net, f"norm{number}")
        setattr(net, f"conv{number}", fuse_conv_bn_eval(conv, norm))
        setattr(net, f"norm{number}", nn.Identity())
    return net


def theirs(net: Net, x: torch.Tensor, rule) -> torch.Tensor:
    layers = [
        (nn.Conv1d, rule),
        (nn.Linear, Epsilon(TINY)),
        (nn.AdaptiveAvgPool1d, Norm(TINY)),
        (nn.ReLU, Pass()),
    ]
    x = x.clone().requires_grad_()
    with LayerMapComposite(layers).context(folded(net)) as hooked:
        logits = hooked(x)
        start = torch.zeros_like(logits)
        start[:, TARGET] = logits[:, TARGET].detach()
        return torch.autograd.grad(logits, x, start)[0]


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


if __name__ == "__main__":
    torch.manual_seed(0)
    net, x = Net().double(), torch.randn(4, 101, LEADS, dtype=torch.float64)
    for _ in range(3):
        net(2 * x + 0.5)  # moves the means and variances of the norms
    net.eval()
    for norm in (net.norm1, net.norm2):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    found, wanted = {}, {}
    for name, strength in (("LRP-0", 0), ("gamma 0.25", 0.25), ("gamma 2", 2)):
        rules = MAMBA_LRP | {nn.Conv1d: gamma(strength), nn.AdaptiveAvgPool1d: plain}
        found[name] = MambaLRP(net, rules).attribute(x, TARGET)
        rule = Gamma(strength, stabilizer=TINY) if strength else Epsilon(TINY)
        wanted[name] = theirs(net, x, rule)
    result = {name: apart(found[name], wanted[name]) for name in found}
    other = apart(found["gamma 0.25"], wanted["gamma 2"])
    print(json.dumps({"errors": result, "another gamma": other}))
