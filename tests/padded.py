"""Batches of synthetic ECGs of different lengths, zeros behind, for the tests of augmentation."""

import functools

import numpy as np
import torch

from ecgbook.synthetic import make_records

FS_HZ = 125.0
LENGTHS = (1250, 1001, 1250, 640, 333)
INDEPENDENT = [0, 1, 6, 7, 8, 9, 10, 11]


@functools.cache
def _records():
    made = make_records(len(LENGTHS), seed=5, fs_hz=FS_HZ, seconds=10)
    return torch.from_numpy(np.stack([r.signal_mv for r in made]))


def padded(samples=1300, lengths=LENGTHS, dtype=torch.float32):
    """Return x (batch, samples, 12) and mask (batch, samples); record i keeps lengths[i]."""
    x = torch.zeros(len(lengths), samples, 12, dtype=dtype)
    mask = torch.zeros(len(lengths), samples, dtype=torch.bool)
    for i, n in enumerate(lengths):
        x[i, :n] = _records()[i, :n].to(dtype)
        mask[i, :n] = True
    return x, mask


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def others_replaced(x, mask, keep):
    """The batch with other signals of other lengths in every place but one."""
    x, mask = x.flip(0).clone(), mask.flip(0).clone()
    x[keep], mask[keep] = x[-1 - keep].clone(), mask[-1 - keep].clone()
    return x, mask


def slow_db(x, y, n):
    """The definition, in float64: power of the record over power of the noise, in dB."""
    powers = [0.0, 0.0]
    for lead in INDEPENDENT:
        clean = x[:n, lead].double().numpy()
        for k, wave in enumerate((clean, y[:n, lead].double().numpy() - clean)):
            powers[k] += len(wave) * wave.var()
    return 10 * np.log10(powers[0] / powers[1])
