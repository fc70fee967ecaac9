"""Batches without needless padding: records of like length together, shared padding cut off."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler


class ByLength(Sampler[int]):
    """The order of another sampler, each run of `pool` records sorted by their length.

    Records of equal length stay in the other sampler's order.

    Parameters
    ----------
    order : Sampler
        Such as torch's RandomSampler.
    lengths : ndarray, shape (n,), int
        Length of every record.
    pool : int
        Records that are sorted at a time: a few batches.
    """

    def __init__(self, order: Sampler[int], lengths: np.ndarray, pool: int):
        self.order, self.lengths, self.pool = order, lengths, pool

    def __iter__(self) -> Iterator[int]:
        """Yield the numbers of the records."""
        order = iter(self.order)
        while pool := list(itertools.islice(order, self.pool)):
            yield from sorted(pool, key=self.lengths.__getitem__)

    def __len__(self) -> int:
        """Count the records."""
        return len(self.order)


def trim(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Cut off the padding that all records of a batch share.

    It changes no output of a model that uses the mask, and a third of the work for records of
    10 s in a window of 16 s.

    Parameters
    ----------
    batch : dict of str to Tensor
        As `ecgbook.data.ECGDataset.batch` returns it.

    Returns
    -------
    dict of str to Tensor
        The same with ``x`` and ``mask`` as long as the longest record.
    """
    length = int(batch["mask"].any(0).nonzero().max()) + 1
    return {**batch, "x": batch["x"][:, :length], "mask": batch["mask"][:, :length]}
