"""The package of the ECG book: 12-lead rhythm classification with state-space models.

Modules load when they are first used, so ``import ecgbook`` takes no time and
``ecgbook.records.read_record(...)`` needs no other import.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_HOMES = {
    "CNNBaseline": "models",
    "ECGVisionMamba": "models",
    "EnhancedECGMamba2": "models",
    "Bundle": "bundles",
    "load": "bundles",
}
_MODULES = (
    "adversarial", "attacks", "attention", "attributions", "augment", "batching", "beats",
    "bootstrap", "bundles", "checkpoints", "checks", "chunked", "classifier", "comments",
    "convolution", "data", "evaluation", "explain", "faithfulness", "frontend", "groups",
    "labels", "ladder", "layers", "leads", "localization", "mamba", "metrics", "models",
    "normalization", "perturbations", "physionet", "plots", "preprocessing", "randomization",
    "recipes", "records", "recurrences", "relevance_plot", "resampling", "rules", "scan", "snr",
    "spectrum", "splits", "storage", "synthetic", "training", "vision_mamba",
)  # fmt: skip
__all__ = [*_HOMES, *_MODULES]


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
