"""Training, and what it leaves: recipes, models with all that they need, scores."""

from .bundles import TRAINED, Bundle, load, save
from .evaluation import evaluate, macro_and_classes, predict
from .loop import fingerprint, fit, multilabel_loss
from .recipe import Recipe

__all__ = [
    "Recipe",
    "fingerprint",
    "fit",
    "multilabel_loss",
    "TRAINED",
    "Bundle",
    "load",
    "save",
    "evaluate",
    "macro_and_classes",
    "predict",
]
