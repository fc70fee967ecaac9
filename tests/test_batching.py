"""Batches: like lengths together, and only shared padding cut off."""

from dataclasses import replace

import numpy as np
import torch

from ecgbook.batching import trim
from ecgbook.data import ECGDataset, from_records
from ecgbook.preprocessing import Preprocessing
from ecgbook.synthetic import make_records

STEPS = Preprocessing(fs_hz=125, n_samples=2048)


def test_shuffled_records_of_like_length_share_a_batch_and_equal_ones_keep_torchs_order():
    lengths = np.where(np.arange(240) % 10 == 0, 500, 300)
    number = np.arange(240)
    dataset = ECGDataset(
        x=np.zeros((240, 512, 12), np.float32),
        n_valid=lengths,
        y=np.zeros((240, 5), np.float32),
        y_mask=np.ones((240, 5), bool),
        names=number.astype(str),
        databases=number.astype(str),
        groups=number,
        copies=number,
        preprocessing=Preprocessing(fs_hz=125, n_samples=512),
    )

    def batches(loader):
        return [index for index in loader.batch_sampler]

    found = batches(dataset.loader(8, shuffle=True, seed=1))
    assert sorted(i for batch in found for i in batch) == list(number)
    assert sum((lengths[batch] == 500).any() for batch in found) < 10  # of 30; mixed: 17
    even = replace(dataset, n_valid=np.full(240, 300))
    plain = torch.utils.data.DataLoader(
        even, 8, shuffle=True, generator=torch.Generator().manual_seed(1)
    )
    assert batches(even.loader(8, shuffle=True, seed=1)) == batches(plain)


def test_trim_cuts_the_padding_that_all_share_and_nothing_else():
    dataset = from_records(
        [*make_records(2, seed=1, seconds=5), *make_records(1, seed=2, seconds=10)], STEPS
    )
    for index, length in (([0, 1], 625), ([0, 2], 1250)):
        batch = dataset.batch(index)
        short = trim(batch)
        assert short["x"].shape == (2, length, 12) and short["mask"].shape == (2, length)
        assert torch.equal(short["x"], batch["x"][:, :length])
        assert not batch["mask"][:, length:].any() and torch.equal(short["y"], batch["y"])
