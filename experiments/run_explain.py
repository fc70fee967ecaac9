"""Judge MambaLRP beside other explanations of the whole; write experiments/results/explain.json.

    python experiments/run_explain.py                # everything, then the results
    python experiments/run_explain.py --parts localization --seeds 1 --methods MambaLRP
    python experiments/run_explain.py --methods      # no run: only gather and score
    python experiments/run_explain.py --recompute    # only score what was gathered

The models are the whole of the ladder, trained on synthetic records with three seeds by
``experiments/run_ladder.py`` (here, if it has not been done). All methods meet the same records,
the first of the ladder's synthetic test part that show what is asked for. What is explained is the
logit of one true label of each record, whether the model finds it or not: that of the ectopic
beats where there are some, of PAC before PVC, and that of the rhythm otherwise. Ectopic beats take
little of a record's time, so that a map can miss them; PAC is rarer than PVC.

faithfulness   The logit while windows of 200 ms, all leads together, are set to 0 mV, which is the
               baseline of a high-passed signal. Windows go by the sum of their signed relevance.
               Windows put back in that order give the same curves read backward, so the area of
               insertion is that of deletion. Occlusion covers the same windows one at a time: it
               is not a baseline, but what one gets that asks the metric itself.
sensitivity    The same with a straight line in place of 0 mV, seed 0.
ablation       The same with single rules of MambaLRP switched off.
localization   Relevance on the true premature beats, by the records whose target they are.
completeness   How far relevance and biases miss the logit in float32; the share of each.
randomization  The map of the trained model beside those of models that lose their training stage
               by stage, and beside that of another class.
intervals      Relevance in P, QRS, T and the rest of LUDB's real ECGs, marked by cardiologists.
               Its leads are rescaled to 1 mV each; the models have seen synthetic records only.
cost           CPU time on one thread in forward passes of the same batch, all methods in turn.

Each run, one method with one seed in one part, leaves its arrays in runs/explain; what is there is
not repeated. A part is kept in results/explain_arrays, with the seeds that have run with all of
its methods, and scored from there: ``--recompute`` makes every number again without a model.
Intervals: 1,000 bootstrap draws over patients; what the seeds vary by is added. Differences
between methods are those on the same seeds and records, with the same draws for both.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import explain_scores as scores
import ludb
import numpy as np
import run_ladder
import torch
from explain_measures import (
    BEATS,
    Chosen,
    Judged,
    completed,
    localized,
    perturbed,
    randomized,
    shared_out,
    timed,
)
from explain_methods import ABLATION, BASELINES, METHODS, NO_RULE, RULES, WINDOW, settings
from provenance import provenance

from ecgbook import data, ladder, synthetic
from ecgbook.labels import RHYTHMS
from ecgbook.storage import read_safetensors, write_json, write_safetensors
from ecgbook.training import Bundle, fingerprint

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "explain.json"
RUNS = HERE.parent / "runs" / "explain"
ARRAYS = HERE / "results" / "explain_arrays"
STEPS = run_ladder.STEPS
SEEDS = run_ladder.SEEDS
TARGETS = ("PAC", "PVC", "AFL", "AF", "SR")
"""Of a record's labels, the first in this order is explained."""
PROTOCOL = {
    "window": WINDOW,
    "per_lead": False,
    "replacement": "zero",
    "order": "signed",
    "steps": 20,
}
STAGES = ["head", "norm", "attention", "feed_forwards", "blocks", "fusion", "branches", "stem"]


def target_of(labels: np.ndarray) -> str | None:
    """Return which label of a record is explained; None if it has none of the five."""
    return next((name for name in TARGETS if labels[RHYTHMS.index(name)] > 0), None)


def choose(rhythms: tuple[str, ...], n_each: int) -> Chosen:
    """Return the first records of the synthetic test part with each target, n of each."""
    left, found = dict.fromkeys(rhythms, n_each), []
    test = synthetic.iter_records(seed=run_ladder.synthetic_seed("test"))
    for record in islice(test, run_ladder.N_SYNTHETIC["test"]):
        if not any(left.values()):
            break
        target = target_of(record.labels)
        if left.get(target, 0):
            left[target] -= 1
            found.append(record)
    if any(left.values()):
        raise ValueError(f"{left} records too few found, {n_each} of each wanted: choose fewer")
    return prepared(found)


def marked() -> Chosen:
    """Return LUDB's records."""
    folder = data.data_folder()
    if folder is None:
        raise SystemExit("ECGBOOK_DATA is not set: real records wanted, or --parts without them")
    return prepared(ludb.read(folder))


def prepared(source: list) -> Chosen:
    """Prepare records and name their targets."""
    target = np.array([RHYTHMS.index(target_of(record.labels)) for record in source])
    return Chosen(data.from_records(source, STEPS), target, source)


@dataclass(frozen=True)
class Part:
    """A part of the experiment: which methods are measured how, on what, and how it is scored."""

    choose: Callable[[], Chosen]
    methods: Mapping[str, object]
    measure: Callable[..., dict[str, np.ndarray]]
    score: Callable[[dict, Judged], dict]
    protocol: dict = field(default_factory=dict)
    seeds: tuple[int, ...] = SEEDS


EVEN = partial(choose, RHYTHMS, 12)
TWO = {name: METHODS[name] for name in ("gradient x input", "MambaLRP")}
PARTS = {
    "faithfulness": Part(EVEN, METHODS, perturbed, scores.faithfulness, PROTOCOL),
    "sensitivity": Part(
        EVEN,
        METHODS,
        perturbed,
        scores.faithfulness,
        {**PROTOCOL, "replacement": "interpolate"},
        SEEDS[:1],
    ),
    "ablation": Part(EVEN, ABLATION, perturbed, scores.faithfulness, PROTOCOL),
    "localization": Part(
        partial(choose, tuple(BEATS), 40),
        METHODS,
        localized,
        scores.localization,
        {"tolerance": round(0.1 * STEPS.fs_hz)},
    ),
    "completeness": Part(
        EVEN,
        RULES | NO_RULE,
        completed,
        scores.completeness,
    ),
    "randomization": Part(
        partial(choose, RHYTHMS, 4),
        TWO,
        randomized,
        scores.randomization,
        {"stages": STAGES, "bins": 100},
    ),
    "intervals": Part(
        marked,
        {
            "time": lambda model, x, target, mask: torch.ones_like(x),
            "energy": lambda model, x, target, mask: x.square(),
            **TWO,
            "MambaLRP, flat input": METHODS["MambaLRP, flat input"],
        },
        shared_out,
        scores.intervals,
    ),
    "cost": Part(
        EVEN,
        {"all in turn": METHODS},
        timed,
        scores.cost,
        {"batch": 8, "rounds": 7},
        SEEDS[:1],
    ),
}


def run_file(part: str, method: str, seed: int) -> Path:
    """Return the file of one run, such as ``faithfulness-gradient-x-input-0.safetensors``."""
    return RUNS / f"{re.sub(r'[^A-Za-z0-9]+', '-', f'{part}-{method}-{seed}')}.safetensors"


def task(part: str, method: str, bundle: Bundle, chosen: Chosen) -> dict:
    """Say what a run does, as its file does: a run of another task is not reused."""
    return {
        "part": part,
        "method": method,
        "settings": settings(PARTS[part].methods[method]),
        "protocol": PARTS[part].protocol,
        "recipe": bundle.card["recipe"],
        "valid_auroc": [row["valid_auroc"] for row in bundle.card["epochs"]],
        "targets": [RHYTHMS[number] for number in chosen.target],
        "data_sha256": fingerprint(chosen.records),
    }


def stored(file: Path, wanted: dict) -> tuple[dict[str, np.ndarray], float] | None:
    """Return arrays and minutes of a run; None if it is not there, or had another task."""
    if not file.is_file():
        return None
    tensors, header = read_safetensors(file)
    if header["task"] != wanted:
        return None
    return {name: tensors[name].numpy() for name in header["names"]}, header["minutes"]


def run(part: str, method: str, seed: int, bundle: Bundle, chosen: Chosen) -> None:
    """Make a run that is not there yet."""
    file, about = run_file(part, method, seed), task(part, method, bundle, chosen)
    if stored(file, about) is not None:
        return
    print(f"{part}: {method}, seed {seed}", flush=True)
    torch.manual_seed(1000 + seed)  # not that of the training: fresh models are not its first ones
    start = time.thread_time()
    each = PARTS[part]
    found = each.measure(chosen, bundle.model, each.methods[method], **each.protocol)
    tensors = {name: torch.from_numpy(np.asarray(values)) for name, values in found.items()}
    minutes = (time.thread_time() - start) / 60
    header = {"task": about, "names": list(tensors), "minutes": minutes}
    write_safetensors(file, tensors, header)


def gather(name: str, chosen: Chosen, bundles: dict[int, Bundle]) -> None:
    """Keep the arrays of a part, of all seeds that ran with all of its methods.

    What has more than one number a record is kept in half precision.
    """
    part, tensors, minutes, seeds = PARTS[name], {}, 0.0, []
    for seed in part.seeds:
        found = {
            method: stored(run_file(name, method, seed), task(name, method, bundles[seed], chosen))
            for method in part.methods
        }
        missing = [method for method, each in found.items() if each is None]
        if missing:
            print(f"{name}, seed {seed}: left out, not run with {', '.join(missing)}")
            continue
        seeds.append(seed)
        for method, (arrays, took) in found.items():
            minutes += took
            for key, values in arrays.items():
                kind = np.float16 if values.ndim > 1 else values.dtype
                tensors[f"{method}|{seed}|{key}"] = torch.from_numpy(values.astype(kind))
    if not seeds:
        return
    groups = np.unique(chosen.records.groups, return_inverse=True)[1]
    tensors |= {"target": torch.from_numpy(chosen.target), "groups": torch.from_numpy(groups)}
    header = {
        "names": list(tensors),
        "protocol": part.protocol,
        "settings": {method: settings(each) for method, each in part.methods.items()},
        "seeds": seeds,
        "minutes": minutes,
        "provenance": provenance(
            f"python experiments/run_explain.py --parts {name}",
            data_sha256=fingerprint(chosen.records),
        ),
    }
    write_safetensors(arrays_file(name), tensors, header)


def arrays_file(part: str) -> Path:
    """Return the file of what was measured in a part."""
    return ARRAYS / f"{part}.safetensors"


def score_part(name: str) -> dict:
    """Score what was kept of a part."""
    tensors, header = read_safetensors(arrays_file(name))
    arrays = {key: tensors[key].numpy() for key in header["names"]}
    judged = Judged(arrays.pop("target"), arrays.pop("groups"))
    runs: dict[str, list[dict]] = {}
    for key, values in arrays.items():
        method, seed, what = key.split("|")
        each = runs.setdefault(method, [{} for _ in header["seeds"]])
        exact = values.astype(np.float64) if values.dtype == np.float16 else values
        each[header["seeds"].index(int(seed))][what] = exact
    targets = {rhythm: int((judged.target == k).sum()) for k, rhythm in enumerate(RHYTHMS)}
    return {
        "records": len(judged.target),
        "targets": targets,
        **{key: header[key] for key in ("protocol", "settings", "seeds", "minutes")},
        **PARTS[name].score(runs, judged),
        "provenance": header["provenance"],
    }


def write_results() -> None:
    """Score the parts that were kept, and write them and what was aimed at."""
    results = {name: score_part(name) for name in PARTS if arrays_file(name).is_file()}
    results["goals"] = scores.goals(results, list(BASELINES))
    print(write_json(RESULT, results))


def main() -> None:
    """Make the runs that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = list(dict.fromkeys(name for part in PARTS.values() for name in part.methods))
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--seeds", type=int, choices=SEEDS, nargs="+", default=SEEDS)
    parser.add_argument("--methods", choices=known, nargs="*", default=known)
    parser.add_argument("--recompute", action="store_true", help="run nothing, score again")
    options = parser.parse_args()
    if options.recompute:
        write_results()
        return
    torch.set_num_threads(1)
    bundles = {s: run_ladder.trained_on_synthetic(ladder.WHOLE, s, {}) for s in SEEDS}
    records = {name: PARTS[name].choose() for name in options.parts}
    for name, chosen in records.items():
        for seed in [seed for seed in PARTS[name].seeds if seed in options.seeds]:
            for method in [each for each in PARTS[name].methods if each in options.methods]:
                run(name, method, seed, bundles[seed], chosen)
    for name, chosen in records.items():
        gather(name, chosen, bundles)
    write_results()


if __name__ == "__main__":
    main()
