"""The package of the ECG book: 12-lead rhythm classification with state-space models.

Rooms load when they are first used, so ``import ecgbook`` takes no time and
``ecgbook.records.read_record(...)`` needs no other import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what editors complete; the same names as below
    from . import (
        attacks,
        augment,
        checks,
        data,
        explain,
        export,
        labels,
        ladder,
        leads,
        metrics,
        models,
        plots,
        records,
        scan,
        signals,
        storage,
        synthetic,
        training,
    )
    from .models import (
        S4D,
        Bidirectional,
        CNNBaseline,
        ECGVisionMamba,
        EnhancedECGMamba2,
        Hydra,
        Mamba,
        Mamba2,
        Mamba3,
    )
    from .storage import results
    from .training import Bundle, load

__version__ = "0.1.0"

_ROOMS = (
    "attacks", "augment", "checks", "data", "explain", "export", "labels", "ladder", "leads",
    "metrics", "models", "plots", "records", "scan", "signals", "storage", "synthetic", "training",
)  # fmt: skip
_HOMES = {
    "Bidirectional": "models",
    "CNNBaseline": "models",
    "ECGVisionMamba": "models",
    "EnhancedECGMamba2": "models",
    "Hydra": "models",
    "Mamba": "models",
    "Mamba2": "models",
    "Mamba3": "models",
    "S4D": "models",
    "Bundle": "training",
    "load": "training",
    "results": "storage",
}
__all__ = [
    "Bidirectional", "Bundle", "CNNBaseline", "ECGVisionMamba", "EnhancedECGMamba2", "Hydra",
    "Mamba", "Mamba2", "Mamba3", "S4D", "attacks", "augment", "checks", "data", "explain",
    "export", "labels", "ladder", "leads", "load", "metrics", "models", "plots", "records",
    "results", "scan", "signals", "storage", "synthetic", "training",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    if name in _ROOMS:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
