"""Intervals: oracles are scikit-learn and slow loops written from the formulas."""

import functools
import warnings

import numpy as np
import pytest
from scipy.stats import norm
from scores import EXACT, kept, simulated
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from ecgbook import metrics
from ecgbook.metrics import AbsentClassWarning, FewGroupsWarning, bootstrap, paired_bootstrap
from ecgbook.metrics import intervals as resampling


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
        draws[i] = [slow(y_, s) for y_, s in kept(y[rows], p[rows], mask[rows])]
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
    wanted = np.array(
        [[f1_score(y_, s >= 0.5) for y_, s in kept(y[r], p[r], mask[r])] for r in rows]
    )
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


def several(y, seeds, seed, between=0.2, own=0.1):
    """Scores (seeds, n, 1): patients are hard or easy for all, seeds are better or worse."""
    rng, shape = np.random.default_rng(seed), (seeds, len(y), 1)
    hard = np.sqrt(1 - own) * rng.normal(size=(1, len(y), 1))
    shift = 1 + between * rng.normal(size=(seeds, 1, 1))
    return hard + np.sqrt(own) * rng.normal(size=shape) + shift * y


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("between", [0.02, 0.2, 0.6])
def test_the_interval_covers_the_mean_over_seeds_and_patients(seeds, between):
    # A seed's shift d is normal around 1: the mean of Phi(d / sqrt(2)) is Phi(1 / sqrt(2 + b^2)).
    truth, worlds = norm.cdf(1 / np.sqrt(2 + between**2)), 400
    covered = averaged = 0
    for world in range(worlds):
        y = (np.random.default_rng((1, world)).random(100) < 0.5).astype(int)[:, None]
        p = several(y, seeds, (2, world), between)
        options = {"n_draws": 200, "average": True}
        found = bootstrap(metrics.auroc, y, p, **options)
        covered += found.low <= truth <= found.high
        if between == 0.6:
            each = [bootstrap(metrics.auroc, y, one, **options) for one in p]
            low, high = (np.mean([getattr(e, end) for e in each]) for end in ("low", "high"))
            averaged += low <= truth <= high
    assert 0.92 <= covered / worlds <= 0.97, covered / worlds
    if between == 0.6:  # the mean of one interval a seed knows nothing of the seeds
        assert averaged / worlds < 0.85, averaged / worlds


def test_patients_are_drawn_and_what_few_seeds_vary_by_is_added_as_squares():
    y = np.random.default_rng(0).integers(0, 2, (50, 1))
    p, n_draws = several(y, 3, 1), 400
    found = bootstrap(metrics.auroc, y, p, n_draws=n_draws, seed=3, average=True)
    values = np.array([metrics.auroc(y, one)[0] for one in p])
    assert found.value == pytest.approx(values.mean(), abs=1e-12)
    np.testing.assert_allclose(found.by_seed, values, **EXACT)
    counts = np.concatenate(list(resampling._draw_counts(None, 50, n_draws, seed=3)))
    draws = np.array([metrics.auroc(y, one, weights=counts)[:, 0] for one in p]).mean(axis=0)
    np.testing.assert_allclose(found.draws, draws, **EXACT)
    half = 4.302652729696142 * values.std(ddof=1) / np.sqrt(3)  # quantile of t
    low, high = np.quantile(draws, [0.025, 0.975]) - values.mean()
    assert low < 0 < high
    assert found.low == pytest.approx(values.mean() - np.hypot(low, half), abs=1e-12)
    assert found.high == pytest.approx(values.mean() + np.hypot(high, half), abs=1e-12)
    alike = bootstrap(metrics.auroc, y, p[[0, 0, 0]], n_draws=50, average=True)
    alone = bootstrap(metrics.auroc, y, p[0], n_draws=50, average=True)
    np.testing.assert_allclose(alike.as_list(), alone.as_list(), **EXACT)


def test_a_difference_pairs_the_seeds():
    y = np.random.default_rng(0).integers(0, 2, (60, 1))
    p_a = several(y, 4, 1)
    p_b = p_a + 0.1 * y  # each seed a little better than itself
    found = paired_bootstrap(metrics.auroc, y, p_a, p_b, n_draws=300, average=True)
    assert found.low > 0
    loose = [bootstrap(metrics.auroc, y, p, n_draws=300, average=True) for p in (p_a, p_b)]
    assert found.high - found.low < 0.5 * (loose[0].high - loose[0].low)
    np.testing.assert_allclose(found.by_seed, loose[1].by_seed - loose[0].by_seed, **EXACT)
    with pytest.raises(ValueError, match="4 and 3 seeds found, as many of both wanted"):
        paired_bootstrap(metrics.auroc, y, p_a, p_b[:3])


def test_metrics_with_and_without_weights_give_the_same_interval():
    y, p, mask = simulated(60)
    groups = np.arange(60) // 2
    for metric in (metrics.auroc, functools.partial(metrics.f1, thresholds=0.4)):
        slow = functools.partial(lambda y, p, mask, metric: metric(y, p, mask=mask), metric=metric)
        options = {"groups": groups, "mask": mask, "n_draws": 40}
        fast, loop = (bootstrap(each, y, p, **options) for each in (metric, slow))
        np.testing.assert_allclose(fast.draws, loop.draws, **EXACT)


def test_an_interval_is_written_with_what_is_known_of_it():
    write = metrics.format_interval
    assert write([0.9123, 0.89, 0.93]) == "0.912 [0.890, 0.930]"
    assert write([0.012, -0.001, 0.02], "+") == "+0.012 [-0.001, +0.020]"
    assert write([0.5, None, None]) == "0.500"
    assert write([None, None, None]) == write([np.nan] * 3) == "not defined"
    y, p, _ = simulated(60)
    found = bootstrap(metrics.brier, y, p, n_draws=20, average=True)
    assert found.as_list() == [found.value, found.low, found.high]
    with pytest.raises(ValueError, match="level 2 found"):
        metrics.Interval.of(found.by_seed, found.draws, 2)


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


def test_few_patients_are_told_and_one_has_no_interval():
    y, p, mask = simulated(80)
    groups = np.arange(80) % 9
    options = {"mask": mask, "n_draws": 20, "groups": groups}
    f1 = functools.partial(metrics.f1, thresholds=0.5)
    challenge = functools.partial(metrics.challenge_score, thresholds=0.5)
    with pytest.warns(
        FewGroupsWarning, match=r"groups \(patients\) 9 found, 10 or more wanted"
    ) as caught:
        assert np.isfinite(bootstrap(f1, y, p, **options).low).all()
    assert [each.filename for each in caught] == [__file__]
    with pytest.warns(FewGroupsWarning, match="9 found"):
        paired_bootstrap(f1, y, p, p / 2, **options)
    with pytest.warns(FewGroupsWarning, match="9 found"):
        bootstrap(metrics.brier, y[:9], p[:9], n_draws=20)
    one = options | {"groups": ["a"] * 80}
    with pytest.warns(
        FewGroupsWarning, match=r"groups \(patients\) 1 found.* no interval of one"
    ) as caught:
        alone = bootstrap(f1, y, p, **one)
        seeds = bootstrap(challenge, y, [p, p / 2], **one)
        paired = paired_bootstrap(f1, y, p, p / 2, average=True, **one)
    assert {each.category for each in caught} == {FewGroupsWarning}
    np.testing.assert_array_equal(alone.value, f1(y, p, mask=mask))
    assert seeds.n_used == seeds.n_draws == 0
    for found in (alone, alone.average(), seeds, paired):
        assert np.isfinite(found.value).all()
        assert np.isnan(found.low).all() and np.isnan(found.high).all()
    assert metrics.verdict(paired) == metrics.NOT_SHOWN
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bootstrap(f1, y, p, **options | {"groups": np.arange(80) % 10})


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


def test_bounds_stay_where_the_metric_does():
    y = np.repeat([0, 1], 30)[:, None]
    p = several(y, 3, 4) + np.array([0.5, 3, 6])[:, None, None] * y  # seeds far apart
    found = bootstrap(metrics.auroc, y, p, average=True)
    assert found.high == 1 and 0 <= found.low < found.value
    loose = bootstrap(metrics.auroc, y, p, average=True, within=(-np.inf, np.inf))
    assert loose.high > 1 and loose.low == found.low
    own = bootstrap(lambda y, p, mask: metrics.auroc(y, p, mask=mask), y, p, average=True)
    assert own == loose
    calls = functools.partial(metrics.f1, thresholds=2.0)
    assert bootstrap(calls, y, p, average=True).high <= 1
