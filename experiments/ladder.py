"""Train and score the rungs of the ladder; write experiments/results/ladder.json.

    python experiments/ladder.py                     # every rung, synthetic and real
    python experiments/ladder.py --rows 0 --data real

Synthetic: training, validation and test records are drawn from different seeds, so no patient is
shared. Real: patient-wise cross-validation over the distinct records of ECGBOOK_DATA; the
out-of-fold predictions are scored together. Early stopping and thresholds use a validation part
that is cut from the training folds by patient. Intervals: 1,000 bootstrap draws over patients
for each seed; value and bounds are then averaged over the seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from provenance import provenance

from ecgbook import data, evaluation, ladder, models, splits, synthetic
from ecgbook.data import ECGDataset
from ecgbook.storage import write_json
from ecgbook.training import Recipe, fingerprint, fit

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "ladder.json"
STEPS = models.PREPROCESSING["tutorial"]
SEEDS = (0, 1, 2)
RECIPE = {
    "synthetic": Recipe(epochs=12, batch_size=32, learning_rate=2e-3, patience=6),
    "real": Recipe(epochs=12, batch_size=32, learning_rate=2e-3, patience=6, positive_weight=0.5),
}
N_SYNTHETIC = {"train": 2000, "valid": 500, "test": 1000}
N_FOLDS = 5


def synthetic_part(part: str) -> ECGDataset:
    """Make one part of the synthetic records; each part has a seed, and so patients, of its own."""
    number = list(N_SYNTHETIC).index(part)
    records = synthetic.make_records(N_SYNTHETIC[part], seed=1000 + number)
    made = data.from_records(records, STEPS)
    # groups are numbered within a part: set the parts apart
    return ECGDataset(**{**vars(made), "groups": made.groups + 1_000_000 * number})


def train(rung: ladder.Rung, training: ECGDataset, valid: ECGDataset, recipe: Recipe):
    """Train a rung from its seed; return its bundle."""
    torch.manual_seed(recipe.seed)
    return fit(rung.build(), training, valid, recipe, progress=False)


def on_synthetic(rung: ladder.Rung, seed: int, parts: dict[str, ECGDataset]) -> tuple[dict, list]:
    """Score a rung on synthetic records."""
    recipe = Recipe(**{**asdict(RECIPE["synthetic"]), "seed": seed})
    bundle = train(rung, parts["train"], parts["valid"], recipe)
    probabilities = evaluation.predict(bundle.model, parts["test"])
    return evaluation.evaluate(parts["test"], probabilities, bundle.thresholds), [
        len(bundle.card["epochs"])
    ]


def on_real(rung: ladder.Rung, seed: int, records: ECGDataset) -> tuple[dict, list]:
    """Score a rung on real records by patient-wise cross-validation."""
    recipe = Recipe(**{**asdict(RECIPE["real"]), "seed": seed})
    probabilities, thresholds = np.zeros_like(records.y), np.zeros_like(records.y)
    epochs = []
    for rest, test in splits.patient_folds(records, N_FOLDS, seed):
        training, valid = splits.split_by_patient(records.subset(rest), (0.85, 0.15), seed)
        bundle = train(rung, training, valid, recipe)
        probabilities[test] = evaluation.predict(bundle.model, records.subset(test))
        thresholds[test] = bundle.thresholds
        epochs.append(len(bundle.card["epochs"]))
    return evaluation.evaluate(records, probabilities, thresholds), epochs


def mean_over_seeds(runs: list[dict]) -> dict:
    """Average scores with intervals entry by entry; keep each seed's macro-AUROC beside."""
    merged = {"records": runs[0]["records"], "positives": runs[0]["positives"], "seeds": len(runs)}
    for metric in ("auroc", "auprc", "f1", "ece", "brier"):
        merged[metric] = {
            name: np.mean([run[metric][name] for run in runs], axis=0) for name in runs[0][metric]
        }
    merged["challenge"] = np.mean([run["challenge"] for run in runs], axis=0)
    merged["auroc_by_seed"] = [run["auroc"]["macro"][0] for run in runs]
    return merged


def ms_per_record(rung: ladder.Rung) -> float:
    """Time the forward pass of 32 records on one thread; median of seven, in ms a record."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model, x, times = rung.build().eval(), torch.randn(32, STEPS.n_samples, 12), []
    with torch.no_grad():
        for _ in range(8):
            start = time.thread_time()
            model(x)
            times.append(1000 * (time.thread_time() - start) / len(x))
    torch.set_num_threads(threads)
    return float(np.median(times[1:]))


def main() -> None:
    """Run the rungs that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=range(len(ladder.RUNGS)))
    parser.add_argument("--data", choices=("synthetic", "real"), nargs="+")
    options = parser.parse_args()
    wanted = options.data or ("synthetic", "real")
    result = json.loads(RESULT.read_text()) if RESULT.is_file() else {"rows": {}}
    for source in wanted:
        if source == "synthetic":
            inputs = {part: synthetic_part(part) for part in N_SYNTHETIC}
        else:
            folder = data.data_folder()
            if folder is None:
                raise SystemExit("ECGBOOK_DATA is not set: real records wanted")
            inputs = data.from_folder(folder, STEPS).distinct()
        for number in options.rows:
            rung = ladder.RUNGS[number]
            made_with = provenance(
                "python " + " ".join(["experiments/ladder.py", *sys.argv[1:]]),
                data_sha256=fingerprint(inputs) if source == "real" else None,
                preprocessing=STEPS.to_dict(),
            )
            runs, epochs, start = [], [], time.perf_counter()
            for seed in SEEDS:
                scores, trained = (on_synthetic if source == "synthetic" else on_real)(
                    rung, seed, inputs
                )
                runs.append(scores)
                epochs.append(trained)
                print(f"{rung.name}, {source}, seed {seed}: {scores['auroc']['macro']}", flush=True)
            row = result["rows"].setdefault(rung.name, {})
            row["chapter"] = rung.chapter
            row["parameters"] = sum(p.numel() for p in rung.build().parameters())
            row["ms_per_record"] = ms_per_record(rung)
            row[source] = mean_over_seeds(runs) | {
                "recipe": asdict(RECIPE[source]),
                "split": N_SYNTHETIC if source == "synthetic" else {"folds": N_FOLDS},
                "epochs_by_seed": epochs,
                "minutes": (time.perf_counter() - start) / 60,
                "provenance": made_with,
            }
            write_json(RESULT, result)


if __name__ == "__main__":
    main()
