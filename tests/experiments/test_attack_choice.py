"""The attacks that were tried for the ladder's row of adversarial training."""

import json
from pathlib import Path

import pytest

from ecgbook import ladder

RESULT = Path(__file__).resolve().parents[2] / "experiments" / "results" / "attack_choice.json"


@pytest.fixture(scope="module")
def results():
    return json.loads(RESULT.read_text(encoding="utf-8"))


def test_the_three_differ_in_their_attack_only(results):
    assert list(results["models"]) == list(ladder.ATTACK_CHOICE)
    recipes = [part["recipe"].copy() for part in results["models"].values()]
    found = [(r["adversarial"].pop("attack"), r["adversarial"].pop("steps")) for r in recipes]
    assert [attack for attack, _ in found] == ["fgsm", "n-fgsm", "pgd"] and found[2][1] == 2
    assert recipes[0] == recipes[1] == recipes[2]


def test_the_one_that_was_taken_keeps_most_under_attack(results):
    kept = {
        name: part["pgd/25"]["auroc"]["macro"][0] / part["clean"]["auroc"]["macro"][0]
        for name, part in results["models"].items()
    }
    taken = next(n for n, rung in ladder.ATTACK_CHOICE.items() if rung is ladder.RUNGS[6])
    assert max(kept, key=kept.get) == taken
    assert {"command", "commit", "data_sha256"} <= set(results["provenance"])
