"""Give robust.json intervals over patients and seeds, as far as it allows: an approximation.

    python experiments/widen_robust.py

The runs in robust.json kept no predictions, so `ecgbook.metrics.bootstrap` cannot be run.
What the file had were bounds over patients, averaged over the seeds, which is an interval of
nothing. Here they count as the patients' part, and what the seeds' values vary by is added as
`ecgbook.metrics.bootstrap` adds it. Where the file has no values by seed, as for single
rhythms and F1, the bounds are taken away. The next run of ``experiments/run_robust.py`` keeps its
predictions, and makes this script superfluous.
"""

from __future__ import annotations

import json

import numpy as np
from run_robust import COMPARED, PARTS, RESULT, predictions_file

from ecgbook.metrics import add_seeds
from ecgbook.storage import write_json

SAYS = "patients and seeds, approximated by experiments/widen_robust.py"


def widened(interval: list[float], by_seed: list[float]) -> list[float]:
    """Add what the seeds vary by to an interval over patients.

    Parameters
    ----------
    interval : list of float
        Value, and bounds over patients.
    by_seed : list of float
        The value of each seed.

    Returns
    -------
    list of float
        The interval itself, if there is one seed.
    """
    value, low, high = interval
    return [value, *add_seeds(low, high, by_seed)]


def without_bounds(scores: dict) -> dict:
    """Leave the values of single rhythms and of F1 alone."""
    return {name: [values[0], None, None] for name, values in scores.items()}


def main() -> None:
    """Change the file; a file that was changed, or was made by a run since, is left as it is."""
    results = json.loads(RESULT.read_text())
    for source in ("synthetic", "real"):
        for part in PARTS:
            about = results[source][part]
            if "intervals" in about or predictions_file(source, part).is_file():
                raise SystemExit(f"{RESULT}, {source}, {part}: intervals over seeds found already")
            models = about["models"]
            for name, conditions in models.items():
                for condition, entry in conditions.items():
                    own = entry["auroc_by_seed"]
                    for after, before, says in COMPARED:
                        if after == name:
                            other = models[before][condition]["auroc_by_seed"]
                            entry[says] = widened(entry[says], list(np.subtract(own, other)))
                    macro = np.clip(widened(entry["auroc"]["macro"], own), 0, 1).tolist()
                    entry["auroc"] = without_bounds(entry["auroc"]) | {"macro": macro}
                    if len(own) > 1:
                        entry["f1"] = without_bounds(entry["f1"])
            about["intervals"] = SAYS
    print(write_json(RESULT, results))


if __name__ == "__main__":
    main()
