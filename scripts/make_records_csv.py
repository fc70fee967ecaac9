"""Make experiments/records.csv, the list of the book's real records, from a data folder's manifest.

Run from the repository: ``python scripts/make_records_csv.py $ECGBOOK_DATA/manifest.csv``.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

# Folder of the manifest: project and version at PhysioNet. Folders that are not named here hold
# records in a form that PhysioNet does not publish, and are left out.
PROJECTS = {
    "challenge2021": "challenge-2021/1.0.3",
    "ptbxl100": "ptb-xl/1.0.3",
    "ptbxl500": "ptb-xl/1.0.3",
    "ludb": "ludb/1.0.1",
}
# What is known about a copy, not about the recording.
LOCAL = ("source_repo", "source_path", "source_commit", "note")


def main() -> None:
    """Read the manifest, write the list and say what was left out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path)
    default = Path(__file__).resolve().parents[1] / "experiments" / "records.csv"
    parser.add_argument("--output", type=Path, default=default)
    args = parser.parse_args()

    with args.manifest.open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    facts = [c for c in reader.fieldnames if c not in (*LOCAL, "record", "folder", "database")]
    kept = [row | {"project": PROJECTS[row["folder"]]} for row in rows if row["folder"] in PROJECTS]
    kept.sort(key=lambda row: (row["folder"], row["record"]))
    with args.output.open("w", newline="") as file:
        columns = ["record", "folder", "database", "project", *facts]
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
    left = sorted({row["folder"] for row in rows} - set(PROJECTS))
    print(f"{len(kept)} of {len(rows)} records in {args.output}; folders left out: {left}")


if __name__ == "__main__":
    main()
