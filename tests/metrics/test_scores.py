"""Tests of ecgbook.metrics: oracles are scikit-learn and slow loops written from the formulas."""

import functools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scores import EXACT, kept, simulated
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, roc_auc_score

from ecgbook import metrics
from ecgbook.labels import RHYTHMS
from ecgbook.metrics import AbsentClassWarning


@pytest.mark.parametrize("masked", [False, True])
def test_point_scores_equal_scikit_learn_class_by_class(masked):
    y, p, mask = simulated()
    given_mask = mask if masked else None
    pairs = kept(y, p, mask if masked else np.ones_like(mask))
    thresholds = np.array([0.5, 0.3, 0.4, 0.6, 0.2])
    wanted = {
        "auroc": [roc_auc_score(t, s) for t, s in pairs],
        "auprc": [average_precision_score(t, s) for t, s in pairs],
        "brier": [brier_score_loss(t, s) for t, s in pairs],
        "f1": [f1_score(t, s >= c) for (t, s), c in zip(pairs, thresholds, strict=True)],
    }
    found = {
        "auroc": metrics.auroc(y, p, given_mask),
        "auprc": metrics.auprc(y, p, given_mask),
        "brier": metrics.brier(y, p, given_mask),
        "f1": metrics.f1(y, p, thresholds, given_mask),
    }
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, **EXACT, err_msg=name)


def slow_challenge(weights, y, called):
    """Loop over records and pairs of rhythms, as the formula of the score reads."""

    def total(calls):
        score = 0.0
        for true_row, called_row in zip(y, calls, strict=True):
            union = max(
                sum(bool(t) or bool(c) for t, c in zip(true_row, called_row, strict=True)), 1
            )
            for i, t in enumerate(true_row):
                for j, c in enumerate(called_row):
                    if t and c:
                        score += weights[i][j] / union
        return score

    sinus = np.zeros_like(y)
    sinus[:, RHYTHMS.index("SR")] = 1
    return (total(called) - total(sinus)) / (total(y) - total(sinus))


def test_challenge_score_equals_a_loop_from_its_formula():
    y, p, mask = simulated(200)
    wanted = slow_challenge(metrics.CHALLENGE_WEIGHTS, y, p >= 0.4)
    assert metrics.challenge_score(y, p, 0.4) == pytest.approx(wanted, abs=1e-12)
    # A masked label is neither true nor called, also where SR is.
    inactive = np.zeros_like(y)
    inactive[:, 0] = 1
    w = metrics.CHALLENGE_WEIGHTS

    def total(calls):
        rows = zip(y * mask, calls * mask, strict=True)
        return sum(t @ w @ c / max(np.sum(t | c), 1) for t, c in rows)

    wanted = (total((p >= 0.4).astype(int)) - total(inactive)) / (total(y) - total(inactive))
    assert metrics.challenge_score(y, p, 0.4, mask) == pytest.approx(wanted, abs=1e-12)


def test_challenge_score_is_one_when_perfect_and_zero_for_always_sinus():
    y, _, _ = simulated(100)
    always_sr = np.tile([1.0, 0, 0, 0, 0], (100, 1))
    assert metrics.challenge_score(y, y, 0.5) == pytest.approx(1.0, abs=1e-12)
    assert metrics.challenge_score(y, always_sr, 0.5) == pytest.approx(0.0, abs=1e-12)
    assert metrics.challenge_score(y, 1 - y, 0.5) < 0


def test_challenge_weights_are_those_published_for_the_five_rhythms():
    pairs = {
        ("AF", "AFL"): 0.5, ("SR", "AF"): 0.25, ("SR", "AFL"): 0.25, ("AF", "PAC"): 0.3375,
        ("AFL", "PAC"): 0.3375, ("AF", "PVC"): 0.375, ("AFL", "PVC"): 0.375,
        ("SR", "PAC"): 0.4125, ("SR", "PVC"): 0.375, ("PAC", "PVC"): 0.4625,
    }  # fmt: skip
    wanted = np.eye(5)
    for (a, b), weight in pairs.items():
        i, j = RHYTHMS.index(a), RHYTHMS.index(b)
        wanted[i, j] = wanted[j, i] = weight
    np.testing.assert_array_equal(metrics.CHALLENGE_WEIGHTS, wanted)


def test_ece_equals_a_loop_over_bins_and_counts_probability_one():
    y, p, mask = simulated(400, ties=False)
    p[0], p[1] = 1.0, 0.0
    mask[:2] = True
    wanted = []
    for truth, score in kept(y, p, mask):
        edges, error = np.linspace(0, 1, 16), 0.0
        for b in range(15):
            top = score <= edges[b + 1] if b == 14 else score < edges[b + 1]
            inside = (score >= edges[b]) & top
            if inside.any():
                share = inside.sum() / len(score)
                error += share * abs(truth[inside].mean() - score[inside].mean())
        wanted.append(error)
    np.testing.assert_allclose(metrics.ece(y, p, mask, n_bins=15), wanted, **EXACT)


def test_ece_is_zero_when_calibrated_and_the_gap_when_off():
    y = np.array([[1], [0], [0], [0]])
    np.testing.assert_allclose(metrics.ece(y, np.full((4, 1), 0.25)), [0.0], **EXACT)
    np.testing.assert_allclose(metrics.ece(y, np.full((4, 1), 0.95)), [0.7], **EXACT)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 12))
def test_best_thresholds_reach_the_best_f1_over_every_cut(seed, n, levels):
    rng = np.random.default_rng(seed)
    y = (rng.random((n, 2)) < 0.4).astype(int)
    y[0] = 1
    p = rng.integers(levels, size=(n, 2)) / 10
    mask = rng.random((n, 2)) < 0.8
    mask[0] = True
    found = metrics.f1(y, p, metrics.best_thresholds(y, p, mask), mask)
    for column, (truth, score) in enumerate(kept(y, p, mask)):
        every = [f1_score(truth, score >= cut) for cut in np.unique(score)]
        assert found[column] == pytest.approx(max(every), abs=1e-12)


def test_best_threshold_lies_halfway_between_scores_and_separates_neighboring_floats():
    y = np.array([[0], [1], [1]])
    assert metrics.best_thresholds(y, np.array([[0.2], [0.6], [0.9]])) == pytest.approx([0.4])
    for low in (0.3, np.nextafter(0.3, 1)):  # halfway rounds up from one, down from the other
        high = np.nextafter(low, 1)
        assert metrics.best_thresholds(y, np.array([[low], [high], [high]])) == [high]
    assert metrics.best_thresholds(np.ones((2, 1)), np.array([[0.1], [0.7]])) == [0.1]


@pytest.mark.filterwarnings("error::sklearn.exceptions.UndefinedMetricWarning")
def test_absent_class_is_nan_and_named_never_zero():
    y, p, mask = simulated(50)
    y[:, 2] = 0
    mask[:, 4] = False
    f1 = functools.partial(metrics.f1, thresholds=0.5)
    for metric in (metrics.auroc, metrics.auprc, f1):
        with pytest.warns(AbsentClassWarning, match="column 2, 4 has no positives") as caught:
            values = metric(y, p, mask=mask)
        assert caught[0].filename == __file__  # the warning points at the caller's line
        assert np.isnan(values).tolist() == [False, False, True, False, True]
        with pytest.warns(AbsentClassWarning, match="mean over 3 of 5 .* column 2, 4"):
            assert metrics.macro(values) == pytest.approx(values[[0, 1, 3]].mean())
    for metric in (metrics.ece, metrics.brier):
        with pytest.warns(AbsentClassWarning, match="column 4 has no labels that count"):
            assert np.isnan(metric(y, p, mask=mask)).tolist() == [False] * 4 + [True]
    with pytest.warns(AbsentClassWarning, match="column 2, 4 .* set to 0.5"):
        assert metrics.best_thresholds(y, p, mask)[[2, 4]].tolist() == [0.5, 0.5]
    with pytest.warns(AbsentClassWarning, match="no rhythm but SR"):
        only_sr = np.tile([1, 0, 0, 0, 0], (50, 1))
        assert np.isnan(metrics.challenge_score(only_sr, p, 0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics.macro(np.array([0.0, 0.5]))


@pytest.mark.parametrize("metric", [metrics.auroc, metrics.auprc])
@pytest.mark.parametrize("weights", [None, np.arange(50.0), np.ones((3, 50))])
def test_a_class_of_positives_only_has_no_area_and_no_part_in_the_mean(metric, weights):
    y, p, mask = simulated(50)
    y[mask[:, 1], 1] = 1  # a negative that does not count is none
    with pytest.warns(AbsentClassWarning, match="column 1 has no positives or no negatives"):
        values = metric(y, p, mask, weights)
    assert np.isnan(values).any(axis=tuple(range(values.ndim - 1))).tolist() == [
        False, True, False, False, False,
    ]  # fmt: skip
    with pytest.warns(AbsentClassWarning, match="mean over 4 of 5 classes: column 1"):
        assert metrics.macro(np.atleast_2d(values)[0]) < 1


Y, P, M = simulated(10)


def changed(array, value):
    array = array.astype(float)
    array[3, 1] = value
    return array


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.auroc(Y[:, 0], P[:, 0]), r"y of shape \(10,\) found"),
        (lambda: metrics.auroc(Y[:0], P[:0]), r"y of shape \(0, 5\) found"),
        (lambda: metrics.auroc(Y, P[:, :4]), r"p of shape \(10, 4\) found, .* \(10, 5\)"),
        (lambda: metrics.auroc(changed(Y, 0.5), P), r"label \[0.5\] found"),
        (lambda: metrics.auroc(changed(Y, np.nan), P), r"label \[nan\] found"),
        (lambda: metrics.auroc(Y.astype(str), P), "label <U.* found"),
        (lambda: metrics.auprc(Y, changed(P, np.nan)), r"score nan found at p\[3, 1\]"),
        (lambda: metrics.auprc(Y, changed(P, np.inf)), r"score inf found at p\[3, 1\]"),
        (lambda: metrics.auroc(Y, P, M.astype(int)), "dtype int64 found, .* bool wanted"),
        (lambda: metrics.auroc(Y, P, M[:5]), r"mask of shape \(5, 5\)"),
        (lambda: metrics.ece(Y, changed(P, 1.5)), "probability 1.5 found"),
        (lambda: metrics.brier(Y, changed(P, -0.1)), "probability -0.1 found"),
        (lambda: metrics.ece(Y, P, n_bins=0), "n_bins 0 found"),
        (lambda: metrics.f1(Y, P, [0.5, 0.5]), "thresholds .* found, a number or 5"),
        (lambda: metrics.f1(Y, P, np.nan), "thresholds nan found"),
        (lambda: metrics.challenge_score(Y[:, :4], P[:, :4], 0.5), "4 classes found, 5 wanted"),
        (lambda: metrics.macro(np.float64(0.5)), r"values of shape \(\) found"),
    ],
)
@pytest.mark.filterwarnings("ignore::ecgbook.metrics.AbsentClassWarning")
def test_bad_input_is_refused_with_what_was_found(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_weights_do_what_scikit_learn_s_sample_weights_do_under_ties(data):
    n = data.draw(st.integers(2, 40))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    levels = data.draw(st.integers(1, 12))  # few levels: many ties
    y = rng.random(n) < rng.choice([0.1, 0.5, 0.9])
    p = rng.integers(levels, size=n) / 7
    mask = rng.random(n) < 0.8
    counts = rng.multinomial(n, np.full(n, 1 / n), size=3)
    oracles = {metrics.auroc: roc_auc_score, metrics.auprc: average_precision_score}
    for fast, slow in oracles.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AbsentClassWarning)
            found = fast(y[:, None], p[:, None], mask[:, None], weights=counts)
            one = fast(y[:, None], p[:, None], mask[:, None], weights=counts[0])
        np.testing.assert_allclose(one, found[0], **EXACT)
        for [value], weight in zip(found, counts * mask, strict=True):
            drawn = y[weight > 0]
            if drawn.any() and not drawn.all():
                wanted = slow(y[mask], p[mask], sample_weight=weight[mask])
                assert value == pytest.approx(wanted, abs=1e-12)
            else:
                assert np.isnan(value)


ALL = {
    "auroc": metrics.auroc,
    "auprc": metrics.auprc,
    "f1": functools.partial(metrics.f1, thresholds=[0.3, 0.4, 0.5, 0.6, 0.7]),
    "challenge": functools.partial(metrics.challenge_score, thresholds=0.5),
    "ece": metrics.ece,
    "brier": metrics.brier,
}


@pytest.mark.parametrize("name", ALL)
def test_what_the_mask_leaves_out_is_not_looked_at(name):
    y, p, mask = simulated(80)
    wanted = ALL[name](y, p, mask=mask)
    for odd in (np.nan, -np.inf, 7.0):
        labels, scores = np.where(mask, y, odd), np.where(mask, p, odd)
        np.testing.assert_array_equal(ALL[name](labels, scores, mask=mask), wanted)
        drawn = ALL[name](labels, scores, mask=mask, weights=np.ones((2, 80)))
        np.testing.assert_allclose(drawn, [wanted, wanted], **EXACT)
        chosen = metrics.best_thresholds(labels, scores, mask)
        np.testing.assert_array_equal(chosen, metrics.best_thresholds(y, p, mask))


@pytest.mark.parametrize("name", ALL)
def test_a_weight_counts_as_that_many_records(name):
    y, p, mask = simulated(80)
    counts = np.random.default_rng(1).multinomial(80, np.full(80, 1 / 80), size=4)
    found = ALL[name](y, p, mask=mask, weights=counts)
    for value, count in zip(found, counts, strict=True):
        rows = np.repeat(np.arange(80), count)
        np.testing.assert_allclose(value, ALL[name](y[rows], p[rows], mask=mask[rows]), **EXACT)
    np.testing.assert_allclose(
        ALL[name](y, p, mask=mask, weights=np.full(80, 3.0)), ALL[name](y, p, mask=mask), **EXACT
    )


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(79), r"weights of shape \(79,\) and float64 found, \(80,\) or \(draws, 80\)"),
        (np.full(80, "a"), "numbers wanted"),
        (np.full(80, -1.0), "negative or not finite"),
        (np.full(80, np.nan), "negative or not finite"),
    ],
)
@pytest.mark.parametrize("name", ALL)
def test_weights_that_are_none_are_named(name, weights, message):
    y, p, mask = simulated(80)
    with pytest.raises(ValueError, match=message):
        ALL[name](y, p, mask=mask, weights=weights)
