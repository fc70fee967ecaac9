"""Recipes: values out of range are refused by name, and JSON holds what is in use."""

import json

import pytest

from ecgbook.attacks import AdversarialTraining
from ecgbook.augment import FrequencyMask, LeadMask, Mixup, Noise
from ecgbook.signals import NOISE_KINDS
from ecgbook.training import Recipe


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("warmup", 1.0),
        ("weight_decay", -0.1),
        ("clip_norm", 0.0),
        ("patience", 0),
        ("positive_weight", 1.5),
        ("precision", "half"),
        ("augment", [LeadMask()]),
        ("augment", ("FrequencyMask",)),
        ("adversarial", 0.025),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"{field}=.* found, .* wanted"):
        Recipe(**{field: value})


def test_the_stored_recipe_is_what_json_gives_back():
    masked = Recipe(augment=(FrequencyMask(fs_hz=125), LeadMask(p=0.2)))
    mixed = Recipe(augment=(Noise(fs_hz=125, kinds=NOISE_KINDS[:1]), Mixup(shares=(0.2, 0.8))))
    attacked = Recipe(seed=3, adversarial=AdversarialTraining("pgd", steps=2))
    for recipe in (Recipe(), masked, mixed, attacked):
        stored = recipe.to_dict()
        assert json.loads(json.dumps(stored)) == stored
        assert Recipe.from_dict(json.loads(json.dumps(stored))) == recipe
    names = [one["transform"] for one in masked.to_dict()["augment"]]
    assert names == ["FrequencyMask", "LeadMask"]
    assert masked.to_dict()["augment"][0]["range_hz"] == [0.5, 40.0]
    assert attacked.to_dict()["adversarial"]["attack"] == "pgd"


def test_what_is_not_used_is_not_stored():
    assert not {"augment", "adversarial"} & Recipe().to_dict().keys()


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"epochs": 0}, "epochs=0 found"),
        ({"moons": 2}, "Recipe with moons=2 found, fields epochs, .* another version"),
        ({"augment": [{"transform": "Blur"}]}, "transform 'Blur' found, one of FrequencyMask, "),
        ({"augment": [{"transform": "LeadMask", "q": 1}]}, "LeadMask with q=1 found"),
        ({"augment": [{"transform": "FrequencyMask"}]}, "FrequencyMask from {} found, .*fs_hz"),
        ({"adversarial": {"attack": "cw"}}, "attack='cw' found"),
    ],
)
def test_a_recipe_of_another_version_is_named(stored, message):
    with pytest.raises(ValueError, match=message):
        Recipe.from_dict(stored)
