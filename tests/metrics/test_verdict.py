"""What a comparison shows: three words, and no more than the interval allows."""

import numpy as np
import pytest

from ecgbook import metrics
from ecgbook.metrics import BETTER, NOT_SHOWN, WORSE, verdict


@pytest.mark.parametrize(
    ("change", "more", "fewer"),
    [
        ([0.02, 0.01, 0.03], BETTER, WORSE),
        ([-0.02, -0.03, -0.01], WORSE, BETTER),
        ([0.01, -0.01, 0.03], NOT_SHOWN, NOT_SHOWN),
        ([0.01, 0.0, 0.03], NOT_SHOWN, NOT_SHOWN),
        ([-0.01, -0.03, 0.0], NOT_SHOWN, NOT_SHOWN),
        ([0.01, None, None], NOT_SHOWN, NOT_SHOWN),
        ([np.nan, 0.01, 0.02], NOT_SHOWN, NOT_SHOWN),
    ],
)
def test_the_whole_interval_has_to_be_on_one_side(change, more, fewer):
    assert verdict(change) == more
    assert verdict(change, higher_is_better=False) == fewer


def test_a_difference_may_have_to_be_large():
    assert verdict([0.02, 0.011, 0.03], by=0.01) == BETTER
    assert verdict([0.02, 0.009, 0.03], by=0.01) == NOT_SHOWN
    assert verdict([-0.02, -0.03, -0.009], by=0.01) == NOT_SHOWN
    with pytest.raises(ValueError, match="by=-1 found"):
        verdict([0, 0, 0], by=-1)


def test_it_takes_what_paired_bootstrap_returns_and_refuses_what_is_no_interval():
    y = np.random.default_rng(0).integers(0, 2, (80, 1))
    p = np.random.default_rng(1).random((80, 1))
    found = metrics.paired_bootstrap(metrics.auroc, y, p, p + y, n_draws=50, average=True)
    assert verdict(found) == BETTER == verdict(found.as_list())
    with pytest.raises(ValueError, match="from 0.3 to 0.1 found, low before high"):
        verdict([0.2, 0.3, 0.1])
