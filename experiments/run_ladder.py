"""Train and score the rungs of the ladder; write experiments/results/ladder.json.

    python experiments/run_ladder.py                     # every rung, every way to train and test
    python experiments/run_ladder.py --rows 0 --data real
    python experiments/run_ladder.py --rows 1 --data synthetic --seeds 2
    python experiments/run_ladder.py --rows --left-out   # the whole minus one part each
    python experiments/run_ladder.py --rows              # no row: only time the models again
    python experiments/run_ladder.py --recompute         # score the kept predictions again

Synthetic: training, validation and test records are drawn from different seeds, so no patient is
shared. Real: patient-wise cross-validation over the distinct records of ECGBOOK_DATA; the
out-of-fold predictions are scored together. Synthetic to real: the models of the first, as they
are, on all real records. Fine-tuned: the cross-validation again, each model starting from the
synthetic one of its seed. Early stopping and thresholds use a validation part that is cut from
the training records by patient. Intervals: 1,000 bootstrap draws over patients; what the seeds
vary by is added. The change to the reference, which is the row before or the whole, pairs the
seeds and the records, with the same draws for both.

Each run, one rung with one seed, leaves a file of predictions and thresholds, of which
``--recompute`` makes the scores again without training anything. A row is written when the runs of
all seeds are there, so runs may be shared out among processes that work at the same time. Models
trained on synthetic records are kept in runs/ladder; a run that was stopped goes on from there.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from provenance import provenance

from ecgbook import data, ladder, metrics, models, synthetic, training
from ecgbook.data import ECGDataset
from ecgbook.labels import RHYTHMS
from ecgbook.metrics import bootstrap, paired_bootstrap
from ecgbook.storage import read_safetensors, write_json, write_safetensors
from ecgbook.training import Recipe, fingerprint, fit

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "ladder.json"
PREDICTIONS = HERE / "results" / "ladder_predictions"
LOCK = Path(tempfile.gettempdir()) / "ecgbook-ladder.lock"
MODELS = HERE.parent / "runs" / "ladder"
STEPS = models.PREPROCESSING["tutorial"]
POLICY = "extended"  # of the labels that the models are trained with
SEEDS = (0, 1, 2)
EVERY = (*ladder.RUNGS, *ladder.LEFT_OUT)
RECIPE = {
    "synthetic": Recipe(epochs=12, batch_size=32, learning_rate=2e-3, patience=6),
    "real": Recipe(epochs=12, batch_size=32, learning_rate=2e-3, patience=6, positive_weight=0.5),
    "fine-tuned": Recipe(
        epochs=6, batch_size=32, learning_rate=1e-3, patience=6, positive_weight=0.5
    ),
}
RECIPE["synthetic to real"] = RECIPE["synthetic"]
N_SYNTHETIC = {"train": 2000, "valid": 500, "test": 1000}
N_FOLDS = 5
WITHOUT_AFL = [k for k, rhythm in enumerate(RHYTHMS) if rhythm != "AFL"]


def synthetic_part(part: str) -> ECGDataset:
    """Make one part of the synthetic records; each part has a seed, and so patients, of its own."""
    records = synthetic.make_records(N_SYNTHETIC[part], seed=synthetic_seed(part))
    return data.from_records(records, STEPS)


def synthetic_seed(part: str) -> int:
    """Return the seed of a part's records."""
    return 1000 + list(N_SYNTHETIC).index(part)


def load(source: str) -> dict[str, ECGDataset]:
    """Return the records of one kind; those called ``test`` are scored."""
    if source == "synthetic":
        return {part: synthetic_part(part) for part in N_SYNTHETIC}
    folder = data.data_folder()
    if folder is None:
        raise SystemExit("ECGBOOK_DATA is not set: real records wanted")
    return {"test": data.from_folder(folder, STEPS, POLICY).distinct()}


def on_synthetic(rung: ladder.Rung, recipe: Recipe, parts: dict[str, ECGDataset]):
    """Return probabilities and thresholds of the test part, and the epochs that were trained.

    The model is trained on synthetic records, whatever the test part holds.
    """
    bundle = trained_on_synthetic(rung, recipe.seed, parts)
    probabilities = bundle.predict(parts["test"])
    return probabilities, bundle.thresholds, [len(bundle.card["epochs"])]


def trained_on_synthetic(
    rung: ladder.Rung, seed: int, parts: dict[str, ECGDataset]
) -> training.Bundle:
    """Return the model of a seed: the one kept, if it is of this task, or trained now."""
    file = MODELS / run_file(rung, "synthetic", seed).stem / "model.safetensors"
    recipe = recipe_of(rung, "synthetic", seed)
    if not file.is_file():
        parts = parts if "train" in parts else load("synthetic")
        start = rung.start and trained_on_synthetic(rung.start, seed, parts).model
        torch.manual_seed(seed)
        model = start or rung.build()
        fit(model, parts["train"], parts["valid"], recipe, file.parent, True, progress=False)
    bundle = training.load(file)
    if bundle.model.config != rung.build().config or bundle.card["recipe"] != recipe.to_dict():
        raise ValueError(
            f"{file}: a model of another rung or recipe found, {rung.name} as it is now wanted; "
            "delete its folder, and it is trained again"
        )
    return bundle


def on_real(rung: ladder.Rung, recipe: Recipe, parts: dict[str, ECGDataset], tune: bool = False):
    """Return the same by patient-wise cross-validation, thresholds one row a record."""
    records, epochs = parts["test"], []
    probabilities, thresholds = np.zeros_like(records.y), np.zeros_like(records.y)
    for fold, (rest, test) in enumerate(data.patient_folds(records, N_FOLDS, recipe.seed)):
        train, valid = data.split_by_patient(records.subset(rest), (0.85, 0.15), recipe.seed)
        torch.manual_seed(recipe.seed)
        model = trained_on_synthetic(rung, recipe.seed, parts).model if tune else rung.build()
        bundle = fit(model, train, valid, recipe, progress=False)
        probabilities[test] = bundle.predict(records.subset(test))
        thresholds[test] = bundle.thresholds
        epochs.append(len(bundle.card["epochs"]))
        print(f"  fold {fold + 1} of {N_FOLDS}: {epochs[-1]} epochs", flush=True)
    return probabilities, thresholds, epochs


WORK = {
    "synthetic": on_synthetic,
    "real": on_real,
    "synthetic to real": on_synthetic,
    "fine-tuned": partial(on_real, tune=True),
}


@dataclass(frozen=True)
class Labels:
    """What the test records of a row are judged by; kept beside the predictions.

    Attributes
    ----------
    y : ndarray, shape (n, 5), float32
    y_mask : ndarray, shape (n, 5), bool
    groups : ndarray, shape (n,), int
        Of the patients.
    classes : tuple of str
    """

    y: np.ndarray
    y_mask: np.ndarray
    groups: np.ndarray
    classes: tuple[str, ...] = RHYTHMS

    def __len__(self) -> int:
        """Count the records."""
        return len(self.y)


def labels_file(source: str, policy: str = POLICY) -> Path:
    """Return the file of the labels that a way to train and test is judged by."""
    kind = "synthetic" if source == "synthetic" else "real"
    return PREDICTIONS / f"labels-{kind}{'' if policy == POLICY else '-' + policy}.safetensors"


def keep_labels(source: str, test: ECGDataset, policy: str = POLICY) -> Labels:
    """Write the labels of the test records."""
    groups = np.unique(test.groups, return_inverse=True)[1]
    tensors = {"y": test.y, "y_mask": test.y_mask, "groups": groups}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in tensors.items()}
    names = [str(name) for name in test.names]
    write_safetensors(labels_file(source, policy), tensors, {"names": names})
    return read_labels(source, policy)


def read_labels(source: str, policy: str = POLICY) -> Labels:
    """Read what `keep_labels` wrote."""
    tensors, _ = read_safetensors(labels_file(source, policy))
    return Labels(**{name: tensor.numpy() for name, tensor in tensors.items()})


def run_file(rung: ladder.Rung, source: str, seed: int) -> Path:
    """Return the file of one run, such as ``cnn-baseline-real-0.safetensors``."""
    name = re.sub(r"\W+", "-", f"{rung.name.lower()}-{source}-{seed}")
    return PREDICTIONS / f"{name}.safetensors"


def task(rung: ladder.Rung, source: str, seed: int, data_sha256: str) -> dict:
    """Say what a run does, as its file does: a run of another task is not reused."""
    about = {
        "model": rung.model.__name__,
        "arguments": dict(rung.arguments),
        "recipe": recipe_of(rung, source, seed).to_dict(),
        "data_sha256": data_sha256,
    }
    if start := rung if source == "fine-tuned" else rung.start:
        about["pretraining"] = recipe_of(start, "synthetic", seed).to_dict()
    return about


def recipe_of(rung: ladder.Rung, source: str, seed: int) -> Recipe:
    """Return how a rung is trained with a seed."""
    return replace(rung.recipe(RECIPE[source]), seed=seed)


def rungs_of(source: str) -> list[ladder.Rung]:
    """List what is run on one kind of records: parts are left out on synthetic ones."""
    rungs = [ladder.RUNGS[number] for number in ladder.ROWS[source]]
    return rungs + list(ladder.LEFT_OUT) if source == "synthetic" else rungs


def run(
    rung: ladder.Rung, source: str, seed: int, parts: dict[str, ECGDataset], sha256: str
) -> None:
    """Train and score one rung with one seed; write the file of the run."""
    start = time.perf_counter()
    made_with = provenance(
        ladder.command(rung, source),
        policy=POLICY,
        data_sha256=sha256,
        preprocessing=STEPS.to_dict(),
    )
    print(f"{rung.name}, {source}, seed {seed}", flush=True)
    recipe = recipe_of(rung, source, seed)
    probabilities, thresholds, epochs = WORK[source](rung, recipe, parts)
    scores = training.evaluate(parts["test"], probabilities, thresholds)
    minutes = (time.perf_counter() - start) / 60
    header = {
        "task": task(rung, source, seed, sha256),
        "scores": scores,
        "epochs": epochs,
        "minutes": minutes,
        "provenance": made_with,
    }
    rows = np.broadcast_to(thresholds, probabilities.shape).astype(np.float32)
    tensors = {"probabilities": torch.from_numpy(probabilities), "thresholds": torch.tensor(rows)}
    write_safetensors(run_file(rung, source, seed), tensors, header)
    macro = metrics.format_interval(scores["auroc"]["macro"])
    print(f"  macro-AUROC {macro}, {minutes:.1f} minutes", flush=True)


@dataclass(frozen=True)
class Run:
    """What one rung with one seed has left.

    Attributes
    ----------
    probabilities : ndarray, shape (n, 5)
    thresholds : ndarray, shape (n, 5), or None
        Of every record; None where an early run did not keep them.
    header : dict
        Task, scores of this seed alone, epochs, minutes and provenance.
    """

    probabilities: np.ndarray
    thresholds: np.ndarray | None
    header: dict


def finished(rung: ladder.Rung, source: str, sha256: str) -> list[Run] | None:
    """Return a rung's runs, one a seed; None if one is not there."""
    runs = []
    for seed in SEEDS:
        file = run_file(rung, source, seed)
        if not file.is_file():
            return None
        tensors, header = read_safetensors(file)
        if header["task"] != task(rung, source, seed, sha256):
            return None
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        runs.append(Run(arrays["probabilities"], arrays.get("thresholds"), header))
    return runs


def scored(runs: list[Run], test: Labels) -> dict:
    """Score the runs of a rung; each seed's macro-AUROC beside."""
    probabilities = np.stack([run.probabilities for run in runs])
    kept = [run.thresholds for run in runs if run.thresholds is not None]
    thresholds = np.stack(kept) if len(kept) == len(runs) else None
    found = training.evaluate(test, probabilities, thresholds) | {"seeds": len(runs)}
    alone = [run.header["scores"] for run in runs]
    if thresholds is None:  # without them there is no interval: what each seed had, averaged
        without = {"f1": {n: values_alone(alone, "f1", n) for n in alone[0]["f1"]}}
        found |= without | {"challenge": values_alone(alone, "challenge")}
    found["auroc_by_seed"] = [run["auroc"]["macro"][0] for run in alone]
    found["f1_by_seed"] = [run["f1"]["macro"][0] for run in alone]
    return found


def values_alone(scores: list[dict], *path: str) -> list[float | None]:
    """Average a score over the seeds, without an interval."""
    values = []
    for each in scores:
        for key in path:
            each = each[key]
        values.append(np.nan if each[0] is None else each[0])
    return [float(np.mean(values)), None, None]


def together(runs: list[Run], test: Labels) -> dict:
    """Score the mean of the seeds' probabilities; also without AFL, which few real records show.

    Each of the probabilities is that of a model which has not seen the record's patient, so their
    mean is as well.
    """
    probabilities = np.mean([run.probabilities for run in runs], axis=0)
    drawn = bootstrap(metrics.auroc, test.y, probabilities, groups=test.groups, mask=test.y_mask)
    return {
        "auroc": training.macro_and_classes(drawn),
        "auroc_without_afl": {"macro": drawn.average(WITHOUT_AFL).as_list()},
    }


def change(before: list[Run], after: list[Run], test: Labels) -> dict:
    """Compare two rows: the same seeds, records and draws."""
    result = {}
    scores = [np.stack([run.probabilities for run in runs]) for runs in (before, after)]
    for name, metric in (("auroc", metrics.auroc), ("auprc", metrics.auprc)):
        drawn = paired_bootstrap(
            metric, test.y, *scores, groups=test.groups, mask=test.y_mask, average=True
        )
        result[name], result[f"{name}_by_seed"] = drawn.as_list(), drawn.by_seed.tolist()
    return result


def ms_per_record(rounds: int = 9) -> dict[str, float]:
    """Time every rung's forward pass of 32 records on one thread, in turn; medians, in ms."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rungs = {rung.name: rung.build().eval() for rung in EVERY}
    x, times = torch.randn(32, STEPS.n_samples, 12), {name: [] for name in rungs}
    with torch.inference_mode():
        for _ in range(rounds):
            for name, model in rungs.items():
                start = time.thread_time()
                model(x)
                times[name].append(1000 * (time.thread_time() - start) / len(x))
    torch.set_num_threads(threads)
    return {name: float(np.median(each[1:])) for name, each in times.items()}


def write_row(rung: ladder.Rung, source: str, test: Labels, sha256: str) -> None:
    """Write a row whose runs are all there, and every change that it is part of."""
    runs = finished(rung, source, sha256)
    if runs is None:
        print(f"{rung.name}, {source}: row not written, runs of some seeds are missing")
        return
    headers = [run.header for run in runs]
    made_with = headers[0]["provenance"]
    for key in ("commit", "date"):  # runs may come from different days
        made_with[key] = ", ".join(sorted({header["provenance"][key] for header in headers}))
    scores = scored(runs, test) | {
        "seeds_together": together(runs, test),
        "recipe": rung.recipe(RECIPE[source]).to_dict(),
        "split": {"folds": N_FOLDS} if source in ("real", "fine-tuned") else N_SYNTHETIC,
        "epochs_by_seed": [header["epochs"] for header in headers],
        "minutes": sum(header["minutes"] for header in headers),
        "provenance": made_with,
    }
    about = {
        "chapter": rung.chapter,
        "parameters": sum(p.numel() for p in rung.build().parameters()),
    }
    with FileLock(LOCK):
        rows = json.loads(RESULT.read_text())["rows"] if RESULT.is_file() else {}
        rows[rung.name] = rows.get(rung.name, {}) | about | {source: scores}
        for after in rungs_of(source):
            row = rows.get(after.name, {}).get(source)
            for name, before in compared_with(after, source).items():
                if row is not None and rung in (before, after):
                    pair = [finished(each, source, sha256) for each in (before, after)]
                    row.pop(name, None)
                    if None not in pair:
                        row[name] = change(*pair, test)
        write_rows(rows)


def compared_with(rung: ladder.Rung, source: str) -> dict[str, ladder.Rung]:
    """Return the rungs a row is compared with: its reference, and the whole with the baseline."""
    found = {}
    if (before := ladder.reference(rung, source)) is not None:
        found["change"] = before
    if rung is ladder.WHOLE:
        found["change_to_baseline"] = ladder.RUNGS[0]
    return found


def write_rows(rows: dict) -> None:
    """Write the rows in the order of the ladder."""
    in_order = [rung.name for rung in EVERY if rung.name in rows]
    write_json(RESULT, {"rows": {name: rows[name] for name in in_order}})


def write_times() -> None:
    """Time all rungs in one run, so that their times can be compared; write them to the rows."""
    times = ms_per_record()
    with FileLock(LOCK):
        rows = json.loads(RESULT.read_text())["rows"] if RESULT.is_file() else {}
        for name, row in rows.items():
            row["ms_per_record"] = times[name]
        write_rows(rows)


def recompute(sources: Iterable[str]) -> None:
    """Score the predictions that are there again; train nothing, time nothing, read no record."""
    rows = json.loads(RESULT.read_text())["rows"]
    for source in sources:
        test = read_labels(source)
        for rung in rungs_of(source):
            write_row(rung, source, test, rows[rung.name][source]["provenance"]["data_sha256"])
            print(f"{rung.name}, {source}: scored again", flush=True)


def main() -> None:
    """Make the runs that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    every = range(len(ladder.RUNGS))
    parser.add_argument("--rows", type=int, choices=every, nargs="*", default=every)
    left_out = {rung.name: rung for rung in ladder.LEFT_OUT}
    parser.add_argument(
        "--left-out", choices=left_out, nargs="*", help="also the whole minus one part; all if none"
    )
    parser.add_argument("--data", choices=tuple(ladder.ROWS), nargs="+", default=ladder.ROWS)
    parser.add_argument("--seeds", type=int, choices=SEEDS, nargs="+", default=SEEDS)
    parser.add_argument("--recompute", action="store_true", help="train nothing, score again")
    options = parser.parse_args()
    if options.recompute:
        recompute(options.data)
        return
    wanted = [ladder.RUNGS[number] for number in options.rows]
    if options.left_out is not None:
        wanted += [left_out[name] for name in options.left_out or left_out]
    for source in options.data:
        rungs = [rung for rung in rungs_of(source) if rung in wanted]
        if not rungs:
            continue
        parts = load(source)
        sha256, labels = fingerprint(*parts.values()), keep_labels(source, parts["test"])
        for rung in rungs:
            for seed in options.seeds:
                run(rung, source, seed, parts, sha256)
            write_row(rung, source, labels, sha256)
    write_times()


if __name__ == "__main__":
    main()
