"""Batches: only shared padding is cut off, and what is no signal is found."""

import pytest
import torch

from ecgbook.batching import trim, valid_lengths
from ecgbook.data import from_records
from ecgbook.preprocessing import Preprocessing
from ecgbook.synthetic import make_records

STEPS = Preprocessing(fs_hz=125, n_samples=2048)


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


def test_valid_lengths_are_those_of_the_mask_or_the_whole():
    x = torch.zeros(3, 50, 12)
    mask = torch.arange(50) < torch.tensor([[50], [7], [0]])
    assert valid_lengths(x, mask).tolist() == [50, 7, 0]
    assert valid_lengths(x.double()).tolist() == [50, 50, 50]


@pytest.mark.parametrize(
    ("x", "mask", "message"),
    [
        (torch.zeros(50, 12), None, r"x of shape \(50, 12\) found"),
        (torch.zeros(2, 12, 50), None, r"x of shape \(2, 12, 50\) found"),
        (torch.zeros(2, 50, 12).int(), None, "x of torch.int32 found"),
        (torch.zeros(2, 50, 12), torch.ones(2, 49).bool(), r"mask of shape \(2, 49\)"),
        (torch.zeros(2, 50, 12), torch.ones(2, 50), "torch.float32 found"),
        (torch.zeros(2, 50, 12), torch.arange(50).expand(2, 50) > 0, "behind padding found"),
    ],
)
def test_a_batch_of_another_shape_is_refused(x, mask, message):
    with pytest.raises(ValueError, match=message):
        valid_lengths(x, mask)
