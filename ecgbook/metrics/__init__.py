"""Scores, their intervals, and what a comparison shows."""

from .intervals import (
    FewGroupsWarning,
    Interval,
    add_seeds,
    bootstrap,
    format_interval,
    paired_bootstrap,
)
from .scores import (
    CHALLENGE_WEIGHTS,
    AbsentClassWarning,
    auprc,
    auroc,
    best_thresholds,
    brier,
    challenge_score,
    ece,
    f1,
    macro,
)
from .verdict import BETTER, NOT_SHOWN, WORSE, verdict

__all__ = [
    "CHALLENGE_WEIGHTS",
    "AbsentClassWarning",
    "auprc",
    "auroc",
    "best_thresholds",
    "brier",
    "challenge_score",
    "ece",
    "f1",
    "macro",
    "FewGroupsWarning",
    "Interval",
    "add_seeds",
    "bootstrap",
    "format_interval",
    "paired_bootstrap",
    "BETTER",
    "NOT_SHOWN",
    "WORSE",
    "verdict",
]
