"""Time an epoch from the cache against the same records through wfdb, and synthetic records.

    ECGBOOK_DATA=... python benchmarks/data.py

Both sides alternate in one run; medians of three.
"""

from __future__ import annotations

import time

import numpy as np
import wfdb

from ecgbook.data import data_folder, from_folder, from_records, read_manifest
from ecgbook.models import PREPROCESSING
from ecgbook.synthetic import make_records

STEPS = PREPROCESSING["tutorial"]


def seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    folder = data_folder()
    if folder is None:
        raise SystemExit("ECGBOOK_DATA is not set: real records wanted")
    dataset = from_folder(folder, STEPS)
    rows = read_manifest(folder)
    some = np.random.default_rng(0).choice(len(rows), 200, replace=False)

    def through_wfdb():
        for i in some:
            raw = wfdb.rdrecord(str(folder / rows[i]["folder"] / rows[i]["record"]))
            STEPS(raw.p_signal, raw.fs)

    def from_cache():
        for _ in dataset.subset(some).loader(32, shuffle=True):
            pass

    def from_synthetic():
        from_records(make_records(200), STEPS)

    names = {"wfdb, prepared": through_wfdb, "cache": from_cache, "synthetic": from_synthetic}
    times = {name: [] for name in names}
    for _ in range(3):
        for name, work in names.items():
            times[name].append(seconds(work))
    print(f"{'source':18}{'records/s':>12}{'ratio to wfdb':>16}")
    reference = np.median(times["wfdb, prepared"])
    for name, values in times.items():
        median = np.median(values)
        print(f"{name:18}{len(some) / median:12.0f}{reference / median:16.2f}")


if __name__ == "__main__":
    main()
