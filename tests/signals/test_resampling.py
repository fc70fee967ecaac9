"""Changing a sampling rate."""

import math
from fractions import Fraction

import numpy as np
import pytest

from ecgbook.signals import rate_ratio, resample


@pytest.mark.parametrize(("fs_hz", "to_hz"), [(500, 125), (257, 500), (128, 100), (360.0, 125.0)])
def test_a_wave_keeps_its_shape_and_its_length_follows_the_ratio(fs_hz, to_hz):
    n = round(4 * fs_hz)
    wave = np.sin(2 * np.pi * 5 * np.arange(n) / fs_hz)
    found = resample(np.stack([wave, -wave], 1), fs_hz, to_hz)
    assert len(found) == math.ceil(n * rate_ratio(fs_hz, to_hz))
    wanted = np.sin(2 * np.pi * 5 * np.arange(len(found)) / to_hz)
    middle = slice(len(found) // 4, -len(found) // 4)
    np.testing.assert_allclose(found[middle, 0], wanted[middle], atol=0.01)
    np.testing.assert_array_equal(found[:, 1], -found[:, 0])


def test_a_rate_that_stays_changes_nothing():
    x = np.random.default_rng(0).standard_normal(100)
    assert resample(x, 125, 125.0) is x


def test_the_ratio_is_one_of_small_whole_numbers():
    assert rate_ratio(500, 125) == Fraction(1, 4)
    assert rate_ratio(257, 500) == Fraction(500, 257)
