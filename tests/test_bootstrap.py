"""Tests of ecgbook.bootstrap: oracles are scikit-learn and slow loops written from the formulas."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scores import EXACT, kept, simulated
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from ecgbook import bootstrap as resampling
from ecgbook import metrics
from ecgbook.bootstrap import bootstrap, paired_bootstrap
from ecgbook.metrics import AbsentClassWarning


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_weighted_draws_equal_scikit_learn_with_sample_weights_under_ties(data):
    n = data.draw(st.integers(2, 40))
    seed = data.draw(st.integers(0, 2**31))
    levels = data.draw(st.integers(1, 12))  # few levels: many ties
    rng = np.random.default_rng(seed)
    y = rng.random(n) < rng.choice([0.1, 0.5, 0.9])
    p = rng.integers(levels, size=n) / 7
    mask = rng.random(n) < 0.8
    counts = rng.multinomial(n, np.full(n, 1 / n), size=3)
    oracles = {
        resampling._auroc_draws: (roc_auc_score, True),
        resampling._auprc_draws: (average_precision_score, False),
    }
    for fast, (slow, needs_negatives) in oracles.items():
        found = fast(y, p, mask, counts)
        for value, weight in zip(found, counts * mask, strict=True):
            drawn = y[weight > 0]
            if drawn.any() and not (needs_negatives and drawn.all()):
                wanted = slow(y[mask], p[mask], sample_weight=weight[mask])
                assert value == pytest.approx(wanted, abs=1e-12)
            else:
                assert np.isnan(value)


@pytest.mark.parametrize("name", ["auroc", "auprc"])
def test_bootstrap_equals_a_loop_of_scikit_learn_over_the_same_draws(name):
    y, p, mask = simulated(120)
    groups = np.array([f"patient {i // 3}" for i in range(120)])
    slow = {"auroc": roc_auc_score, "auprc": average_precision_score}[name]
    metric = getattr(metrics, name)
    counts = np.concatenate(list(resampling._draw_counts(groups, 120, 60, seed=4)))
    draws = np.empty((60, 5))
    for i, count in enumerate(counts):
        rows = np.repeat(np.arange(120), count)
        draws[i] = [slow(t, s) for t, s in kept(y[rows], p[rows], mask[rows])]
    options = dict(groups=groups, mask=mask, n_draws=60, level=0.9, seed=4)
    found = bootstrap(metric, y, p, **options)
    np.testing.assert_allclose(found.value, metric(y, p, mask), **EXACT)
    np.testing.assert_allclose(found.low, np.quantile(draws, 0.05, axis=0), **EXACT)
    np.testing.assert_allclose(found.high, np.quantile(draws, 0.95, axis=0), **EXACT)
    mean = bootstrap(metric, y, p, average=True, **options)
    assert found.average() == mean
    two = options | {"mask": mask[:, [0, 2]]}
    assert found.average([0, 2]) == bootstrap(
        metric, y[:, [0, 2]], p[:, [0, 2]], average=True, **two
    )
    assert mean.value == pytest.approx(metric(y, p, mask).mean(), abs=1e-12)
    assert mean.low == pytest.approx(np.quantile(draws.mean(axis=1), 0.05), abs=1e-12)
    assert mean.n_used == mean.n_draws == 60


def test_paired_bootstrap_is_the_difference_b_minus_a_on_the_same_draws():
    y, p_a, mask = simulated(150, ties=False)
    p_b = np.clip(p_a + 0.1 * (y - 0.5), 0, 1)
    groups = np.arange(150) // 2
    rows = [
        np.repeat(np.arange(150), c)
        for c in np.concatenate(list(resampling._draw_counts(groups, 150, 50, seed=1)))
    ]
    wanted = np.array(
        [metrics.auprc(y[r], p_b[r], mask[r]) - metrics.auprc(y[r], p_a[r], mask[r]) for r in rows]
    )
    options = dict(groups=groups, mask=mask, n_draws=50, seed=1)
    found = paired_bootstrap(metrics.auprc, y, p_a, p_b, **options)
    np.testing.assert_allclose(found.low, np.quantile(wanted, 0.025, axis=0), **EXACT)
    np.testing.assert_allclose(found.high, np.quantile(wanted, 0.975, axis=0), **EXACT)
    np.testing.assert_allclose(
        found.value, metrics.auprc(y, p_b, mask) - metrics.auprc(y, p_a, mask), **EXACT
    )
    swapped = paired_bootstrap(metrics.auprc, y, p_b, p_a, **options)
    np.testing.assert_allclose(swapped.value, -found.value, **EXACT)
    same = paired_bootstrap(metrics.auroc, y, p_a, p_a, average=True, **options)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_any_callable_can_be_resampled_and_a_number_stays_a_number():
    y, p, mask = simulated(80)
    f1 = functools.partial(metrics.f1, thresholds=0.5)
    rows = [
        np.repeat(np.arange(80), c)
        for c in np.concatenate(list(resampling._draw_counts(None, 80, 40, seed=0)))
    ]
    wanted = np.array([[f1_score(t, s >= 0.5) for t, s in kept(y[r], p[r], mask[r])] for r in rows])
    found = bootstrap(f1, y, p, mask=mask, n_draws=40)
    np.testing.assert_allclose(found.low, np.quantile(wanted, 0.025, axis=0), **EXACT)
    score = functools.partial(metrics.challenge_score, thresholds=0.5)
    single = bootstrap(score, y, p, n_draws=40)
    wanted = [score(y[r], p[r]) for r in rows]
    assert isinstance(single.low, float)
    assert single.low == pytest.approx(np.quantile(wanted, 0.025), abs=1e-12)
    with pytest.raises(ValueError, match="average"):
        bootstrap(score, y, p, n_draws=2, average=True)


def test_draws_resample_whole_patients_as_many_as_there_are():
    groups = np.array(list("abbcccddddeeeee"))
    sizes = {name: np.sum(groups == name) for name in "abcde"}
    counts = np.concatenate(list(resampling._draw_counts(groups, len(groups), 4000, seed=0)))
    for name in sizes:
        of_group = counts[:, groups == name]
        assert (of_group == of_group[:, :1]).all()
        assert of_group.mean() == pytest.approx(1.0, abs=0.06)  # 4000 draws: s.e. about 0.014
    drawn = sum(counts[:, np.flatnonzero(groups == name)[0]] for name in sizes)
    assert (drawn == 5).all()


def test_draws_do_not_depend_on_how_many_fit_in_memory(monkeypatch):
    y, p, _ = simulated(60)
    whole = bootstrap(metrics.auroc, y, p, n_draws=50, average=True)
    monkeypatch.setattr(resampling, "_CELLS_AT_ONCE", 60 * 7)
    assert bootstrap(metrics.auroc, y, p, n_draws=50, average=True) == whole
    assert bootstrap(metrics.auroc, y, p, n_draws=50, average=True, seed=1) != whole


def test_interval_covers_the_truth_and_needs_the_patients_for_it():
    # Binormal scores with shift d: AUROC = Phi(d / sqrt(2)); d = 1 gives 0.76025.
    truth, trials, covered = 0.7602499389065233, 150, {"patients": 0, "records": 0}
    rng = np.random.default_rng(7)
    groups = np.repeat(np.arange(60), 5)
    for _ in range(trials):
        y = rng.random(60) < 0.5
        p = rng.normal(size=60) + y
        p = np.repeat(p, 5) + 1e-6 * rng.normal(size=300)  # five near copies of each patient
        y = np.repeat(y, 5)[:, None].astype(int)
        for kind, names in {"patients": groups, "records": None}.items():
            found = bootstrap(metrics.auroc, y, p[:, None], groups=names, n_draws=200, average=True)
            covered[kind] += found.low <= truth <= found.high
    assert 0.89 <= covered["patients"] / trials <= 0.99
    assert covered["records"] / trials < 0.75


@pytest.mark.parametrize("metric", [metrics.auroc, lambda y, p, mask: metrics.auroc(y, p, mask)])
@pytest.mark.filterwarnings("ignore:class in column 3")
def test_draws_without_a_class_are_left_out_and_counted(metric):
    y, p, _ = simulated(40)
    y[:, 1] = 0
    y[0, 1] = 1  # one positive: absent from (1 - 1/40)^40 = 36 % of draws
    y[:, 3] = 0  # absent from every draw
    with pytest.warns(AbsentClassWarning, match="of 100 draws left out"):
        found = bootstrap(metric, y, p, n_draws=100)
    counts = np.concatenate(list(resampling._draw_counts(None, 40, 100, seed=0)))
    defined = (counts @ y > 0) & (counts @ (1 - y) > 0)
    assert 0 < defined[:, 1].sum() < 100
    assert found.n_used.tolist() == defined.sum(axis=0).tolist()
    assert np.isnan(found.low[3]) and np.isnan(found.high[3])
    assert np.isfinite(found.low[[0, 1, 2, 4]]).all()
    with pytest.warns(AbsentClassWarning, match="of 100 draws left out"):
        mean = bootstrap(metric, y, p, n_draws=100, average=True)
    assert mean.n_used == defined[:, [0, 1, 2, 4]].all(axis=1).sum()
    assert mean.value == pytest.approx(np.nanmean(found.value))


def test_interval_prints_value_and_bounds():
    y, p, _ = simulated(60)
    found = bootstrap(metrics.brier, y, p, n_draws=20, average=True)
    assert str(found) == f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
    assert str(bootstrap(metrics.brier, y, p, n_draws=20)).count("[") == 5


Y, P, M = simulated(10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap(metrics.auroc, Y, P, groups=["a"] * 9), r"\(9,\) found"),
        (lambda: bootstrap(metrics.brier, Y, P, groups=["a", ""] * 5), "in 5 records"),
        (lambda: bootstrap(metrics.brier, Y, P, groups=[1.0, np.nan] * 5), "in 5 rec"),
        (lambda: bootstrap(metrics.brier, Y, P, groups=[None, "a"] * 5), "in 5 rec"),
        (lambda: bootstrap(metrics.brier, Y, P, n_draws=0), "n_draws 0 found"),
        (lambda: bootstrap(metrics.brier, Y, P, level=95), "level 95 found"),
        (lambda: paired_bootstrap(metrics.brier, Y, P, P[:5]), r"p of shape \(5, 5\)"),
    ],
)
@pytest.mark.filterwarnings("ignore::ecgbook.metrics.AbsentClassWarning")
def test_bad_input_is_refused_with_what_was_found(call, message):
    with pytest.raises(ValueError, match=message):
        call()
