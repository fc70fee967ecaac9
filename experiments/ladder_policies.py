"""Judge the ladder's kept predictions of real records by the labels of every policy.

    ECGBOOK_DATA=<folder> python experiments/ladder_policies.py   # also keeps the labels
    python experiments/ladder_policies.py                         # by the labels that were kept

Writes ``experiments/results/ladder_policies.json``. Nothing is trained: the models have learned the
labels of the policy that ``experiments/run_ladder.py`` names, and only what they are judged by
changes. Without that policy's thresholds there are no calls, so only scores of probabilities are
here. Rules and reasons: ``experiments/plan.md``.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from provenance import provenance
from run_ladder import (
    POLICY,
    RESULT,
    STEPS,
    WITHOUT_AFL,
    Labels,
    Run,
    change,
    compared_with,
    finished,
    keep_labels,
    labels_file,
    read_labels,
    rungs_of,
)

from ecgbook.data import data_folder, from_folder
from ecgbook.labels import POLICIES
from ecgbook.metrics import auroc, bootstrap
from ecgbook.storage import read_safetensors, write_json
from ecgbook.training import evaluate

TARGET = RESULT.with_name("ladder_policies.json")
SOURCES = ("real", "synthetic to real", "fine-tuned")


def keep(folder: Path, policy: str) -> None:
    """Write the labels of a policy, for the records and in the order of the predictions."""
    records = from_folder(folder, STEPS, policy, progress=False).distinct()
    names = read_safetensors(labels_file("real"))[1]["names"]
    if names != [str(name) for name in records.names]:
        raise ValueError(
            f"{folder}: other records found than the {len(names)} that were predicted; make the "
            "predictions again with run_ladder.py"
        )
    keep_labels("real", records, policy)


def judged(runs: list[Run], labels: Labels) -> dict:
    """Score the runs of a rung, one a seed."""
    p = np.stack([run.probabilities for run in runs])
    drawn = bootstrap(auroc, labels.y, p, groups=labels.groups, mask=labels.y_mask)
    without = {"auroc_without_afl": {"macro": drawn.average(WITHOUT_AFL).as_list()}}
    return evaluate(labels, p, None) | without | {"seeds": len(runs)}


def rows(source: str, labels: Labels) -> dict[str, dict]:
    """Score every rung of one way to train and test, and its change to what it is compared with."""
    committed = json.loads(RESULT.read_text())["rows"]
    runs = {}
    for rung in rungs_of(source):
        sha256 = committed[rung.name][source]["provenance"]["data_sha256"]
        runs[rung.name] = finished(rung, source, sha256)
        if runs[rung.name] is None:
            raise ValueError(f"{rung.name}, {source}: runs of some seeds are missing")
    found = {}
    for rung in rungs_of(source):
        found[rung.name] = judged(runs[rung.name], labels)
        for name, before in compared_with(rung, source).items():
            found[rung.name][name] = change(runs[before.name], runs[rung.name], labels)
        print(f"{rung.name}, {source}: judged", flush=True)
    return found


def main() -> None:
    """Judge, and write the result."""
    made_with = provenance("python experiments/ladder_policies.py", trained_under=POLICY)
    for policy in POLICIES:
        if (folder := data_folder()) is not None and policy != POLICY:
            keep(folder, policy)
    found = {
        policy: {source: rows(source, read_labels("real", policy)) for source in SOURCES}
        for policy in POLICIES
    }
    print(write_json(TARGET, {"provenance": made_with, "policies": found}))


if __name__ == "__main__":
    main()
