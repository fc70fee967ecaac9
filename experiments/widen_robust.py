"""Give robust.json intervals over patients and seeds, as far as it allows: an approximation.

    python experiments/widen_robust.py

The runs in robust.json kept no predictions, so `ecgbook.metrics.bootstrap` cannot draw their seeds.
What the file had were bounds over patients, averaged over the seeds, which is an interval of
nothing. Here their width counts as that of the patients' part, and the spread of the seeds'
values is added as the bootstrap adds it: variances add up, and the whole is stretched by Student's
t with Satterthwaite's degrees of freedom. Where the file has no values by seed, as for single
rhythms and F1, the bounds are taken away. The next run of ``experiments/run_robust.py`` keeps its
predictions, and makes this script superfluous.
"""

from __future__ import annotations

import json

import numpy as np
from run_robust import COMPARED, PARTS, RESULT, predictions_file
from scipy.stats import norm, t

from ecgbook.storage import write_json

SAYS = "patients and seeds, approximated by experiments/widen_robust.py"
Z = norm.ppf(0.975)


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
    n_seeds = len(by_seed)
    between = np.var(by_seed, ddof=1) / n_seeds if n_seeds > 1 else 0.0
    patients = ((high - low) / (2 * Z)) ** 2
    if not between or not patients:
        return interval
    total = patients + between
    freedom = (n_seeds - 1) * (total / between) ** 2
    stretch = t.ppf(0.975, freedom) / Z * np.sqrt(total / patients)
    return [value, value - stretch * (value - low), value + stretch * (high - value)]


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
                    macro = widened(entry["auroc"]["macro"], own)
                    entry["auroc"] = without_bounds(entry["auroc"]) | {"macro": macro}
                    if len(own) > 1:
                        entry["f1"] = without_bounds(entry["f1"])
            about["intervals"] = SAYS
    print(write_json(RESULT, results))


if __name__ == "__main__":
    main()
