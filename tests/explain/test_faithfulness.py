"""Perturbation curves against loops written from the definition."""

import numpy as np
import pytest
import torch
from explained import Curved, Linear, book_model, signals

from ecgbook import explain
from ecgbook.explain import baselines, deletion, insertion

PROTOCOL = {
    "window": 8,
    "per_lead": False,
    "replacement": "zero",
    "order": "signed",
    "steps": 5,
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def some_relevance(x, seed=5):
    return torch.randn(x.shape, generator=generator(seed), dtype=torch.float64)


# ---- the slow way: one record, one sample at a time


def windows_of(x, mask, window, per_lead):
    """Lists of (sample, lead) that are removed together, without those that are padding."""
    length, leads = x.shape
    groups = [[lead] for lead in range(leads)] if per_lead else [range(leads)]
    found = []
    for start in range(0, length, window):
        for group in groups:
            times = [t for t in range(start, min(start + window, length)) if mask[t]]
            if times:
                found.append([(t, lead) for t in times for lead in group])
    return found


def replaced(x, mask, gone, replacement):
    out = x.copy()
    for t, lead in gone:
        kept = [s for s in range(len(x)) if mask[s] and (s, lead) not in gone]
        if replacement == "zero":
            out[t, lead] = 0
        elif replacement == "mean" or not kept:
            out[t, lead] = np.mean([x[s, lead] for s in range(len(x)) if mask[s]])
        else:
            out[t, lead] = np.interp(t, kept, x[kept, lead])
    return out


def slow_curves(model, x, relevance, target, mask, window, per_lead, replacement, order, steps):
    """Delete and insert, most and least relevant first: four curves and their fractions."""
    groups = windows_of(x, mask, window, per_lead)
    size = np.abs if order == "absolute" else np.asarray
    sizes = [sum(size(relevance[t, lead]) for t, lead in group) for group in groups]
    order = sorted(range(len(groups)), key=lambda i: -sizes[i])
    counts = [int(np.floor(step / steps * len(groups) + 0.5)) for step in range(steps + 1)]

    def logit(gone):
        cells = {cell for i in gone for cell in groups[i]}
        changed = torch.from_numpy(replaced(x, mask, cells, replacement))[None]
        with torch.no_grad():
            return model(changed, torch.from_numpy(mask)[None])[0, target].item()

    def left(put_back):
        return [i for i in order if i not in put_back]

    backward = order[::-1]
    return {
        "fraction": [count / len(groups) for count in counts],
        "delete most": [logit(order[:count]) for count in counts],
        "delete least": [logit(backward[:count]) for count in counts],
        "insert most": [logit(left(order[:count])) for count in counts],
        "insert least": [logit(left(backward[:count])) for count in counts],
    }


def area(y, x):
    return sum((x[i + 1] - x[i]) * (y[i + 1] + y[i]) / 2 for i in range(len(x) - 1))


@pytest.mark.parametrize("per_lead", [False, True])
@pytest.mark.parametrize("order", explain.ORDERS)
@pytest.mark.parametrize("replacement", explain.REPLACEMENTS)
def test_curves_equal_those_of_a_loop_over_samples(replacement, order, per_lead):
    model, (x, mask) = Curved(), signals((40, 29))
    mask[0, 11:19] = False  # a hole: its second window is padding and does not count
    relevance, targets = some_relevance(x), torch.tensor([2, 0])
    # 5 and 4 (or 15 and 12) windows, of which one is cut: no multiples of the steps.
    protocol = dict(
        window=8, per_lead=per_lead, replacement=replacement, order=order, steps=5 + 2 * per_lead
    )
    gone = deletion(model, x, relevance, targets, mask, **protocol)
    put = insertion(model, x, relevance, targets, mask, **protocol)
    for row in range(2):
        record = (v[row].numpy() for v in (x, relevance))
        slow = slow_curves(model, *record, targets[row], mask[row].numpy(), **protocol)
        np.testing.assert_allclose(gone.fraction[row], slow["fraction"], atol=1e-14)
        np.testing.assert_allclose(gone.most_first[row], slow["delete most"], atol=1e-11)
        np.testing.assert_allclose(gone.least_first[row], slow["delete least"], atol=1e-11)
        wanted = area(slow["delete least"], slow["fraction"])
        wanted -= area(slow["delete most"], slow["fraction"])
        assert gone.delta_area[row] == pytest.approx(wanted, abs=1e-11)
        for name in ("most", "least"):  # read backward, a count may be rounded the other way
            curve = getattr(put, f"{name}_first")[row]
            found = dict(zip(put.fraction[row].round(9), curve, strict=True))
            wanted = dict(zip(np.round(slow["fraction"], 9), slow[f"insert {name}"], strict=True))
            shared = found.keys() & wanted.keys()
            assert len(shared) > 2
            for fraction in shared:
                assert found[fraction] == pytest.approx(wanted[fraction], abs=1e-11)


def test_deletion_of_a_linear_model_is_a_sum_of_what_is_left():
    model, (x, mask) = Linear(), signals((40, 40))
    relevance = baselines.gradient_times_input(model, x, 1, mask)
    found = deletion(model, x, relevance, 1, mask, **PROTOCOL)
    for row in range(2):
        parts = relevance[row].reshape(5, 8 * 3).sum(1).sort(descending=True).values
        for curve, order in ((found.most_first, parts), (found.least_first, parts.flip(0))):
            left = order.sum() - torch.cat([torch.zeros(1), order]).cumsum(0)
            np.testing.assert_allclose(curve[row], left + 2, atol=1e-12)  # the bias of class 1
        # Trapezoids: the part removed first is missing longest, the average part as in both.
        weights = torch.tensor([4.0, 2, 0, -2, -4]) / 5
        assert found.delta_area[row] == pytest.approx((weights * parts).sum().item())
        assert found.delta_area[row] > 1


@pytest.mark.parametrize("steps", [5, 2])  # half of 5 windows: 3 deleted, so 2 inserted
def test_insertion_says_the_same_as_deletion(steps):
    model, (x, mask) = Curved(), signals((40, 29))
    relevance, protocol = some_relevance(x), {**PROTOCOL, "steps": steps}
    gone = deletion(model, x, relevance, 1, mask, **protocol)
    put = insertion(model, x, relevance, 1, mask, **protocol)
    delta = [
        area(put.most_first[row], put.fraction[row]) - area(put.least_first[row], put.fraction[row])
        for row in range(2)
    ]
    np.testing.assert_allclose(put.delta_area, delta, atol=1e-12)
    np.testing.assert_allclose(gone.delta_area, delta, atol=1e-12)
    with torch.no_grad():
        np.testing.assert_allclose(put.most_first[:, -1], model(x, mask)[:, 1])
        np.testing.assert_allclose(put.most_first[:, 0], model(torch.zeros_like(x))[:, 1])
    wanted = [0, 0.2, 0.4, 0.6, 0.8, 1] if steps == 5 else [0, 0.4, 1]
    np.testing.assert_allclose(put.fraction[0], wanted, atol=1e-15)


def test_the_opposite_map_has_the_opposite_score_and_no_map_none_on_average():
    model, (x, _) = Linear(), signals((40, 40))
    exact = baselines.gradient_times_input(model, x, 1)
    best = deletion(model, x, exact, 1, **PROTOCOL).delta_area
    worst = deletion(model, x, -exact, 1, **PROTOCOL).delta_area
    np.testing.assert_allclose(worst, -best)
    maps = (
        baselines.random_relevance(model, x, 1, generator=generator(seed)) for seed in range(100)
    )
    draws = np.array([deletion(model, x, one, 1, **PROTOCOL).delta_area for one in maps])
    assert (np.abs(draws.mean(0)) < 4 * draws.std(0) / 100**0.5).all()
    assert (best > draws.max(0) - 1e-9).all(), "no order is better for a linear model"


def test_padding_is_neither_removed_nor_counted_and_nothing_is_changed():
    x, mask = signals((40, 21))
    seen = []

    def spy(x, mask=None):
        seen.append(x.clone())
        return Curved()(x, mask)

    relevance = some_relevance(x).masked_fill(~mask[..., None], torch.inf)
    copies = [v.clone() for v in (x, mask, relevance)]
    for replacement in explain.REPLACEMENTS:
        seen.clear()
        protocol = {**PROTOCOL, "replacement": replacement}
        found = deletion(spy, x, relevance, 1, mask, **protocol)
        alone = deletion(spy, x[1:, :21], relevance[1:, :21], 1, **protocol)
        np.testing.assert_array_equal(found.fraction[1], alone.fraction[0])
        first, last = seen[0], seen[9]  # of 10 calls for 5 steps and 2 orders
        for one in seen[:10]:
            assert one.shape == x.shape and one[1, 21:].isnan().all()
            assert one[0].isfinite().all() and one[1, :21].isfinite().all()
        assert torch.equal(first.nan_to_num(), x.nan_to_num())
        if replacement == "zero":
            assert (last[mask] == 0).all()
    for now, before in zip((x, mask, relevance), copies, strict=True):
        torch.testing.assert_close(now, before, equal_nan=True, atol=0, rtol=0)


def test_a_record_has_the_curve_that_it_has_without_its_padding():
    model, (x, mask) = book_model("cnn"), signals((256, 192), leads=12)
    relevance = some_relevance(x)
    for replacement in explain.REPLACEMENTS:
        protocol = dict(
            window=32, per_lead=False, replacement=replacement, order="absolute", steps=3
        )
        both = deletion(model, x, relevance, 3, mask, **protocol)
        alone = deletion(model, x[1:, :192], relevance[1:, :192], 3, **protocol)
        np.testing.assert_allclose(both.most_first[1], alone.most_first[0], atol=1e-9)
        np.testing.assert_allclose(both.delta_area[1], alone.delta_area[0], atol=1e-9)


def test_the_earliest_of_equal_windows_counts_as_the_most_relevant():
    model, (x, _) = Linear(), signals((40, 40))
    ones = np.ones(tuple(x.shape))
    found = deletion(model, x, ones, 0, **PROTOCOL)
    with torch.no_grad():
        start, end = x.clone(), x.clone()
        start[:, :8] = 0
        end[:, -8:] = 0
        np.testing.assert_allclose(found.most_first[:, 1], model(start)[:, 0])
        np.testing.assert_allclose(found.least_first[:, 1], model(end)[:, 0])


def test_more_steps_than_windows_change_no_area():
    model, (x, _) = Curved(), signals((40, 40))
    relevance = some_relevance(x)
    areas = [
        deletion(model, x, relevance, 0, **{**PROTOCOL, "steps": steps}).delta_area
        for steps in (5, 10, 37)
    ]
    np.testing.assert_allclose(areas[1], areas[0])
    np.testing.assert_allclose(areas[2], areas[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relevance": torch.ones(2, 40)}, r"relevance of shape \(2, 40\) found, that of x"),
        ({"relevance": torch.full((2, 40, 3), torch.nan)}, "not finite found inside the mask"),
        ({"mask": torch.zeros(2, 40, dtype=torch.bool)}, "record 0 without signal found"),
        ({"mask": torch.ones(2, 40)}, "torch.float32 found, .* torch.bool wanted"),
        ({"target": 9}, "target .* found, 0 to 3 wanted"),
        ({"window": 0}, "window=0 found, 1 to 40"),
        ({"window": 41}, "window=41 found, 1 to 40"),
        ({"steps": 0}, "steps=0 found"),
        ({"order": "size"}, "order='size' found, one of .*signed"),
        ({"replacement": "noise"}, "replacement='noise' found, one of .*interpolate"),
    ],
)
@pytest.mark.parametrize("curve", [deletion, insertion])
def test_what_does_not_fit_is_refused(curve, change, message):
    x, mask = signals()
    arguments = {"x": x, "relevance": some_relevance(x), "target": 0, "mask": mask}
    with pytest.raises(ValueError, match=message):
        curve(Linear(), **{**arguments, **PROTOCOL, **change})


def test_the_choices_have_no_defaults_and_training_mode_is_refused():
    x, mask = signals()
    for name in PROTOCOL:
        rest = {key: value for key, value in PROTOCOL.items() if key != name}
        with pytest.raises(TypeError, match=name):
            deletion(Linear(), x, x, 0, mask, **rest)
    with pytest.raises(ValueError, match="training mode"):
        deletion(Linear().train(), x, some_relevance(x), 0, mask, **PROTOCOL)
