"""Compare three attacks to train with; write experiments/results/attack_choice.json.

    python experiments/attack_choice.py

The models are those of `ecgbook.ladder.ATTACK_CHOICE`: the whole with seed 0, trained further on
synthetic records that FGSM, N-FGSM or PGD of two steps has attacked. A choice must not look at
the records that later judge it, so these are scored on some of the validation part, as they are
and under PGD of 20 steps with the budget of training.
"""

from __future__ import annotations

from pathlib import Path

import run_ladder
from disturbances import attacked, choose
from provenance import provenance
from run_robust import CHECKED_UV, N_ATTACKED, scored

from ecgbook import ladder
from ecgbook.storage import write_json
from ecgbook.training import fingerprint

RESULT = Path(__file__).resolve().parent / "results" / "attack_choice.json"
SEED = run_ladder.SEEDS[0]
PLAN = [("clean", 0), ("pgd", CHECKED_UV)]


def main() -> None:
    """Train what has not been trained, score all, write the results."""
    records = choose(run_ladder.synthetic_part("valid"), N_ATTACKED)
    made_with = provenance(
        "python experiments/attack_choice.py", seed=SEED, data_sha256=fingerprint(records)
    )
    results = {}
    for name, rung in ladder.ATTACK_CHOICE.items():
        bundle = run_ladder.trained_on_synthetic(rung, SEED, {})
        found = dict(attacked(bundle, records, SEED, PLAN))
        results[name] = scored([found], records, [bundle.thresholds]) | {
            "recipe": bundle.card["recipe"],
            "epochs": bundle.card["epochs"],
        }
    about = {"records": len(records), "models": results, "provenance": made_with}
    print(write_json(RESULT, about))


if __name__ == "__main__":
    main()
