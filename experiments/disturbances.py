"""What the models of an experiment meet: attacks, noise, missing bands, and the records for it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import run_ladder
import torch
from tqdm import tqdm

from ecgbook import attacks, data, signals, synthetic
from ecgbook.data import ECGDataset, trim
from ecgbook.labels import RHYTHMS
from ecgbook.records import read_record
from ecgbook.signals import Preprocessing
from ecgbook.training import Bundle

STEPS = run_ladder.STEPS
NOISE_FS_HZ = 500.0  # some records have 100 Hz, which hold no mains
SNR_DB = (-6, 0, 6, 12, 18, 24)
BANDS_HZ = ((0.5, 2), (2, 4), (4, 6), (6, 9), (9, 13), (13, 20), (20, 40))
BATCH = 32

ATTACKS = {
    "fgsm": attacks.fgsm,
    "pgd": partial(attacks.pgd, steps=20),
    "apgd": partial(attacks.apgd, steps=20),
    "smooth": partial(attacks.smooth, fs_hz=STEPS.fs_hz, steps=20),
    "lead-consistent pgd": partial(attacks.pgd, steps=20, lead_consistent=True),
}


def under_attack(name: str, bundle: Bundle, batch: dict, uv: int, generator) -> torch.Tensor:
    """Return the probabilities under one attack, shape (batch, n_classes)."""
    model, epsilon_mv = bundle.model, uv / 1000
    x, y, mask, y_mask = (batch[key] for key in ("x", "y", "mask", "y_mask"))

    def probabilities(signal: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return torch.sigmoid(model(signal, mask))

    if name == "clean":
        return probabilities(x)
    if name == "random noise":
        return probabilities(attacks.random_noise(x, epsilon_mv, mask, generator))
    if name == "pgd, label by label":
        worst = [
            attacks.pgd(model, x, y, epsilon_mv, mask, y_mask=y_mask, target=k, steps=20)
            for k in range(len(RHYTHMS))
        ]
        return torch.stack([probabilities(each)[:, k] for k, each in enumerate(worst)], 1)
    if name == "pgd, 50 steps, 5 starts":
        options = {"steps": 50, "restarts": 5, "generator": generator}
        return probabilities(attacks.pgd(model, x, y, epsilon_mv, mask, y_mask=y_mask, **options))
    return probabilities(ATTACKS[name](model, x, y, epsilon_mv, mask, y_mask=y_mask))


def attacked(
    bundle: Bundle, records: ECGDataset, seed: int, plan: list[tuple[str, int]]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the probabilities under every attack of a plan, with its name and budget."""
    for name, uv in tqdm(plan, desc="attacks", leave=False):
        generator = torch.Generator().manual_seed(seed)
        parts = [
            under_attack(name, bundle, trim(batch), uv, generator)
            for batch in records.loader(BATCH)
        ]
        yield key(name, uv), torch.cat(parts).numpy()


def key(name: str, size: object) -> str:
    """Name a condition, such as ``pgd/25``."""
    return name if name == "clean" else f"{name}/{size}"


def disturbed(
    part: str, records: ECGDataset, raw: list[np.ndarray]
) -> Iterator[tuple[str, ECGDataset]]:
    """Yield every condition of a part with the records in it."""
    yield "clean", records
    if part == "bands":
        for low, high in BANDS_HZ:
            batch = records.batch(range(len(records)))
            x = signals.remove_band(batch["x"], STEPS.fs_hz, low, high, batch["mask"])
            yield key("without", f"{low:g}-{high:g}"), replace(records, x=x.numpy())
        return
    for kind in signals.NOISE_KINDS:
        generator = torch.Generator().manual_seed(1)
        noise = np.stack([prepared_noise(each, kind, generator) for each in raw])
        for snr_db in SNR_DB:  # the same noise, larger and smaller
            x = np.asarray(records.x) + 10 ** (-snr_db / 20) * noise
            yield key(kind, snr_db), replace(records, x=x.astype(np.float32))


def prepared_noise(signal_mv: np.ndarray, kind: str, generator: torch.Generator) -> np.ndarray:
    """Return what noise as strong as a record leaves after the preprocessing, (n_samples, 12).

    The preprocessing is linear: this and the prepared record add up to the prepared sum.
    """
    x = torch.from_numpy(signal_mv)[None]
    noise = signals.add_noise(x, kind, 0.0, NOISE_FS_HZ, generator=generator) - x
    return STEPS(noise[0].numpy(), NOISE_FS_HZ)[0]


def raw_signals(source: str, records: ECGDataset) -> list[np.ndarray]:
    """Return the middle of every record in mV at `NOISE_FS_HZ`, between 0.5 and 40 Hz."""
    if source == "synthetic":
        seed = run_ladder.synthetic_seed("test")
        made = synthetic.make_records(run_ladder.N_SYNTHETIC["test"], seed=seed)
        found = {record.name: record for record in made}
        chosen = [found[name] for name in records.names]
    else:
        chosen = [read_record(data.data_folder() / f"{name}.hea") for name in records.names]
    prepared = []
    for record in chosen:
        wanted_s = STEPS.n_samples / STEPS.fs_hz + 4  # the window, and filters swing in outside
        n = min(len(record.signal_mv), round(wanted_s * record.fs_hz))
        start = (len(record.signal_mv) - n) // 2
        steps = Preprocessing(NOISE_FS_HZ, math.ceil(n * NOISE_FS_HZ / record.fs_hz), STEPS.band_hz)
        prepared.append(steps(record.signal_mv[start : start + n], record.fs_hz)[0])
    return prepared


def choose(records: ECGDataset, n: int, seed: int = 0) -> ECGDataset:
    """Draw n records: the next one always shows the rhythm that has been shown least."""
    order = np.random.default_rng(seed).permutation(len(records))
    shown = (records.y * records.y_mask)[order] > 0
    free, chosen = np.ones(len(order), dtype=bool), []
    while len(chosen) < min(n, len(order)):
        counts = shown[chosen].sum(0)
        left = (shown & free[:, None]).any(0)
        wanted = np.where(left, counts, np.inf).argmin()
        at = int(np.flatnonzero(free & (shown[:, wanted] if left.any() else True))[0])
        free[at] = False
        chosen.append(at)
    return records.subset(np.sort(order[chosen]))
