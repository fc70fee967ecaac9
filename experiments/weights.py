"""Make the trained models that come with the book; write weights/NAME.safetensors and .json.

    python experiments/weights.py                    # all of them
    python experiments/weights.py --only tutorial

Both are `EnhancedECGMamba2` at tutorial size, trained on synthetic records with seed 0: "tutorial"
the whole of the ladder, "robust" its last row, trained on attacked and masked records. They are
the models of ``experiments/run_ladder.py --rows 5 7 --data synthetic --seeds 0``; one that is not
in runs/ladder is trained now.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import run_ladder
from provenance import provenance

from ecgbook import ladder, metrics, training
from ecgbook.storage import write_json
from ecgbook.training import Bundle, fingerprint

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
SEED = 0
MODELS = {"tutorial": ladder.WHOLE, "robust": ladder.RUNGS[-1]}


def write(name: str, parts: dict) -> None:
    """Train a model if need be, score it on the test part, and write it with its card."""
    made_with = provenance(
        f"python experiments/weights.py --only {name}",
        seed=SEED,
        data_sha256=fingerprint(*parts.values()),
    )
    trained = run_ladder.trained_on_synthetic(MODELS[name], SEED, parts)
    probabilities = trained.predict(parts["test"])
    card = trained.card | {
        "data": {
            part: {"records": len(dataset), "seed": run_ladder.synthetic_seed(part)}
            for part, dataset in parts.items()
        },
        "scores": training.evaluate(parts["test"], probabilities, trained.thresholds),
        "provenance": made_with,
    }
    write_json(WEIGHTS / f"{name}.json", card)
    bundle = Bundle(trained.model, trained.preprocessing, trained.thresholds, card)
    print(training.save(bundle, WEIGHTS / f"{name}.safetensors"))
    print(
        "macro-AUROC on synthetic test records",
        metrics.format_interval(card["scores"]["auroc"]["macro"]),
    )


def main() -> None:
    """Make the models that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=MODELS, nargs="+", default=MODELS)
    names = parser.parse_args().only
    parts = run_ladder.load("synthetic")
    for name in names:
        write(name, parts)


if __name__ == "__main__":
    main()
