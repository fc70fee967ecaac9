"""What a reader runs on a device works on one without float64, with the numbers of the CPU."""

import numpy as np
import pytest
import torch
from explained import BUILD
from pretend_device import DEVICE, PretendDevice
from waves import waves

from ecgbook import attacks, augment, explain, signals
from ecgbook.training import multilabel_loss, predict

pytestmark = pytest.mark.skipif(
    not hasattr(torch._C, "_set_only_lift_cpu_tensors"), reason="torch 2.4 can pretend a device"
)
LENGTH, FS_HZ = 240, 125.0
TRANSFORMS = {
    "frequency mask": augment.FrequencyMask(FS_HZ, p=1.0),
    "noise": augment.Noise(FS_HZ, p=1.0),
    "lead mask": augment.LeadMask(0.3),
}


def seeded():
    return torch.Generator().manual_seed(0)


def batch():
    x = 0.5 * torch.randn(4, LENGTH, 12, generator=seeded())
    mask = torch.arange(LENGTH) < torch.tensor([LENGTH, 200, 180, 150])[:, None]
    y = (torch.rand(4, 5, generator=seeded()) < 0.4).float()
    return {"x": x, "mask": mask, "y": y, "y_mask": torch.rand(4, 5, generator=seeded()) < 0.9}


def built(name):
    torch.manual_seed(0)
    model = BUILD[name]().eval()
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm1d)):
        norm.running_mean += 0.1
    return model


def trained(model, parts):
    """Take two steps of AdamW as `fit` does; return the loss and the parameters."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(2):
        logits = model(parts["x"], parts["mask"])
        loss = multilabel_loss(logits, parts["y"], parts["y_mask"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
    return loss, *model.parameters()


def attacked(model, b, attack, **options):
    return attack(model, b["x"], b["y"], 0.05, b["mask"], y_mask=b["y_mask"], **options)


def deleted(model, b, **options):
    relevance = explain.gradient_times_input(model, b["x"], 1, b["mask"])
    choices = {"window": 20, "per_lead": True, "replacement": "interpolate", "steps": 3} | options
    return vars(explain.deletion(model, b["x"], relevance, 1, b["mask"], **choices))


def explained(model, b):
    """Explain one record in full."""
    found = explain.MambaLRP(model).explain(b["x"][:1], 1, b["mask"][:1], fs_hz=FS_HZ)
    return found.relevance, found.bias, found.error, found.logit


CASES = {
    "logits": lambda m, b: m(b["x"], b["mask"]),
    "training": trained,
    "predict": lambda m, _: predict(m, waves(8)),
    "fgsm": lambda m, b: attacked(m, b, attacks.fgsm, lead_consistent=True),
    "pgd": lambda m, b: attacked(m, b, attacks.pgd, steps=2, generator=seeded(), restarts=2),
    "apgd": lambda m, b: attacked(m, b, attacks.apgd, steps=5),
    "smooth": lambda m, b: attacked(m, b, attacks.smooth, fs_hz=FS_HZ, steps=2),
    "adversarial training": lambda m, b: attacks.AdversarialTraining()(m, b, seeded())["x"],
    "watch": lambda m, _: attacks.AdversarialTraining(watched=4).watch(m, waves(4)),
    "attribute": lambda m, b: explain.MambaLRP(m).attribute(b["x"], 1, b["mask"]),
    "attribute tokens": lambda m, b: explain.MambaLRP(m).attribute_tokens(b["x"], 1, b["mask"]),
    "explain": explained,
    "deletion": lambda m, b: deleted(m, b, order="signed"),
    "deletion of all leads": lambda m, b: deleted(m, b, order="absolute", per_lead=False),
    "smooth grad": lambda m, b: explain.smooth_grad(
        m, b["x"], 1, b["mask"], samples=2, generator=seeded()
    ),
    "integrated gradients": lambda m, b: explain.integrated_gradients(m, b["x"], 1, b["mask"]),
    "grad cam": lambda m, b: explain.grad_cam(m, b["x"], 1, b["mask"]),
    "one band": lambda _, b: signals.remove_band(b["x"], FS_HZ, 5, 62.5, b["mask"]),
    **{
        name: lambda _, b, t=transform: t(b["x"], b["mask"], seeded())
        for name, transform in TRANSFORMS.items()
    },
    "recorded noise": lambda _, b: signals.add_noise(
        b["x"], signals.RecordedNoise("n", np.ones((500, 2), np.float32).cumsum(0), FS_HZ), 5, FS_HZ
    ),
    "mixup": lambda _, b: augment.Mixup()(b, seeded()),
    "all transforms": lambda _, b: augment.apply((*TRANSFORMS.values(), augment.Mixup()), b),
}
WITH_ANY_MODEL = "logits", "training", "predict", "fgsm", "attribute", "explain", "deletion"


def on_the_cpu(value):
    """Return all numbers of a result, and forget where they were."""
    if isinstance(value, dict | tuple | list):
        return [on_the_cpu(v) for v in (value.values() if isinstance(value, dict) else value)]
    value = value.detach().cpu() if isinstance(value, torch.Tensor) else value
    return np.asarray(value, dtype=np.float64)


def pretended(monkeypatch):
    """Return a device that only runs what it is given, with its own sources of chance."""
    for part in ("scan.scans", "scan", "models.convolution", "models.attention"):
        monkeypatch.setattr(f"ecgbook.{part}.is_followed", lambda x: False)
    monkeypatch.setattr("ecgbook.scan.scans.WITHOUT_FLOAT64", {"mps", DEVICE.type})
    streams, draw = signals.noise._streams, signals.noise._draw
    monkeypatch.setattr(signals.noise, "_streams", lambda n, _, g: streams(n, "cpu", g))
    monkeypatch.setattr(signals.noise, "_draw", lambda *args: draw(*args).to(DEVICE))
    return PretendDevice()


def cases():
    for name in CASES:
        models = BUILD if name in WITH_ANY_MODEL else ("cnn",)  # what runs around it is the same
        yield from (pytest.param(name, model, id=f"{name}, {model}") for model in models)


@pytest.mark.parametrize("name, model", cases())
def test_it_is_the_same_on_a_device_without_float64(name, model, monkeypatch):
    torch.manual_seed(1)
    wanted = on_the_cpu(CASES[name](built(model), batch()))
    device = pretended(monkeypatch)
    torch.manual_seed(1)
    with device:
        there = built(model).to(DEVICE)
        found = CASES[name](there, {k: v.to(DEVICE) for k, v in batch().items()})
        found = on_the_cpu(found)
    assert device.seen
    for a, b in zip(flat(found), flat(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)


def flat(value):
    return [each for v in value for each in flat(v)] if isinstance(value, list) else [value]


def test_the_device_refuses_what_a_real_one_does():
    with PretendDevice():
        x = torch.ones(3).to(DEVICE)
        for wide in (
            lambda: x.double(),
            lambda: torch.ones(3, dtype=torch.float64, device=DEVICE),
            lambda: torch.from_numpy(np.ones(3)).to(DEVICE),
            lambda: x.to("cpu", torch.float64),
        ):
            with pytest.raises(TypeError, match="float64 found, which the device does not have"):
                wide()
        with pytest.raises(RuntimeError, match="a tensor of the CPU found"):
            x + torch.ones(3)
        assert torch.equal((2 * x).cpu().double(), 2 * torch.ones(3).double())
        assert torch.equal(x[[0, 2]].cpu(), torch.ones(2)) and x.sum().item() == 3
