"""What the databases' codes say about the five rhythms, under each label policy.

Writes ``experiments/results/labels.json``. Run as
``ECGBOOK_DATA=<folder> python experiments/label_counts.py``.

Each distinct recording counts once. A patient counts where any recording of theirs does, so a
patient can stand in several columns; where no patient is known, a recording counts as one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from provenance import provenance

from ecgbook import models
from ecgbook.data import ECGDataset, data_folder, from_folder, read_manifest
from ecgbook.labels import NOT_SINUS, POLICIES, RHYTHMS, SINUS
from ecgbook.storage import write_json
from ecgbook.training import fingerprint

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "labels.json"
STEPS = models.PREPROCESSING["tutorial"]
SR = RHYTHMS.index("SR")
NARROW = "426783006"


def size(records: ECGDataset, chosen: np.ndarray) -> dict[str, int]:
    """Count the recordings that are chosen, and their patients."""
    return {"recordings": int(chosen.sum()), "patients": len(np.unique(records.groups[chosen]))}


def by_database(records: ECGDataset) -> dict[str, dict]:
    """Count what is 1, 0 and unknown of each rhythm, in every database and in all of them."""
    known, one = records.y_mask, records.y > 0
    states = {"1": known & one, "0": known & ~one, "unknown": ~known}
    places = {"all": np.ones(len(records), bool)} | {
        str(name): records.databases == name for name in np.unique(records.databases)
    }
    return {
        place: {
            rhythm: {state: size(records, here & each[:, k]) for state, each in states.items()}
            for k, rhythm in enumerate(RHYTHMS)
        }
        for place, here in places.items()
    }


def who_leads(codes: set[str]) -> str:
    """Say what the codes of a record that is not SR under ``extended`` say about who leads."""
    if not codes.isdisjoint(SINUS):
        return "sinus under another name"
    return "another rhythm" if not codes.isdisjoint(NOT_SINUS) else "no rhythm code"


def not_sr(records: ECGDataset, codes: list[set[str]]) -> dict[str, dict]:
    """Count why a recording has no SR under ``extended``, by database."""
    said = np.array([who_leads(each) for each in codes])
    chosen = records.y[:, SR] == 0
    reasons = ("no rhythm code", "sinus under another name", "another rhythm")
    places = {"all": chosen} | {
        str(name): chosen & (records.databases == name) for name in np.unique(records.databases)
    }
    return {
        place: size(records, here) | {why: size(records, here & (said == why)) for why in reasons}
        for place, here in places.items()
    }


def other_names(records: ECGDataset, codes: list[set[str]]) -> dict[str, dict[str, list[int]]]:
    """Count recordings with another name of sinus rhythm: those with 426783006 beside it, and not.

    Where both stand together, one does not exclude the other.
    """
    found: dict[str, dict[str, list[int]]] = {}
    for code, name in SINUS.items():
        if code == NARROW:
            continue
        found[name] = {}
        for place in np.unique(records.databases):
            beside = [
                NARROW in c
                for c, d in zip(codes, records.databases, strict=True)
                if d == place and code in c
            ]
            if beside:
                found[name][str(place)] = [sum(beside), len(beside) - sum(beside)]
    return found


def load(folder: Path) -> dict[str, ECGDataset]:
    """Return the distinct recordings with the labels of each policy."""
    return {p: from_folder(folder, STEPS, p, progress=False).distinct() for p in POLICIES}


def count(folder: Path, sets: dict[str, ECGDataset]) -> dict:
    """Count everything."""
    rows = {f"{row['folder']}/{row['record']}": row["snomed"] for row in read_manifest(folder)}
    extended = sets["extended"]
    codes = [set(rows[str(name)].split(";")) - {""} for name in extended.names]
    return {
        "recordings": len(extended),
        "patients": len(np.unique(extended.groups)),
        "without_a_code": size(extended, np.array([not each for each in codes])),
        "policies": {policy: by_database(records) for policy, records in sets.items()},
        "afl_marked": size(extended, extended.y[:, RHYTHMS.index("AFL")] > 0),
        "not_sr": not_sr(extended, codes),
        "with_sr_beside_and_without": other_names(extended, codes),
    }


def main() -> None:
    """Count, and write the result."""
    folder = data_folder()
    if folder is None:
        raise SystemExit("ECGBOOK_DATA is not set: the folder of real ECGs wanted")
    sets = load(folder)
    made_with = provenance(
        "python experiments/label_counts.py",
        data_sha256={policy: fingerprint(records) for policy, records in sets.items()},
        preprocessing=STEPS.to_dict(),
    )
    print(write_json(RESULT, {"provenance": made_with} | count(folder, sets)))


if __name__ == "__main__":
    main()
