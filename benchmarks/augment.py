"""Time the transforms of a training batch against SciPy, record by record.

    OMP_NUM_THREADS=2 python benchmarks/augment.py

All sides alternate in one run; medians of the rounds. CPU time counts all threads and is what
remains comparable on a busy machine; "a core" is records per second of it.
"""

from __future__ import annotations

import time

import numpy as np
import scipy.fft
import torch
from scipy import signal

from ecgbook.augment import FrequencyMask, LeadMask, Mixup, Noise
from ecgbook.snr import KINDS, add_noise

FS_HZ = 125.0
SHAPE = (64, 2048, 12)
BAND = (5.0, 8.5)
ROUNDS = 9


def works(x: torch.Tensor) -> dict:
    """Name what is timed; the first is what the others are compared with."""
    batch = {
        "x": x,
        "mask": torch.ones(SHAPE[:2], dtype=torch.bool),
        "y": torch.zeros(SHAPE[0], 5),
        "y_mask": torch.ones(SHAPE[0], 5, dtype=torch.bool),
    }
    sos = signal.butter(3, BAND, "bandstop", fs=FS_HZ, output="sos")
    hz = scipy.fft.rfftfreq(SHAPE[1], 1 / FS_HZ)
    inside = ((hz >= BAND[0]) & (hz < BAND[1]))[:, None]

    def masked_by_scipy(record: np.ndarray) -> np.ndarray:
        return scipy.fft.irfft(scipy.fft.rfft(record, axis=0) * ~inside, len(record), axis=0)

    every, half = (FrequencyMask(FS_HZ, p=p) for p in (1.0, 0.5))
    leads, mixup, noise = LeadMask(0.1), Mixup(), Noise(FS_HZ)
    rows = {
        "SciPy's FFT, in a loop": lambda: [masked_by_scipy(record) for record in x.numpy()],
        "SciPy's filter, in a loop": lambda: [
            signal.sosfiltfilt(sos, record, axis=0) for record in x.numpy()
        ],
        "FrequencyMask, p=1": lambda: every(x),
        "FrequencyMask, p=0.5": lambda: half(x),
    }
    for kind in KINDS:
        rows[f"add_noise, {kind}"] = lambda kind=kind: add_noise(x, kind, 6.0, FS_HZ)
    rows["Noise, p=0.5"] = lambda: noise(x)
    rows["LeadMask"] = lambda: leads(x)
    rows["Mixup"] = lambda: mixup(batch)
    return rows


def main() -> None:
    torch.manual_seed(0)
    rows = works(torch.randn(SHAPE))
    wall, cpu = ({name: [] for name in rows} for _ in range(2))
    for _ in range(ROUNDS):
        for name, work in rows.items():
            started, busy = time.perf_counter(), time.process_time()
            work()
            wall[name].append(time.perf_counter() - started)
            cpu[name].append(time.process_time() - busy)
    print(
        f"{SHAPE[0]} records of {SHAPE[2]} x {SHAPE[1]}, float32, {torch.get_num_threads()} "
        f"threads, torch {torch.__version__}"
    )
    print(f"{'':28}{'records/s':>11}{'best':>8}{'a core':>8}{'x SciPy':>9}")
    reference = np.median(wall[next(iter(rows))])
    for name in rows:
        median = np.median(wall[name])
        print(
            f"{name:28}{SHAPE[0] / median:11.0f}{SHAPE[0] / min(wall[name]):8.0f}"
            f"{SHAPE[0] / np.median(cpu[name]):8.0f}{reference / median:9.2f}"
        )


if __name__ == "__main__":
    main()
