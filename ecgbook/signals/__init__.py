"""What is done to a signal: rate, preprocessing, bands, noise."""

from .disturbances import ELECTRODES, ELECTRODES_TO_LEADS, MAINS_HZ, disturbance
from .noise import NOISE_KINDS, RecordedNoise, add_noise, check_kind, read_noise
from .preprocessing import Preprocessing, select
from .resampling import rate_ratio, resample
from .spectrum import remove_band, without_bands

__all__ = [
    "rate_ratio",
    "resample",
    "Preprocessing",
    "select",
    "remove_band",
    "without_bands",
    "NOISE_KINDS",
    "RecordedNoise",
    "add_noise",
    "check_kind",
    "read_noise",
    "ELECTRODES",
    "ELECTRODES_TO_LEADS",
    "MAINS_HZ",
    "disturbance",
]
