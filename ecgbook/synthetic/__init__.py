"""ECGs made up of known beats and waves: no network, no patients, every truth at hand."""

from .morphology import Patient, Ventricles, Wave, draw_patient
from .records import (
    BEAT_DTYPE,
    WAVE_DTYPE,
    WAVE_KINDS,
    SyntheticRecord,
    iter_records,
    make_records,
)
from .rhythms import BEAT_KINDS, SCENARIOS, Rhythm, make_rhythm

__all__ = [
    "BEAT_DTYPE",
    "WAVE_DTYPE",
    "WAVE_KINDS",
    "SyntheticRecord",
    "iter_records",
    "make_records",
    "BEAT_KINDS",
    "SCENARIOS",
    "Rhythm",
    "make_rhythm",
    "Patient",
    "Ventricles",
    "Wave",
    "draw_patient",
]
