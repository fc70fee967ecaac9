"""The ladder of the book: each rung is a model and its training by keywords, with its results."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import nn

from . import metrics, models
from .attacks import AdversarialTraining
from .augment import FrequencyMask
from .labels import RHYTHMS
from .storage import results
from .training import Recipe


@dataclass(frozen=True)
class Rung:
    """One step of the ladder.

    Attributes
    ----------
    name : str
        What the step is called in tables.
    chapter : int
        The chapter that builds it.
    model : type
        A class of `ecgbook.models`.
    arguments : mapping
        Its keyword arguments, at tutorial size.
    training : mapping
        What it changes in the recipe that all rungs share.
    start : Rung or None
        The rung whose model, trained with the same seed, it trains further; None begins anew.
    """

    name: str
    chapter: int
    model: type[nn.Module]
    arguments: Mapping[str, object]
    training: Mapping[str, object] = field(default_factory=dict)
    start: Rung | None = None

    def build(self) -> nn.Module:
        """Make the model, untrained."""
        return self.model(**self.arguments)

    def recipe(self, shared: Recipe) -> Recipe:
        """Return the shared recipe with the rung's own changes."""
        return replace(shared, **self.training)


_DEPTH = 1  # of the state-space rungs: three seeds and five folds must train on a laptop's CPU
_SIZE = models.PRESETS["tutorial"]
_MAMBA2 = {
    **models.MAMBA2_PRESETS["tutorial"],
    "n_layers": _DEPTH,
    "use_multi_branch": False,
    "use_attention": False,
}
_FULL = {**_MAMBA2, "use_multi_branch": True, "use_attention": True}
_FURTHER = {"epochs": 6, "learning_rate": 1e-3}
_ATTACKED = {"adversarial": AdversarialTraining("pgd", epsilon_mv=0.025, steps=2)}
_MASKED = {"augment": (FrequencyMask(models.PREPROCESSING["tutorial"].fs_hz),)}

WHOLE = Rung("self-attention", 9, models.EnhancedECGMamba2, _FULL)
"""The model that all rungs lead to, trained on records as they are."""


def _further(name: str, chapter: int, **training) -> Rung:
    """Return a rung that trains the whole for some epochs more, in another way."""
    changes = _FURTHER | training
    return Rung(name, chapter, models.EnhancedECGMamba2, _FULL, changes, WHOLE)


RUNGS: tuple[Rung, ...] = (
    Rung("CNN baseline", 3, models.CNNBaseline, {**_SIZE, "n_layers": 4}),
    Rung("Vision Mamba", 5, models.ECGVisionMamba, {**_SIZE, "n_layers": _DEPTH}),
    Rung(
        "Mamba-2, one direction", 6, models.EnhancedECGMamba2, {**_MAMBA2, "bidirectional": False}
    ),
    Rung("both directions", 7, models.EnhancedECGMamba2, _MAMBA2),
    Rung("lead branches", 8, models.EnhancedECGMamba2, {**_MAMBA2, "use_multi_branch": True}),
    WHOLE,
    _further("adversarial training", 11, **_ATTACKED),
    _further("frequency masking", 12, **_ATTACKED, **_MASKED),
)
"""The rungs from the bottom up; a rung's place is the number of its row. The last two change only
how the whole is trained: further, from its trained model on."""

LEFT_OUT: tuple[Rung, ...] = (
    Rung("without branches", 10, models.EnhancedECGMamba2, {**_FULL, "use_multi_branch": False}),
    Rung(
        "without second direction", 10, models.EnhancedECGMamba2, {**_FULL, "bidirectional": False}
    ),
    _further("without adversarial training", 12, **_MASKED),
    _further("without attacks and masks", 11),
)
"""The whole minus one part; the last rung minus one, and minus both, which leaves more epochs. The
whole minus self-attention is the rung before it, the last rung minus its masking likewise."""

ROBUST: dict[str, Rung] = {
    "clean": LEFT_OUT[3],
    "adversarial": RUNGS[6],
    "masked": LEFT_OUT[2],
    "both": RUNGS[7],
}
"""The four ways to train the whole further that chapters 11 and 12 compare; epochs are equal."""

ATTACK_CHOICE: dict[str, Rung] = {
    "FGSM": _further("attacked by FGSM", 11, adversarial=AdversarialTraining("fgsm")),
    "N-FGSM": _further("attacked by N-FGSM", 11, adversarial=AdversarialTraining("n-fgsm")),
    "PGD, 2 steps": RUNGS[6],
}
"""The attacks that were tried for the row of adversarial training, which took the last."""

ROWS: dict[str, tuple[int, ...]] = {
    "synthetic": tuple(range(len(RUNGS))),
    "real": (0, 1, 2, 3, 5),
    "synthetic to real": (0, 1, 5, 6, 7),
    "fine-tuned": (0, 1, 5),
}
"""For each way to train and test a model, the rows that were run. ``"synthetic"`` and ``"real"``
train and test on records of that kind, real ones by cross-validation; ``"synthetic to real"``
tests the models of the first on real records; ``"fine-tuned"`` trains them further on those."""


def reference(rung: Rung, data: str) -> Rung | None:
    """Return the rung that another one is compared with.

    Parameters
    ----------
    rung : Rung
        Of `RUNGS` or `LEFT_OUT`.
    data : str
        A key of `ROWS`.

    Returns
    -------
    Rung or None
        The one before it among those that were run; for one of `LEFT_OUT`,
        what it was left out of.
    """
    if rung in LEFT_OUT:
        return RUNGS[-1] if rung.start else WHOLE
    rows = [RUNGS[number] for number in ROWS[data]]
    place = rows.index(rung)
    return rows[place - 1] if place else None


def command(rung: Rung, data: str) -> str:
    """Say how to make the results of a rung again.

    Parameters
    ----------
    rung : Rung
        Of `RUNGS` or `LEFT_OUT`.
    data : str
        A key of `ROWS`.

    Returns
    -------
    str
        A command line.
    """
    which = "--rows --left-out" if rung in LEFT_OUT else f"--rows {RUNGS.index(rung)}"
    return f"python experiments/run_ladder.py {which} --data {shlex.quote(data)}"


def table(data: str, upto: int = len(RUNGS) - 1) -> str:
    """Return the ladder's rows as a Markdown table.

    Parameters
    ----------
    data : {"synthetic", "real", "synthetic to real", "fine-tuned"}
        How the models were trained and tested, see `ROWS`.
    upto : int
        Number of the last row to show; those that were not run on these records are left out.

    Returns
    -------
    str
        Parameters, time per record, and macro-AUROC, AUPRC and F1, each the mean over seeds with
        its 95 % interval over patients and seeds. The last column is the change of macro-AUROC to
        the row before in the table, with a paired interval and what it shows; a dash where no such
        pair was run.

    Raises
    ------
    ValueError
        If `data` is none of these, or a row has no results.
    """
    lines = [
        "| row | model | parameters | ms per record | macro-AUROC | macro-AUPRC | macro-F1 "
        "| change of macro-AUROC |",
        "|---:|:---|---:|---:|:---|:---|:---|:---|",
    ]
    for number in _rows(data):
        if number <= upto:
            row, scores = _scores(RUNGS[number], data)
            change = scores["change"]["auroc"] if "change" in scores else None
            lines.append(f"| {number} | {RUNGS[number].name} | {_cells(row, scores, change)} |")
    return "\n".join(lines)


def leave_one_out() -> str:
    """Return the whole and the whole minus one part each, on synthetic records, as a table.

    Returns
    -------
    str
        Markdown, columns as in `table`. The last column is the change of macro-AUROC to the
        whole: what is lost, if negative, without the part.

    Raises
    ------
    ValueError
        If one of them has no results.
    """
    before = RUNGS[4]
    row, scores = _scores(WHOLE, "synthetic")
    lines = [
        "| model | parameters | ms per record | macro-AUROC | macro-AUPRC | macro-F1 "
        "| change of macro-AUROC |",
        "|:---|---:|---:|:---|:---|:---|:---|",
        f"| the whole | {_cells(row, scores, None)} |",
    ]
    for rung in [rung for rung in LEFT_OUT if not rung.start]:
        row, scores = _scores(rung, "synthetic")
        lines.append(f"| {rung.name} | {_cells(row, scores, scores['change']['auroc'])} |")
    value, low, high = _scores(WHOLE, "synthetic")[1]["change"]["auroc"]
    cells = _cells(*_scores(before, "synthetic"), [-value, -high, -low])
    lines.append(f"| without {WHOLE.name} | {cells} |")
    return "\n".join(lines)


def _rows(data: str) -> tuple[int, ...]:
    """Return the numbers of the rows that were run in one way."""
    if data not in ROWS:
        raise ValueError(f"data={data!r} found, one of {', '.join(map(repr, ROWS))} wanted")
    return ROWS[data]


def _cells(row: dict, scores: dict, change: list[float] | None) -> str:
    """Write what the tables have in common: size, time, scores, change."""
    cells = [f"{row['parameters']:,}", f"{row['ms_per_record']:.1f}"]
    cells += [_interval(scores[metric]["macro"]) for metric in ("auroc", "auprc", "f1")]
    cells.append("–" if change is None else f"{_interval(change, '+')} {metrics.verdict(change)}")
    return " | ".join(cells)


def _interval(values: list[float | None], sign: str = "") -> str:
    """Write an interval for a narrow column: no line ends between its bounds."""
    return metrics.format_interval(values, sign).replace(", ", ",\N{NO-BREAK SPACE}")


def rhythm_table(rung: int, data: str, rare: int = 20) -> str:
    """Return one rung's scores by rhythm as a Markdown table.

    Parameters
    ----------
    rung : int
        Number of the row.
    data : {"synthetic", "real", "synthetic to real", "fine-tuned"}
    rare : int
        Rhythms with fewer positive records than this are marked with a dagger.

    Returns
    -------
    str
    """
    _rows(data)
    _, scores = _scores(RUNGS[rung], data)
    lines = ["| rhythm | positive records | AUROC | AUPRC | F1 |", "|:---|---:|:---|:---|:---|"]
    for rhythm in RHYTHMS:
        count = scores["positives"][rhythm]
        mark = " †" if count < rare else ""
        cells = " | ".join(_interval(scores[m][rhythm]) for m in ("auroc", "auprc", "f1"))
        lines.append(f"| {rhythm}{mark} | {count} | {cells} |")
    return "\n".join(lines)


def _scores(rung: Rung, data: str) -> tuple[dict, dict]:
    """Return a row and its scores on one kind of records."""
    row = results("ladder")["rows"].get(rung.name, {})
    if data not in row:
        raise ValueError(f"{rung.name} has no results on {data} records; run {command(rung, data)}")
    return row, row[data]
