"""Time the attacks against a training step, and the transforms of a batch against SciPy.

    python benchmarks/robust.py                 # print, on one thread
    python benchmarks/robust.py --write         # and store in experiments/results/robust_speed.json

Attacks: one gradient step of the tutorial-size whole on a batch, with and without an attack before
it. Transforms: records a second of every transform, and of SciPy's filters in a loop over the
records.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import method
import numpy as np
import scipy.fft
import torch
from scipy import signal

from ecgbook.attacks import AdversarialTraining, apgd, pgd, smooth
from ecgbook.augment import FrequencyMask, LeadMask, Mixup, Noise
from ecgbook.ladder import WHOLE
from ecgbook.models import PREPROCESSING
from ecgbook.signals import NOISE_KINDS, add_noise
from ecgbook.training import multilabel_loss

RESULT = method.RESULTS / "robust_speed.json"
STEPS = PREPROCESSING["tutorial"]
ATTACKED = (8, 1250, 12)  # records of 10 s
TRANSFORMED = (64, STEPS.n_samples, 12)
BAND_HZ = (5.0, 8.5)
EPSILON_MV = 0.025


def batch_of(shape: tuple[int, int, int]) -> dict[str, torch.Tensor]:
    """Make a batch of noise."""
    torch.manual_seed(0)
    return {
        "x": torch.randn(shape),
        "mask": torch.ones(shape[:2], dtype=torch.bool),
        "y": (torch.rand(shape[0], 5) < 0.3).float(),
        "y_mask": torch.ones(shape[0], 5, dtype=torch.bool),
    }


def attack_tasks() -> dict[str, Callable[[], None]]:
    """Name what is timed; the first, a training step, is what the others are compared with."""
    batch, generator = batch_of(ATTACKED), torch.Generator().manual_seed(0)
    model = WHOLE.build()
    x, y, mask = batch["x"], batch["y"], batch["mask"]

    def step() -> None:
        model.train()
        multilabel_loss(model(x, mask), y, batch["y_mask"]).backward()
        model.zero_grad()

    tasks = {"training step": step}
    for attack in (
        AdversarialTraining("fgsm"),
        AdversarialTraining("n-fgsm"),
        AdversarialTraining("pgd", steps=3),
        AdversarialTraining("fgsm", share=0.5),
    ):
        name = f"{attack.attack}-{attack.steps}" if attack.attack == "pgd" else attack.attack
        name += "" if attack.share == 1 else f", {attack.share:g} of the batch"
        tasks[name] = lambda attack=attack: attack(model, batch, generator)
    for name, attack in (("pgd", pgd), ("apgd", apgd), ("smooth", smooth)):
        options = {"fs_hz": STEPS.fs_hz} if attack is smooth else {}
        tasks[f"{name}-20"] = lambda attack=attack, options=options: attack(
            model, x, y, EPSILON_MV, mask, steps=20, **options
        )
    return tasks


def transform_tasks() -> dict[str, Callable[[], None]]:
    """Name what is timed; the first is what the others are compared with."""
    batch = batch_of(TRANSFORMED)
    x, n = batch["x"], TRANSFORMED[1]
    sos = signal.butter(3, BAND_HZ, "bandstop", fs=STEPS.fs_hz, output="sos")
    hz = scipy.fft.rfftfreq(n, 1 / STEPS.fs_hz)
    outside = ~((hz >= BAND_HZ[0]) & (hz < BAND_HZ[1]))[:, None]

    def masked_by_scipy(record: np.ndarray) -> np.ndarray:
        return scipy.fft.irfft(scipy.fft.rfft(record, axis=0) * outside, n, axis=0)

    every, half = (FrequencyMask(STEPS.fs_hz, p=p) for p in (1.0, 0.5))
    leads, mixup, noise = LeadMask(0.1), Mixup(), Noise(STEPS.fs_hz)
    return {
        "SciPy's FFT, in a loop": lambda: [masked_by_scipy(record) for record in x.numpy()],
        "SciPy's filter, in a loop": lambda: [
            signal.sosfiltfilt(sos, record, axis=0) for record in x.numpy()
        ],
        "FrequencyMask, p=1": lambda: every(x),
        "FrequencyMask, p=0.5": lambda: half(x),
        **{
            f"add_noise, {kind}": lambda kind=kind: add_noise(x, kind, 6.0, STEPS.fs_hz)
            for kind in NOISE_KINDS
        },
        "Noise, p=0.5": lambda: noise(x),
        "LeadMask": lambda: leads(x),
        "Mixup": lambda: mixup(batch),
    }


def attacks(rounds: int) -> list[dict]:
    """Return the time of every attack in training steps."""
    return measured(attack_tasks(), rounds, ATTACKED[0])


def transforms(rounds: int) -> list[dict]:
    """Return the throughput of every transform."""
    return measured(transform_tasks(), rounds, TRANSFORMED[0])


def measured(tasks: dict[str, Callable[[], None]], rounds: int, records: int) -> list[dict]:
    """Time tasks in turn, and compare each with the first."""
    times = method.in_turn(tasks, rounds)
    reference = next(iter(times.values()))
    rows = [
        {
            "name": name,
            "ms": 1000 * median(each),
            "records_per_s": records / median(each),
            "times_the_first": method.ratio(each, reference),
        }
        for name, each in times.items()
    ]
    for row in rows:
        print(
            f"{row['name']:28}{row['ms']:9.1f} ms a batch{row['records_per_s']:9.0f} records/s"
            f"{row['times_the_first']:8.2f} x"
        )
    return rows


if __name__ == "__main__":
    method.main(
        __file__,
        "Time attacks and transforms.",
        RESULT,
        {"attacks": attacks, "transforms": transforms},
        lambda *words: None,
        rounds=7,
    )
