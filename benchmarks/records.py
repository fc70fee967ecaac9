"""Speed of `read_record` against the wfdb calls it builds on and guards.

Run ``python benchmarks/records.py`` from the repository's root, with the environment variable
ECGBOOK_DATA naming a folder of records. The readers take turns on every record, so that a busy
machine slows all of them alike.
"""

import os
import sys
import time
from pathlib import Path
from statistics import median

import wfdb

from ecgbook.records import read_record

N_RECORDS = 150
READERS = {
    "ecgbook read_record": lambda stem: read_record(stem),
    "wfdb.rdrecord": lambda stem: wfdb.rdrecord(stem),
    "wfdb.rdheader": lambda stem: wfdb.rdheader(stem),
}


def main() -> None:
    folder = os.environ.get("ECGBOOK_DATA")
    if not folder:
        sys.exit("ECGBOOK_DATA is not set: name a folder of WFDB records")
    stems = sorted(str(path.with_suffix("")) for path in Path(folder).glob("*/*.hea"))
    stems = stems[:: max(1, len(stems) // N_RECORDS)]
    times_s = {name: [] for name in READERS}
    for stem in stems:
        for read in READERS.values():  # first read: fills the disk cache, not measured
            read(stem)
        for name, read in READERS.items():
            start = time.perf_counter()
            read(stem)
            times_s[name].append(time.perf_counter() - start)
    reference = median(times_s["wfdb.rdrecord"])
    print(f"{len(stems)} records, warm, median; wfdb {wfdb.__version__}")
    print(f"{'reader':<22}{'ms/record':>10}{'records/s':>11}{'time vs wfdb.rdrecord':>23}")
    for name, values in times_s.items():
        typical = median(values)
        print(f"{name:<22}{1e3 * typical:>10.2f}{1 / typical:>11.0f}{typical / reference:>23.2f}")


if __name__ == "__main__":
    main()
