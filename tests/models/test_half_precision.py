"""Half precision under autocast on a CPU: training is finite and follows float32."""

import pytest
import torch
from waves import waves

from ecgbook.models import CNNBaseline, ECGVisionMamba, EnhancedECGMamba2
from ecgbook.training import multilabel_loss

SMALL = {"embed_dim": 16, "stem_width": 8, "stem_padding": 7, "n_layers": 1, "dropout": 0.0}
BUILDS = {
    "cnn": lambda: CNNBaseline(**SMALL),
    "vision mamba": lambda: ECGVisionMamba(**SMALL),
    "enhanced": lambda: EnhancedECGMamba2(**SMALL, d_state=8, head_dim=8),
}


def trained(build, dtype, steps=50):
    """Return the mean loss of the last ten of some steps of AdamW, and the model."""
    torch.manual_seed(0)
    model, dataset, losses = build().train(), waves(64), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16)
    for step in range(steps):
        batch = dataset.batch([(16 * step + i) % 64 for i in range(16)])
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            logits = model(batch["x"], batch["mask"])
        loss = multilabel_loss(logits, batch["y"], batch["y_mask"])
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    return sum(losses[-10:]) / 10, losses[0], model


@pytest.mark.skipif(not hasattr(torch.amp, "GradScaler"), reason="float16 on a CPU: torch 2.4")
@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_fifty_steps_in_half_precision_end_where_those_in_float32_do(build):
    wanted, first, _ = trained(build, torch.float32)
    assert wanted < 0.97 * first, "it learns"
    for dtype in (torch.bfloat16, torch.float16):
        found, _, model = trained(build, dtype)
        assert found == pytest.approx(wanted, rel=0.02), dtype
        assert all(v.isfinite().all() for v in model.state_dict().values()), "statistics too"
