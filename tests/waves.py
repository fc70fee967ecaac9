"""A small data set and model for the training tests, also for those in processes of their own."""

import numpy as np
import torch

from ecgbook.data import ECGDataset
from ecgbook.models import CNNBaseline
from ecgbook.signals import Preprocessing


def waves(n, first_group=0, length=256):
    """Five labels, each a sine of its own frequency in its own lead, under noise."""
    rng = np.random.default_rng(first_group)
    y = (rng.random((n, 5)) < 0.4).astype(np.float32)
    x = 0.1 * rng.standard_normal((n, length, 12)).astype(np.float32)
    t = np.arange(length)
    for k in range(5):
        x[:, :, k] += y[:, k : k + 1] * 0.3 * np.sin(2 * np.pi * t / (8 + 3 * k))
    n_valid = rng.integers(length // 2, length, n)
    x *= (t < n_valid[:, None])[..., None]
    ones = np.ones((n, 5), dtype=bool)
    names = np.array([f"r{first_group + i}" for i in range(n)])
    return ECGDataset(
        x,
        n_valid,
        y,
        ones,
        names,
        np.full(n, "waves"),
        first_group + np.arange(n),
        first_group + np.arange(n),
        Preprocessing(fs_hz=125, n_samples=length),
    )


def small(seed=0, dropout=0.1):
    torch.manual_seed(seed)
    return CNNBaseline(embed_dim=8, stem_width=8, stem_padding=7, n_layers=1, dropout=dropout)
