"""Maps of models that lose their training: how alike, how complex, what is done to models."""

import copy

import numpy as np
import pytest
import torch
from explained import Linear, book_model, signals

from ecgbook import explain
from ecgbook.explain import (
    cascading_randomization,
    complexity,
    efficient_randomization,
    random_logit,
    similarity,
)


def test_similarity_of_equal_opposite_and_unrelated_maps():
    x, mask = signals((2000, 1500), padding=0.0)
    other = torch.randn(x.shape, generator=torch.Generator().manual_seed(5)).double()
    np.testing.assert_allclose(similarity(x, x**3, mask, absolute=False), 1)
    np.testing.assert_allclose(similarity(x, -x, mask, absolute=False), -1)
    np.testing.assert_allclose(similarity(x, -x, mask, absolute=True), 1)
    for absolute in (False, True):
        assert (np.abs(similarity(x, other, mask, absolute=absolute)) < 0.06).all()
    # The padding is not compared: zeros there would make the two maps alike.
    other[1, 1500:] = 1e6
    x[1, 1500:] = 1e6
    assert abs(similarity(x, other, mask, absolute=False)[1]) < 0.06
    assert similarity(x, other, absolute=False)[1] > 0.3
    with pytest.raises(ValueError, match="twice the same"):
        similarity(x, x[:1], absolute=True)


def test_similarity_is_the_correlation_of_ranks():
    a = np.array([[[3.0], [-1.0], [2.0], [7.0]]])
    b = np.array([[[1.0], [5.0], [2.0], [3.0]]])
    # Ranks 3 1 2 4 and 1 4 2 3: 1 - 6 * (4 + 9 + 0 + 1) / (4 * 15)
    assert similarity(a, b, absolute=False) == pytest.approx([-0.4])


def test_cascading_randomization_replaces_one_stage_after_the_other():
    trained, untrained = book_model("cnn", seed=1), book_model("cnn", seed=2)
    trained.stem.norm1.running_mean += 0.3  # buffers are learned, too
    x, mask = signals((256, 200), leads=12)
    method, stages = explain.gradient_times_input, ["head", "blocks.0", "stem"]
    states = [copy.deepcopy(m.state_dict()) for m in (trained, untrained)]
    options = dict(stages=stages, absolute=False)
    found = cascading_randomization(trained, untrained, method, x, 2, mask, **options)

    assert list(found) == stages
    by_hand, reference = copy.deepcopy(trained), method(trained, x, 2, mask)
    for stage in stages:
        parent, _, name = stage.rpartition(".")
        setattr(by_hand.get_submodule(parent), name, copy.deepcopy(untrained.get_submodule(stage)))
        wanted = similarity(reference, method(by_hand, x, 2, mask), mask, absolute=False)
        np.testing.assert_allclose(found[stage], wanted, atol=1e-12)
        assert found[stage].shape == (2,) and (wanted < 0.99).all()
    for model, state in zip((trained, untrained), states, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
        assert not model.training


def test_a_map_is_unlike_that_of_another_model_and_like_that_of_the_same():
    x, mask = signals((256, 200), leads=12)
    trained, untrained = book_model("cnn", seed=1), book_model("cnn", seed=2)
    stages = [name for name, part in trained.named_children() if [*part.parameters()]][::-1]
    method, options = explain.gradient_times_input, dict(stages=stages, absolute=False)
    other = cascading_randomization(trained, untrained, method, x, 2, mask, **options)
    assert (np.abs(other["stem"]) < 0.2).all()
    same = cascading_randomization(trained, trained, method, x, 2, mask, **options)
    for values in same.values():
        np.testing.assert_allclose(values, 1)

    def blind(model, x, target, mask):
        return x.nan_to_num() ** 2

    found = cascading_randomization(trained, untrained, blind, x, 2, mask, **options)
    np.testing.assert_allclose(found["stem"], 1), "a map of the record alone does not notice"


def test_random_logit_compares_with_another_class():
    model, (x, mask) = Linear(400), signals((400, 300))
    method, asked = explain.gradient_times_input, []

    def spy(model, x, target, mask):
        asked.append(torch.as_tensor(target).expand(len(x)).clone())
        return method(model, x, target, mask)

    for seed in range(20):
        for target in (1, torch.tensor([3, 0])):
            options = dict(absolute=False, generator=torch.Generator().manual_seed(seed))
            found = random_logit(model, spy, x, target, mask, **options)
            assert found.shape == (2,) and (np.abs(found) < 0.2).all()
            one, other = asked[-2:]
            assert (one != other).all() and (other >= 0).all() and (other < 4).all()
            wanted = similarity(
                method(model, x, one, mask), method(model, x, other, mask), mask, absolute=False
            )
            np.testing.assert_allclose(found, wanted)
    drawn = torch.stack(asked[1::4])[:, 0].unique().tolist()
    assert drawn == [0, 2, 3], "every class but the target is drawn"
    model.weight.data[:] = model.weight.data[0].clone()
    np.testing.assert_allclose(random_logit(model, method, x, 1, mask, absolute=False), 1)
    model.weight.data[[0, 2, 3]] *= -1
    np.testing.assert_allclose(random_logit(model, method, x, 1, mask, absolute=False), -1)
    np.testing.assert_allclose(random_logit(model, method, x, 1, mask, absolute=True), 1)


def test_randomization_refusals():
    model, (x, mask) = book_model("cnn"), signals((256, 200), leads=12)
    method = explain.gradient_times_input
    for stage in ("tail", "blocks.7", ""):
        with pytest.raises(ValueError, match=f"stage '{stage}' found, .* scale, stem, blocks"):
            cascading_randomization(
                model, model, method, x, 0, mask, stages=["head", stage], absolute=True
            )
    short, short_mask = signals()
    with pytest.raises(ValueError, match="1 class found, 2 or more wanted"):
        random_logit(Linear(n_classes=1), method, short, 0, short_mask, absolute=True)


def test_complexity_is_the_entropy_of_the_histogram():
    flat = torch.arange(200.0).reshape(1, 50, 4)
    peak = torch.zeros(1, 50, 4)
    peak[0, 7, 2] = -3
    both = torch.cat([flat, peak])
    p = 1 / 200
    one = -p * np.log(p) - (1 - p) * np.log(1 - p)
    np.testing.assert_allclose(complexity(both, bins=100), [np.log(100), one])
    np.testing.assert_allclose(complexity(-7 * both, bins=100), [np.log(100), one])
    mask = torch.arange(50) < torch.tensor([[50], [7]])
    peak[0, 9:] = torch.nan  # padding does not count
    assert complexity(torch.cat([flat, peak]), mask, bins=10)[1] == 0
    with pytest.raises(ValueError, match="bins=1 found, 2 or more wanted"):
        complexity(flat, bins=1)


def test_efficient_randomization_is_the_relative_rise_of_complexity():
    x, mask = signals((256, 200), leads=12)
    trained, untrained = book_model("cnn", seed=1), book_model("cnn", seed=2)
    method = explain.gradient_times_input
    found = efficient_randomization(trained, untrained, method, x, 2, mask, bins=50)
    before, after = (
        complexity(method(model, x, 2, mask), mask, bins=50) for model in (trained, untrained)
    )
    np.testing.assert_allclose(found, (after - before) / before)
    assert found.shape == (2,) and (found != 0).all()

    def blind(model, x, target, mask):
        return x

    assert (efficient_randomization(trained, untrained, blind, x, 2, mask, bins=50) == 0).all()
    # A few samples stand out for the trained model, and none for the other one.
    model, fresh = Linear(400), Linear(400, seed=3)
    model.weight.data[:, 10:] *= 1e-3
    x, mask = signals((400, 300))
    assert (efficient_randomization(model, fresh, method, x, 1, mask, bins=100) > 1).all()
