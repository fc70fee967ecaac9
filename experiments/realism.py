"""How real the synthetic ECGs look: tables beside real records, and a judge that tells them apart.

Writes ``experiments/results/realism.json``. Run as
``ECGBOOK_DATA=<folder> python experiments/realism.py``.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from provenance import provenance
from scipy import signal, stats
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ecgbook.labels import RHYTHMS, multi_hot
from ecgbook.leads import INDEPENDENT, LEADS, index
from ecgbook.records import read_record
from ecgbook.storage import write_json
from ecgbook.synthetic import SCENARIOS, make_records

FS_HZ = 100
SECONDS = 10
BANDS_HZ = ((0.5, 4), (4, 8), (8, 15), (15, 25), (25, 40))
PERCENTILES = (5, 25, 50, 75, 95)
INDEPENDENT_COLUMNS = index(INDEPENDENT)


def prepare(signal_mv: np.ndarray, fs_hz: float) -> np.ndarray:
    """Bring the first 10 s to 100 Hz and 0.5 to 40 Hz: (samples, 12) mV to (1000, 12)."""
    x = np.nan_to_num(signal_mv[: int(SECONDS * fs_hz)].astype(np.float64))
    if fs_hz != FS_HZ:
        x = signal.resample_poly(x, FS_HZ, int(fs_hz), axis=0)
    sos = signal.butter(2, (0.5, 40), "bandpass", fs=FS_HZ, output="sos")
    return signal.sosfiltfilt(sos, x, axis=0)


def r_peaks(x: np.ndarray) -> np.ndarray:
    """Find QRS complexes in a prepared signal (1000, 12): peaks of the 8 to 25 Hz energy."""
    sos = signal.butter(2, (8, 25), "bandpass", fs=FS_HZ, output="sos")
    energy = np.sqrt((signal.sosfiltfilt(sos, x[:, INDEPENDENT_COLUMNS], axis=0) ** 2).sum(1))
    energy = np.convolve(energy, np.ones(6) / 6, "same")
    height = 0.35 * np.percentile(energy, 98)
    return signal.find_peaks(energy, height=height, distance=int(0.25 * FS_HZ))[0]


def measure(x: np.ndarray) -> dict[str, float]:
    """Describe a prepared signal (1000, 12) by about forty numbers."""
    eight = x[:, INDEPENDENT_COLUMNS]
    out = {f"rms_{lead}": float(eight[:, j].std()) for j, lead in enumerate(INDEPENDENT)}
    for j, lead in enumerate(LEADS):
        out[f"high_{lead}"] = float(np.percentile(np.abs(x[:, j]), 99.9))
    shares = np.cumsum(np.linalg.svd(eight, compute_uv=False) ** 2)
    for rank in (1, 2, 3):
        out[f"rank_{rank}"] = float(shares[rank - 1] / shares[-1])
    hz, power = signal.welch(eight, FS_HZ, nperseg=400, axis=0)
    for name, columns in (("all", slice(None)), ("II", [1]), ("V1", [2])):
        p = power[:, columns].sum(1)
        total = p[(hz >= 0.5) & (hz < 40)].sum()
        for low, high in BANDS_HZ:
            share = p[(hz >= low) & (hz < high)].sum() / total
            out[f"band_{low}_{high}_{name}"] = float(share)
    out["kurtosis_II"] = float(stats.kurtosis(x[:, 1]))
    out["kurtosis_V3"] = float(stats.kurtosis(x[:, 8]))
    speed = np.abs(np.diff(eight, axis=0)).mean(1)
    out["quiet"] = float(np.percentile(speed, 20))
    out["quick"] = float(np.percentile(speed, 98) / np.median(speed))
    rr_s = np.diff(r_peaks(x)) / FS_HZ
    out["rr_mean"] = float(rr_s.mean()) if len(rr_s) else 0.0
    out["rr_cv"] = float(rr_s.std() / rr_s.mean()) if len(rr_s) > 2 else 0.0
    return out


def read_real(folder: Path) -> tuple[list[dict], str]:
    """Read the real records of 10 s or more, each recording once, and a hash of what was read."""
    rows, digest, seen = [], hashlib.sha256(), set()
    with open(folder / "manifest.csv", newline="") as file:
        manifest = list(csv.DictReader(file))
    for row in manifest:
        if row["same_ecg_as"] or row["flat_leads"]:
            continue
        record = read_record(folder / row["folder"] / row["record"])
        if record.duration_s < SECONDS or np.isnan(record.signal_mv).any():
            continue
        own = hashlib.sha256(np.ascontiguousarray(record.signal_mv)).digest()
        if own in seen:
            continue
        seen.add(own)
        digest.update(own)
        marked = [r for r, y in zip(RHYTHMS, multi_hot(record.codes), strict=True) if y]
        rows.append(
            {
                "scenario": "+".join(marked) or "none",
                "database": row["database"],
                "patient": row["patient"] or f"{row['folder']}/{row['record']}",
                "features": measure(prepare(record.signal_mv, record.fs_hz)),
            }
        )
    return rows, digest.hexdigest()


def make_synthetic(like: list[dict], seed: int) -> list[dict]:
    """Make as many synthetic records, with the same mix of rhythms."""
    mix = Counter(row["scenario"] for row in like)
    records = make_records(len(like), seed=seed, fs_hz=500, seconds=SECONDS, mix=mix)
    return [
        {
            "scenario": record.rhythm,
            "database": "synthetic",
            "patient": record.patient,
            "features": measure(prepare(record.signal_mv, record.fs_hz)),
        }
        for record in records
    ]


def judge(negative: list[dict], positive: list[dict], kind: str, seed: int) -> dict:
    """Tell two sets apart, five folds by patient; AUROC with a 95 % interval over patients."""
    rows = negative + positive
    x = np.array([list(row["features"].values()) for row in rows])
    y = np.repeat([0, 1], [len(negative), len(positive)])
    patients = np.unique([row["patient"] for row in rows], return_inverse=True)[1]
    scores = np.zeros(len(y))
    folds = StratifiedGroupKFold(n_splits=5, shuffle=True, random_state=seed)
    for train, test in folds.split(x, y, patients):
        if kind == "boosting":
            model = HistGradientBoostingClassifier(max_iter=150, random_state=seed)
        else:
            model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        scores[test] = model.fit(x[train], y[train]).predict_proba(x[test])[:, 1]
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(patients == p) for p in range(patients.max() + 1)]
    draws = []
    for _ in range(500):
        chosen = rng.integers(len(members), size=len(members))
        drawn = np.concatenate([members[p] for p in chosen])
        draws.append(roc_auc_score(y[drawn], scores[drawn]))
    low, high = np.percentile(draws, [2.5, 97.5])
    return {
        "auroc": round(roc_auc_score(y, scores), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "n": [len(negative), len(positive)],
    }


def table(rows: list[dict], rhythm: str | None = None) -> dict:
    """Tabulate percentiles of every number, over all rows or over those of one scenario."""
    kept = [r["features"] for r in rows if rhythm is None or r["scenario"] == rhythm]
    if not kept:
        return {"n": 0}
    out = {"n": len(kept), "percentiles": list(PERCENTILES)}
    for name in kept[0]:
        out[name] = [round(v, 5) for v in np.percentile([k[name] for k in kept], PERCENTILES)]
    return out


def main() -> None:
    """Measure, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=2021)
    default = Path(__file__).parent / "results" / "realism.json"
    parser.add_argument("--out", type=Path, default=default)
    args = parser.parse_args()
    if not os.environ.get("ECGBOOK_DATA"):
        sys.exit("ECGBOOK_DATA is not set, the folder of real ECGs wanted")
    everything, data_sha256 = read_real(Path(os.environ["ECGBOOK_DATA"]))
    made_with = provenance(
        "ECGBOOK_DATA=<folder> python experiments/realism.py"
        + (f" --seed {args.seed}" if args.seed != 2021 else ""),
        seed=args.seed,
        data_sha256=data_sha256,
    )
    real = [row for row in everything if row["scenario"] in SCENARIOS]
    synthetic = make_synthetic(real, args.seed)
    databases = [d for d, n in Counter(r["database"] for r in real).items() if n >= 40]
    judged = {"all": {k: judge(real, synthetic, k, args.seed) for k in ("boosting", "logistic")}}
    between = {}
    for database in databases:
        inside = [r for r in real if r["database"] == database]
        outside = [r for r in real if r["database"] != database]
        alike = make_synthetic(inside, args.seed + 1)
        judged[database] = {"boosting": judge(inside, alike, "boosting", args.seed)}
        between[database] = judge(outside, inside, "boosting", args.seed)
    result = {
        "what": "synthetic beside real ECGs, first 10 s, 100 Hz, 0.5-40 Hz, in mV",
        "provenance": made_with,
        "records": dict(Counter(r["database"] for r in real)),
        "left_out": dict(Counter(r["scenario"] for r in everything if r not in real)),
        "mix": dict(Counter(r["scenario"] for r in real)),
        "judge": {
            "synthetic_against_real": judged,
            "one_real_database_against_the_others": between,
            "note": "AUROC of 5 folds by patient, 95 % interval over patients; 0.5: not told apart",
        },
        "tables": {
            "real": table(real),
            "synthetic": table(synthetic),
            "rr_cv": {
                s: {"real": table(real, s).get("rr_cv"), "synthetic": table(synthetic, s)["rr_cv"]}
                for s in ("SR", "AF", "AFL", "SR+PAC", "SR+PVC")
            },
        },
    }
    write_json(args.out, result)
    print(json.dumps(result["judge"], indent=1))


if __name__ == "__main__":
    main()
