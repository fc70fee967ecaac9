"""What a split by record claims on real ECGs, beside a split by patient.

Writes ``experiments/results/leakage.json``. Run as
``ECGBOOK_DATA=<folder> python experiments/leakage.py``.

The same five-fold cross-validation of the same forest runs twice for each seed: with the groups
of the data set, which join the records of one patient and all copies of a recording, and with
every record as a group of its own. Out-of-fold predictions are scored together. Intervals: 1,000
bootstrap draws over the groups and the seeds; those of single seeds are over the groups alone.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from provenance import provenance
from sklearn.ensemble import RandomForestClassifier

from ecgbook.data import ECGDataset, data_folder, from_folder, patient_folds
from ecgbook.labels import RHYTHMS
from ecgbook.leads import INDEPENDENT, index
from ecgbook.metrics import auroc, bootstrap, paired_bootstrap
from ecgbook.signals import Preprocessing
from ecgbook.storage import write_json
from ecgbook.training import fingerprint

HERE = Path(__file__).resolve().parent
STEPS = Preprocessing(fs_hz=100, n_samples=1000, band_hz=(0.5, 40))
SEEDS = range(5)


def spectrum(x: np.ndarray) -> np.ndarray:
    """Reduce signals (n, 1000, 12) at 100 Hz to log amplitudes (n, 200): 25 bands of 1 Hz, 8 leads.

    The features of chapter 2.
    """
    amplitude = np.abs(np.fft.rfft(x[..., index(INDEPENDENT)], axis=1))
    bands = amplitude[:, 5:255].reshape(len(x), 25, 10, 8).mean(axis=2)
    return np.log(bands + 0.01).reshape(len(x), -1)


def out_of_fold(records: ECGDataset, features: np.ndarray, seed: int) -> np.ndarray:
    """Predict every record by a forest that did not see its fold: (n, 5)."""
    p = np.zeros(records.y.shape)
    for train, test in patient_folds(records, n_folds=5, seed=seed):
        forest = RandomForestClassifier(100, random_state=seed, n_jobs=2)
        forest.fit(features[train], records.y[train])
        p[test] = np.stack([each[:, 1] for each in forest.predict_proba(features[test])], axis=1)
    return p


def main() -> None:
    """Measure, and write the result."""
    folder = data_folder()
    if folder is None:
        raise SystemExit("ECGBOOK_DATA is not set: the folder of real ECGs wanted")
    records = from_folder(folder, STEPS)
    made_with = provenance(
        "python experiments/leakage.py",
        seeds=list(SEEDS),
        data_sha256=fingerprint(records),
        preprocessing=STEPS.to_dict(),
    )
    apart = replace(records, groups=np.arange(len(records)))
    features = spectrum(np.asarray(records.x))
    pairs = [[out_of_fold(each, features, seed) for each in (apart, records)] for seed in SEEDS]
    by_record, by_patient = (np.stack(each) for each in zip(*pairs, strict=True))
    shared = dict(groups=records.groups, mask=records.y_mask, average=True)

    def scored(seeds: slice | int) -> dict[str, list[float]]:
        one, other = by_record[seeds], by_patient[seeds]
        found = {
            "by_record": bootstrap(auroc, records.y, one, **shared),
            "by_patient": bootstrap(auroc, records.y, other, **shared),
            "difference": paired_bootstrap(auroc, records.y, other, one, **shared),
        }
        return {name: interval.as_list() for name, interval in found.items()}

    size = np.unique(records.groups, return_counts=True)[1]
    result = {
        "provenance": made_with,
        "records": len(records),
        "recordings": len(np.unique(records.copies)),
        "recordings_by_rhythm": dict(zip(RHYTHMS, records.distinct().y.sum(axis=0), strict=True)),
        "groups": len(size),
        "records_with_a_relative": int(size[size > 1].sum()),
        "scored_positives": (records.y * records.y_mask).sum(axis=0),
        "macro_auroc": scored(slice(None)),
        "macro_auroc_by_seed": [scored(number) for number in range(len(SEEDS))],
    }
    print(write_json(HERE / "results" / "leakage.json", result))


if __name__ == "__main__":
    main()
