"""Attack and disturb the four ways to train the whole; write experiments/results/robust.json.

    python experiments/run_robust.py                # everything, then the results
    python experiments/run_robust.py --models both --seeds 1 --parts attacks --data real
    python experiments/run_robust.py --models       # no model: only write the results

The models are those of `ecgbook.ladder.ROBUST`, trained on synthetic records by
``experiments/run_ladder.py`` (here, if it has not been done). All of them meet the same records:
some of the synthetic test part, and some real ones that no model has seen, drawn so that rare
rhythms are as frequent as can be. Hence their scores are not those of the ladder.

Attacks raise the loss of all trusted labels together, within a budget for every sample of every
lead, before the model's scaling. Only seed 0, on synthetic records, meets the strongest: PGD of 50
steps from 5 random starts, and PGD on one label at a time.

Noise is made at 500 Hz, whatever the rate of the record, at a ratio to its power between 0.5 and
40 Hz, and goes through the whole preprocessing. Bands are removed from the prepared signal.

Each run, one model with one seed, leaves its probabilities in runs/robust, after every attack;
what is there is not repeated. What all models met with a seed is then gathered, in half precision,
in results/robust_predictions, with labels and thresholds, and scored from there: so every number
can be made again without a model. Attacks come in the order of `attack_plan`, the most telling
first. Intervals: 1,000 bootstrap draws over patients; what the seeds vary by is added. Differences
between two models pair the seeds and the records, with the same draws for both.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import run_ladder
import torch
from disturbances import ATTACKS, attacked, choose, disturbed, key, raw_signals
from provenance import provenance

from ecgbook import ladder, metrics, training
from ecgbook.data import ECGDataset
from ecgbook.labels import RHYTHMS
from ecgbook.metrics import bootstrap, paired_bootstrap
from ecgbook.storage import read_safetensors, write_json, write_safetensors
from ecgbook.training import Bundle, fingerprint

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "robust.json"
RUNS = HERE.parent / "runs" / "robust"
PREDICTIONS = HERE / "results" / "robust_predictions"
SEEDS = run_ladder.SEEDS
EPSILON_UV = (5, 10, 25, 50, 100)
CHECKED_UV = 25  # the budget of training, and of the strongest attacks
N_ATTACKED, N_DISTURBED = 48, 150
PARTS = ("attacks", "noise", "bands")
COMPARED = (
    ("adversarial", "clean", "change"),
    ("masked", "clean", "change"),
    ("both", "clean", "change"),
    ("both", "adversarial", "change_to_adversarial"),
)
"""A model, the one it is compared with, and what the file calls the difference."""


def attack_plan(seed: int, source: str) -> list[list[tuple[str, int]]]:
    """List the attacks and budgets in µV that the models of a seed meet, in order of urgency."""
    strong = [("pgd, 50 steps, 5 starts", CHECKED_UV), ("pgd, label by label", CHECKED_UV)]
    return [
        [("clean", 0)]
        + [("random noise", uv) for uv in EPSILON_UV]
        + [("fgsm", uv) for uv in EPSILON_UV]
        + [(name, CHECKED_UV) for name in ATTACKS if name != "fgsm"],
        [("pgd", uv) for uv in EPSILON_UV if uv != CHECKED_UV],
        strong if seed == SEEDS[0] and source == "synthetic" else [],
        [
            (name, uv)
            for name in ATTACKS
            for uv in EPSILON_UV
            if name not in ("fgsm", "pgd") and uv != CHECKED_UV
        ],
    ]


def run_file(source: str, part: str, model: str, seed: int) -> Path:
    """Return the file of one run."""
    return RUNS / f"{source}-{part}-{model}-{seed}.safetensors"


def task(bundle: Bundle, sha256: str) -> dict:
    """Say what a run does, as its file does: a run of another task is not reused."""
    return {
        "recipe": bundle.card["recipe"],
        "valid_auroc": [row["valid_auroc"] for row in bundle.card["epochs"]],
        "data_sha256": sha256,
    }


def stored(file: Path, wanted: dict) -> dict[str, np.ndarray]:
    """Return the probabilities that a run has left, by condition; none if it had another task."""
    if not file.is_file():
        return {}
    tensors, header = read_safetensors(file)
    if header["task"] != wanted:
        return {}
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def command(source: str, part: str) -> str:
    """Say how to make the runs of a part again."""
    return f"python experiments/run_robust.py --parts {part} --data {source}"


def made_with(source: str, part: str) -> dict:
    """Return the provenance of a part's runs, which may come from different days."""
    headers = [
        read_safetensors(file)[1]["provenance"]
        for name in ladder.ROBUST
        for seed in SEEDS
        if (file := run_file(source, part, name, seed)).is_file()
    ]
    merged = {k: ", ".join(sorted({h[k] for h in headers})) for k in ("commit", "date")}
    return headers[0] | merged | {"seeds": len(SEEDS)}


def in_common(runs: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """Leave of every model's runs, one a seed, the conditions that all models met with the seed."""
    met = [set.intersection(*map(set, of_seed)) for of_seed in zip(*runs.values(), strict=True)]
    return {
        name: [
            {condition: run[condition] for condition in run if condition in common}
            for run, common in zip(each, met, strict=True)
        ]
        for name, each in runs.items()
    }


def gather(source: str, part: str, models: dict[str, list[Bundle]]) -> None:
    """Keep what all models met, with all that it takes to score it."""
    records = test_records(source, part)
    sha256 = fingerprint(records)
    runs = {
        name: [
            stored(run_file(source, part, name, seed), task(bundle, sha256))
            for seed, bundle in zip(SEEDS, bundles, strict=True)
        ]
        for name, bundles in models.items()
    }
    runs = in_common(runs)
    if not any(runs["clean"]):
        print(f"{source}, {part}: not written, no seed was run with every model")
        return
    groups = np.unique(records.groups, return_inverse=True)[1]
    arrays = {"y": records.y, "y_mask": records.y_mask, "groups": groups}
    arrays |= {
        f"{name}/{seed}/{condition}": values.astype(np.float16)
        for name, each in runs.items()
        for seed, run in zip(SEEDS, each, strict=True)
        for condition, values in run.items()
    }
    arrays |= {
        f"thresholds/{name}": np.stack([bundle.thresholds for bundle in bundles])
        for name, bundles in models.items()
    }
    tensors = {name: torch.from_numpy(np.ascontiguousarray(each)) for name, each in arrays.items()}
    conditions = list(dict.fromkeys(name for run in runs["clean"] for name in run))
    header = {"conditions": conditions, "provenance": made_with(source, part)}
    write_safetensors(predictions_file(source, part), tensors, header)


def predictions_file(source: str, part: str) -> Path:
    """Return the file of what was predicted in a part."""
    return PREDICTIONS / f"{source}-{part}.safetensors"


def scored(
    runs: list[dict[str, np.ndarray]],
    records: run_ladder.Labels | ECGDataset,
    thresholds: Sequence[np.ndarray],
) -> dict:
    """Score every condition with the seeds that met it."""
    found = {}
    draw = partial(bootstrap, y=records.y, mask=records.y_mask, groups=records.groups)
    for name in dict.fromkeys(name for run in runs for name in run):
        met = [(run[name], t) for run, t in zip(runs, thresholds, strict=True) if name in run]
        probabilities = np.stack([p for p, _ in met])
        calls = np.stack([p >= t for p, t in met]).astype(float)
        auroc = draw(metrics.auroc, p=probabilities)
        found[name] = {
            "seeds": len(met),
            "auroc": training.macro_and_classes(auroc),
            "f1": training.macro_and_classes(draw(partial(metrics.f1, thresholds=0.5), p=calls)),
            "auroc_by_seed": auroc.average().by_seed.tolist(),
        }
    return found


def change(before: list[dict], after: list[dict], records: run_ladder.Labels) -> dict:
    """Compare a model with the first under every condition: macro-AUROC."""
    found = {}
    for name in dict.fromkeys(name for run in before for name in run):
        pairs = [(a[name], b[name]) for a, b in zip(before, after, strict=True) if name in a]
        both = (np.stack(each) for each in zip(*pairs, strict=True))
        options = {"groups": records.groups, "mask": records.y_mask, "average": True}
        found[name] = paired_bootstrap(metrics.auroc, records.y, *both, **options).as_list()
    return found


def score_part(source: str, part: str) -> dict:
    """Score what was kept of a part."""
    tensors, header = read_safetensors(predictions_file(source, part))
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    records = run_ladder.Labels(*(arrays.pop(name) for name in ("y", "y_mask", "groups")))
    thresholds = {name: arrays.pop(f"thresholds/{name}") for name in ladder.ROBUST}
    runs = {name: [{} for _ in thresholds[name]] for name in ladder.ROBUST}
    for name in ladder.ROBUST:
        for seed, run in enumerate(runs[name]):
            for condition in header["conditions"]:
                if (values := arrays.get(f"{name}/{seed}/{condition}")) is not None:
                    run[condition] = values.astype(np.float64)
    positives = (records.y * records.y_mask).sum(0).astype(int)
    return {
        "records": len(records),
        "positives": dict(zip(RHYTHMS, positives, strict=True)),
        "models": compared(runs, records, thresholds),
        "provenance": header["provenance"],
    }


def write_results(sources: list[str]) -> None:
    """Gather and score the runs on each kind of records, with how the models were trained."""
    results = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    models = {
        name: [run_ladder.trained_on_synthetic(rung, seed, {}) for seed in SEEDS]
        for name, rung in ladder.ROBUST.items()
    }
    for source in sources:
        for part in PARTS:
            gather(source, part, models)
            if predictions_file(source, part).is_file():
                results.setdefault(source, {})[part] = score_part(source, part)
    results["training"] = {
        name: {
            "recipe": bundles[0].card["recipe"],
            "epochs": [bundle.card["epochs"] for bundle in bundles],
        }
        for name, bundles in models.items()
    }
    print(write_json(RESULT, results))


def compared(
    runs: dict[str, list[dict]], records: run_ladder.Labels, thresholds: dict[str, np.ndarray]
) -> dict[str, dict]:
    """Score every model under every condition, with its changes to those it is compared with."""
    results = {name: scored(each, records, thresholds[name]) for name, each in runs.items()}
    for name, reference, says in COMPARED:
        for condition, values in change(runs[reference], runs[name], records).items():
            results[name][condition][says] = values
    return results


def test_records(source: str, part: str) -> ECGDataset:
    """Return the records that are disturbed: few of them are attacked, for it takes long."""
    if source == "synthetic":
        test = run_ladder.synthetic_part("test")
    else:
        test = run_ladder.load(source)["test"]
    return choose(test, N_ATTACKED if part == "attacks" else N_DISTURBED)


def main() -> None:
    """Make the runs that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", choices=ladder.ROBUST, nargs="*", default=list(ladder.ROBUST))
    parser.add_argument("--seeds", type=int, choices=SEEDS, nargs="+", default=SEEDS)
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument(
        "--data", choices=("synthetic", "real"), nargs="+", default=("synthetic", "real")
    )
    options = parser.parse_args()
    for source in options.data:
        models = {
            (name, seed): run_ladder.trained_on_synthetic(ladder.ROBUST[name], seed, {})
            for seed in options.seeds
            for name in options.models
        }
        for part in options.parts if models else ():
            records = test_records(source, part)
            sha256 = fingerprint(records)
            if part == "attacks":
                attack_all(models, source, records, sha256)
            else:
                disturb_all(models, source, part, records, sha256)
    write_results(list(options.data))


def attack_all(models: dict, source: str, records: ECGDataset, sha256: str) -> None:
    """Attack models by name and seed; store after every attack."""
    made_by = provenance(command(source, "attacks"), data_sha256=sha256)
    for step in range(len(attack_plan(SEEDS[0], source))):
        for (name, seed), bundle in models.items():
            file, about = run_file(source, "attacks", name, seed), task(bundle, sha256)
            found = stored(file, about)
            plan = attack_plan(seed, source)[step]
            left = [each for each in plan if key(*each) not in found]
            print(f"{source}, attacks: {name}, seed {seed}, {len(left)} left", flush=True)
            for condition, probabilities in attacked(bundle, records, seed, left):
                found[condition] = probabilities
                store(file, found, about, made_by)


def disturb_all(models: dict, source: str, part: str, records: ECGDataset, sha256: str) -> None:
    """Predict disturbed records with models by name and seed; store when all is done."""
    made_by = provenance(command(source, part), data_sha256=sha256)
    files = {each: run_file(source, part, *each) for each in models}
    tasks = {each: task(bundle, sha256) for each, bundle in models.items()}
    found = {each: {} for each in models if not stored(files[each], tasks[each])}
    if not found:
        return
    raw = raw_signals(source, records) if part == "noise" else []
    for condition, changed in disturbed(part, records, raw):
        print(f"{source}, {part}: {condition}", flush=True)
        for each in found:
            found[each][condition] = training.predict(models[each].model, changed)
    for each in found:
        store(files[each], found[each], tasks[each], made_by)


def store(file: Path, found: dict[str, np.ndarray], about: dict, made_by: dict) -> None:
    """Write the probabilities of a run."""
    tensors = {name: torch.from_numpy(values) for name, values in found.items()}
    write_safetensors(file, tensors, {"task": about, "provenance": made_by})


if __name__ == "__main__":
    main()
