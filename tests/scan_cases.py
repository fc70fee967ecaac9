"""Random inputs of the scans, and how far two results are apart."""

import torch
import torch.nn.functional as F


def ssd_case(
    batch=2, length=20, heads=4, groups=2, head_dim=3, d_state=5, dt_shift=0.0, seed=0
) -> dict[str, torch.Tensor]:
    """Inputs of `ecgbook.scan.ssd` in float64; a `dt_shift` of 3 makes the decay strong."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    return {
        "x": normal(batch, length, heads, head_dim),
        "dt": F.softplus(normal(batch, length, heads) + dt_shift),
        "A": -torch.linspace(1, 16, heads, dtype=torch.float64),
        "B": normal(batch, length, groups, d_state),
        "C": normal(batch, length, groups, d_state),
        "D": normal(heads),
    }


def trapezoidal_case(length=20, seed=0, **sizes) -> dict[str, torch.Tensor]:
    """Inputs of `ecgbook.scan.trapezoidal_scan` in float64: those of `ssd`, rates for each step."""
    case = ssd_case(length=length, seed=seed, **sizes)
    generator = torch.Generator().manual_seed(seed + 1000)
    shape = case["dt"].shape
    scatter = torch.rand(shape, dtype=torch.float64, generator=generator) + 0.5
    share = torch.rand(shape, dtype=torch.float64, generator=generator)
    return case | {"A": case["A"] * scatter, "share": share}


def selective_case(batch=2, length=20, channels=6, d_state=4, dt_shift=0.0, seed=0):
    """Inputs of `ecgbook.scan.selective_scan` in float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    return {
        "u": normal(batch, length, channels),
        "dt": F.softplus(normal(batch, length, channels) + dt_shift),
        "A": -torch.arange(1, d_state + 1, dtype=torch.float64).repeat(channels, 1),
        "B": normal(batch, length, d_state),
        "C": normal(batch, length, d_state),
        "D": normal(channels),
    }


def pull_like(y: torch.Tensor) -> torch.Tensor:
    """Return one fixed random gradient of an output."""
    pull = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return pull.to(y)


def gradients(scan, case: dict[str, torch.Tensor], **options) -> dict[str, torch.Tensor]:
    """Output, and the gradient of every input for the gradient `pull_like` of the output."""
    leaves = {name: v.detach().clone().requires_grad_() for name, v in case.items()}
    y = scan(**leaves, **options)
    y.backward(pull_like(y))
    return {"y": y.detach()} | {name: v.grad for name, v in leaves.items()}


def errors(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> dict[str, float]:
    """Relative error of each tensor in the Euclidean norm; NaN and infinity count as infinite."""
    assert found.keys() == wanted.keys()
    apart = {}
    for name, reference in wanted.items():
        size = reference.double().norm()
        ratio = (found[name].double() - reference.double()).norm() / torch.where(size > 0, size, 1)
        apart[name] = ratio.item() if ratio.isfinite() else float("inf")
    return apart


def pooled(results: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Put several results side by side, so that no sum that happens to cancel rules the error."""
    return {name: torch.cat([r[name].double().flatten() for r in results]) for name in results[0]}
