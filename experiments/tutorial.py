"""Make the trained model that comes with the book; write weights/tutorial.safetensors and .json.

    python experiments/tutorial.py

It is the whole of the ladder, `EnhancedECGMamba2` at tutorial size, trained on synthetic
records with seed 0: the model of ``experiments/ladder.py --rows 5 --data synthetic --seeds 0``,
which is trained now if it is not in runs/ladder.
"""

from __future__ import annotations

from pathlib import Path

import ladder as experiment
from provenance import provenance

from ecgbook import bundles, evaluation, ladder
from ecgbook.bundles import Bundle
from ecgbook.storage import write_json
from ecgbook.training import fingerprint

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
SEED = 0


def main() -> None:
    """Train the model if need be, score it on the test part, and write it with its card."""
    parts = experiment.load("synthetic")
    made_with = provenance(
        "python experiments/tutorial.py", seed=SEED, data_sha256=fingerprint(*parts.values())
    )
    trained = experiment.trained_on_synthetic(ladder.WHOLE, SEED, parts)
    probabilities = evaluation.predict(trained.model, parts["test"])
    card = trained.card | {
        "data": {
            part: {"records": len(dataset), "seed": experiment.synthetic_seed(part)}
            for part, dataset in parts.items()
        },
        "scores": evaluation.evaluate(parts["test"], probabilities, trained.thresholds),
        "provenance": made_with,
    }
    write_json(WEIGHTS / "tutorial.json", card)
    bundle = Bundle(trained.model, trained.preprocessing, trained.thresholds, card)
    print(bundles.save(bundle, WEIGHTS / "tutorial.safetensors"))
    print(
        "macro-AUROC on synthetic test records", ladder.interval(card["scores"]["auroc"]["macro"])
    )


if __name__ == "__main__":
    main()
