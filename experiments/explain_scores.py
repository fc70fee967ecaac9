"""Scores of experiments/run_explain.py: arrays with one row a record become values with intervals.

Every function takes the runs, for each method its arrays of one seed after the other, and the
target and the patient of the records they were made on. A score is ``[value, low, high]``, for
every class and as ``macro``, the mean over the classes; ``by_seed`` holds the macro of each seed.
"""

from __future__ import annotations

import ludb
import numpy as np

from ecgbook.labels import RHYTHMS
from ecgbook.metrics import Interval, bootstrap

OURS = "MambaLRP"
REFERENCE = "gradient x input"
N_DRAWS = 1000
Runs = dict[str, list[dict[str, np.ndarray]]]
Rows = list[np.ndarray]
"""One value a record, for one seed after the other."""


def class_means(
    y: np.ndarray, p: np.ndarray, mask: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Average scores (n, k) over the records of each class: a metric for `bootstrap`."""
    weights = np.ones(len(y)) if weights is None else weights
    counts = weights @ mask
    total = weights @ np.where(mask, p, 0)
    return np.divide(total, counts, out=np.full(counts.shape, np.nan), where=counts > 0)


SHARE = (0.0, 1.0)
"""The range of what is a share, such as that of the records where a map points at a beat."""


def scored(rows: Rows, chosen, before: Rows | None = None, within=None) -> dict:
    """Average a value over the records of each target, with an interval over patients and seeds.

    Parameters
    ----------
    rows : list of ndarray, shape (records,)
        One a seed.
    chosen : explain_measures.Judged
    before : list of ndarray, optional
        What is taken off, record by record: the mean of these differences is the difference of
        the means, with the same draws for both.
    within : (float, float), optional
        Least and greatest value that there can be.
    """
    drawn = _drawn(rows if before is None else np.subtract(rows, before), chosen, within)
    return _written(drawn.average(), drawn, _members(chosen)[0])


def ratio(over: Rows, under: Rows, chosen) -> dict:
    """Divide the mean of one value by that of another, with the same draws for both."""
    a, b = (_drawn(values, chosen) for values in (over, under))
    macro = _quotient(a.average(), b.average())
    return _written(macro, _quotient(a, b), _members(chosen)[0])


def faithfulness(runs: Runs, chosen) -> dict:
    """Score the areas, MambaLRP's minus each other one, and average the curves."""
    areas = {name: [run["delta_area"] for run in each] for name, each in runs.items()}
    methods = {}
    for name, each in runs.items():
        methods[name] = {
            "delta_area": scored(areas[name], chosen),
            "curve": {
                key: np.mean([run[key].mean(0) for run in each], axis=0)
                for key in ("fraction", "most_first", "least_first")
            },
        }
        if name != OURS:
            methods[name]["mamba_lrp_minus"] = scored(areas[OURS], chosen, areas[name])
    curves = [run["most_first"] for run in runs[OURS]]
    return {
        "logit": {
            "intact": scored([curve[:, 0] for curve in curves], chosen),
            "all removed": scored([curve[:, -1] for curve in curves], chosen),
        },
        "methods": methods,
    }


def localization(runs: Runs, chosen) -> dict:
    """Score mass, rank and pointing, compare them with gradient x input and with chance.

    Five times chance can be reached only where chance is a fifth at most: such records are scored
    once more as ``"within reach"``.
    """
    rows = {
        name: {key: [run[key] for run in each] for key in each[0]} for name, each in runs.items()
    }
    chance = {key: rows[OURS][key] for key in ("chance", "chance of pointing")}
    reach = np.flatnonzero(chance["chance"][0] <= 0.2)
    few = chosen.subset(reach)
    methods = {}
    for name, each in rows.items():
        metrics = {key: each[key] for key in ("mass", "rank", "pointing")}
        methods[name] = {
            key: scored(values, chosen, within=SHARE) for key, values in metrics.items()
        }
        methods[name]["mass_over_chance"] = ratio(each["mass"], chance["chance"], chosen)
        methods[name]["mass_over_chance_within_reach"] = ratio(
            *([values[reach] for values in key] for key in (each["mass"], chance["chance"])), few
        )
        if name != REFERENCE:
            methods[name]["minus_gradient_x_input"] = {
                key: scored(values, chosen, rows[REFERENCE][key]) for key, values in metrics.items()
            }
    return {
        **{key: scored(values, chosen, within=SHARE) for key, values in chance.items()},
        "within reach": len(reach),
        "methods": methods,
    }


def completeness(runs: Runs, chosen) -> dict:
    """Sum up errors, and the shares of input and biases in the logit, over records and seeds."""
    found = {}
    for name, each in runs.items():
        error, logit = (np.concatenate([run[key] for run in each]) for key in ("error", "logit"))
        found[name] = {"error": {"median": np.median(error), "largest": error.max()}}
        for key in ("input", "bias"):
            share = np.concatenate([run[key] for run in each]) / logit
            by_class = np.tile(chosen.target, len(each))
            found[name][f"{key}_share"] = {
                "quartiles": np.quantile(share, (0.25, 0.5, 0.75)),
                "median_by_class": {
                    name: np.median(share[by_class == RHYTHMS.index(name)])
                    for name in _members(chosen)[0]
                },
                "median_by_seed": [np.median(run[key] / run["logit"]) for run in each],
            }
    return {"methods": found}


def randomization(runs: Runs, chosen) -> dict:
    """Average rank correlations, signed and absolute, by stage; and the rise of complexity."""
    methods = {}
    for name, each in runs.items():
        methods[name] = {}
        for key in each[0]:
            kind, what = key.split("/")
            methods[name].setdefault(kind, {})[what] = scored([run[key] for run in each], chosen)
    return {"methods": methods}


def intervals(runs: Runs, chosen) -> dict:
    """Score shares of relevance in the intervals, for records and logits of each kind.

    ``positive`` is the share of the positive relevance, ``absolute`` that of the absolute one, and
    ``net`` is positive minus negative relevance over all that is absolute. ``over_time`` and
    ``over_energy`` take the share of time, or of the signal's squares, off the positive share.
    The classes are the records of sinus rhythm and those of atrial fibrillation.
    """
    found = {}
    for s, scheme in enumerate(ludb.SCHEMES):
        for t, target in enumerate(ludb.LABELS):
            amounts = {
                name: [run["amounts"][:, t, s] for run in each] for name, each in runs.items()
            }
            shares = {name: [_shares(a) for a in each] for name, each in amounts.items()}
            for name, each in shares.items():
                entry = {
                    measure: _by_interval([values[measure] for values in each], chosen)
                    for measure in each[0]
                }
                for base in ("time", "energy") if name not in ("time", "energy") else ():
                    taken = [values["positive"] for values in shares[base]]
                    own = [values["positive"] for values in each]
                    entry[f"over_{base}"] = _by_interval(np.subtract(own, taken), chosen)
                found.setdefault(scheme, {}).setdefault(f"{target} logit", {})[name] = entry
    logits = [run["logits"] for run in runs[OURS]]
    return {
        "leads_left_out": int(runs[OURS][0]["leads_left_out"].sum()),
        "rescaled": True,
        "logits": {
            name: scored([each[:, t] for each in logits], chosen)
            for t, name in enumerate(ludb.LABELS)
        },
        "shares": found,
    }


def cost(runs: Runs, chosen) -> dict:
    """Give the median time of every method, and in forward passes of the same round."""
    [[times]] = runs.values()
    return {
        "ms_per_record": {name: 1000 * np.median(each) for name, each in times.items()},
        "forward_passes": {
            name: np.median(each / times["forward"]) for name, each in times.items()
        },
    }


def goals(results: dict, baselines: list[str]) -> dict:
    """Compare what was found with what was aimed at, as far as the parts are there."""
    found = {}
    if "localization" in results:
        ours = results["localization"]["methods"][OURS]
        found["pointing"] = goal(ours["pointing"], 0.9)
        difference = ours["minus_gradient_x_input"]["mass"]
        found["mass minus gradient x input"] = goal(difference, 0.15)
        found["mass over chance"] = goal(ours["mass_over_chance"], 5)
    for part in ("faithfulness", "sensitivity"):
        if part in results:
            methods = results[part]["methods"]
            found[f"{part}: area minus"] = {
                name: goal(methods[name]["mamba_lrp_minus"], 0) for name in baselines
            }
    if "cost" in results:
        found["forward passes"] = results["cost"]["forward_passes"][OURS]
    return found


def goal(score: dict, wanted: float) -> dict:
    """Say if a score reaches what is wanted, and in which classes it does not.

    ``met`` goes by the value, ``clearly`` by the lower end of its interval.
    """
    classes = {name: each for name, each in score.items() if name not in ("macro", "by_seed")}
    value, low, _ = score["macro"]
    return {
        "wanted": wanted,
        "found": score["macro"],
        "met": bool(value >= wanted),
        "clearly": bool(low >= wanted),
        "by_class": classes,
        "not_met_in": [name for name, each in classes.items() if each[0] < wanted],
        "not_clearly_in": [name for name, each in classes.items() if each[1] < wanted],
    }


def _members(chosen) -> tuple[list[str], np.ndarray]:
    """Name the targets there are, and say which record has which: (records, targets) bool."""
    numbers = np.unique(chosen.target)
    return [RHYTHMS[number] for number in numbers], chosen.target[:, None] == numbers


def _drawn(rows: Rows, chosen, within: tuple[float, float] | None = None) -> Interval:
    """Draw the means of values (records,) or (records, columns), a class after the other."""
    y = _members(chosen)[1]
    columns = np.asarray(rows, dtype=np.float64).reshape(len(rows), len(y), -1)
    mask = np.tile(y, (1, columns.shape[2]))
    p = np.repeat(columns, y.shape[1], axis=2)
    options = {"groups": chosen.groups, "mask": mask, "n_draws": N_DRAWS, "within": within}
    return bootstrap(class_means, mask, p, **options)


def _written(macro: Interval, each: Interval, names: list[str]) -> dict:
    """Write the mean over the classes, every class, and the mean of each seed."""
    rows = np.stack([each.value, each.low, each.high], axis=1)
    return {
        "macro": macro.as_list(),
        **dict(zip(names, rows, strict=True)),
        "by_seed": macro.by_seed,
    }


def _quotient(over: Interval, under: Interval) -> Interval:
    with np.errstate(divide="ignore", invalid="ignore"):
        return Interval.of(over.by_seed / under.by_seed, over.draws / under.draws)


def _shares(amounts: np.ndarray) -> dict[str, np.ndarray]:
    """Turn amounts (records, 2, intervals) into shares (records, intervals)."""
    positive, negative = amounts[:, 0], amounts[:, 1]
    total = (positive + negative).sum(1, keepdims=True)
    return {
        "positive": positive / positive.sum(1, keepdims=True),
        "absolute": (positive + negative) / total,
        "net": (positive - negative) / total,
    }


def _by_interval(shares: Rows, chosen) -> dict:
    """Score shares (records, intervals); a mean over the kinds of records is not worth reading."""
    names, drawn = _members(chosen)[0], _drawn(shares, chosen)
    each = np.stack([drawn.value, drawn.low, drawn.high], axis=1)
    each = each.reshape(len(ludb.INTERVALS), len(names), 3)
    return {
        interval: dict(zip(names, rows, strict=True))
        for interval, rows in zip(ludb.INTERVALS, each, strict=True)
    }
