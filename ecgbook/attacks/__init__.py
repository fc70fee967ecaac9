"""Perturbations within a budget in millivolts, and training against them."""

from .perturbations import AttackedRecords, Budget, evaluation_mode, gaussian_kernel, losses
from .searches import apgd, fgsm, pgd, random_noise, smooth
from .training import ALARM, ATTACKS, AdversarialTraining, CatastrophicOverfittingWarning

__all__ = [
    "apgd",
    "fgsm",
    "pgd",
    "random_noise",
    "smooth",
    "AttackedRecords",
    "Budget",
    "evaluation_mode",
    "gaussian_kernel",
    "losses",
    "ALARM",
    "ATTACKS",
    "AdversarialTraining",
    "CatastrophicOverfittingWarning",
]
