"""Data sets: batches are what was prepared, subsets and loaders lose nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ecgbook.data import ECGDataset, from_records, trim
from ecgbook.signals import Preprocessing
from ecgbook.synthetic import make_records

STEPS = Preprocessing(fs_hz=125, n_samples=2048)


def test_synthetic_records_become_what_the_steps_make_of_them():
    records = make_records(6, seed=1, records_per_patient=2)
    dataset = from_records(records, STEPS)
    for i, record in enumerate(records):
        x, mask = STEPS(record.signal_mv, record.fs_hz)
        item = dataset[i]
        np.testing.assert_array_equal(item["x"], x)
        np.testing.assert_array_equal(item["mask"], mask)
        np.testing.assert_array_equal(item["y"], record.labels)
    assert dataset.groups[0] == dataset.groups[1] != dataset.groups[2]
    with pytest.raises(ValueError, match="no record found"):
        from_records([], STEPS)


def test_a_subset_of_a_subset_and_its_batches():
    whole = from_records(make_records(10, seed=2), STEPS)
    part = whole.subset(np.arange(10) % 2 == 1).subset([4, 0])
    assert part.names.tolist() == whole.names[[9, 1]].tolist()
    batch = part.batch([1])
    np.testing.assert_array_equal(batch["x"][0], whole.x[1])
    assert batch["mask"].dtype == torch.bool and batch["y"].shape == (1, 5)
    np.testing.assert_array_equal(part.x[..., [2, 5]], whole.x[[9, 1]][..., [2, 5]])
    np.testing.assert_array_equal(part.x[0, 3], whole.x[9, 3])
    assert len(whole.subset([])) == 0
    with pytest.raises(ValueError, match=r"mask of shape \(9,\) found, \(10,\) wanted"):
        whole.subset(np.ones(9, dtype=bool))
    with pytest.raises(TypeError, match="index of float64 found"):
        whole.subset([0.5, 1.5])


def test_the_loader_gives_every_record_once_in_an_order_its_seed_fixes():
    dataset = from_records(make_records(11, seed=3), STEPS)

    def first_samples(**arguments):
        return [v for b in dataset.loader(4, **arguments) for v in b["x"][:, 500, 0].tolist()]

    straight = first_samples()
    assert straight == dataset.x[:, 500, 0].tolist()
    shuffled = first_samples(shuffle=True, seed=5)
    assert shuffled != straight and sorted(shuffled) == sorted(straight)
    assert shuffled == first_samples(shuffle=True, seed=5)
    assert shuffled != first_samples(shuffle=True, seed=6)
    assert len(first_samples(drop_last=True)) == 8


def test_distinct_keeps_the_first_of_each_copy():
    dataset = from_records(make_records(5, seed=4), STEPS)
    dataset = ECGDataset(**{**vars(dataset), "copies": np.array([3, 1, 3, 1, 0])})
    assert dataset.distinct().names.tolist() == dataset.names[[0, 1, 4]].tolist()


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


def test_torch_s_own_loader_takes_a_data_set():
    dataset = from_records(make_records(5, seed=3), STEPS)
    batches = list(torch.utils.data.DataLoader(dataset, batch_size=2))
    assert [len(b["x"]) for b in batches] == [2, 2, 1]
    for name in ("x", "mask", "y", "y_mask"):
        joined = torch.cat([b[name] for b in batches])
        assert torch.equal(joined, torch.cat([b[name] for b in dataset.loader(3)])), name


def test_a_batch_without_signal_is_named():
    batch = from_records(make_records(2, seed=3), STEPS).batch([0, 1])
    with pytest.raises(ValueError, match="a batch without any signal found"):
        trim(batch | {"mask": torch.zeros_like(batch["mask"])})


@pytest.mark.parametrize("unknown", ["", None, "  "])
def test_unknown_patients_are_no_one_and_copies_are_found(unknown):
    records = make_records(4, seed=3)
    records = [replace(record, patient=unknown) for record in [*records, records[0]]]
    dataset = from_records(records, STEPS)
    assert len(np.unique(dataset.groups)) == len(np.unique(dataset.copies)) == 4
    assert dataset.copies[0] == dataset.copies[4] and dataset.groups[0] == dataset.groups[4]
    assert len(dataset.distinct()) == 4
