"""The models of the book, and the layers that they are built of."""

from .attention import Attend, SelfAttention
from .classifiers import (
    MAMBA2_PRESETS,
    PREPROCESSING,
    PRESETS,
    CNNBaseline,
    ConvBlock,
    ECGVisionMamba,
    EnhancedECGMamba2,
    TokenClassifier,
)
from .convolution import DepthwiseConv, causal_conv, centered_conv
from .frontend import ConvStem, LeadBranches
from .hydra import Hydra
from .layers import (
    SSD,
    FeedForward,
    Gate,
    MaskedBatchNorm1d,
    MaskedMean,
    RMSNorm,
    Scale,
    SelectiveScan,
    Skip,
    TrapezoidalScan,
    rms_norm,
)
from .mamba import Bidirectional, Mamba, Mamba2, SharedMamba2, Unidirectional
from .mamba3 import DecayRate, Mamba3, Rotation, TrapezoidShare
from .s4d import S4D, LongConv, S4DKernel
from .vision_mamba import DIRECTIONS, VisionMamba, VisionMambaBlock

__all__ = [
    "SSD",
    "DecayRate",
    "FeedForward",
    "Gate",
    "MaskedBatchNorm1d",
    "MaskedMean",
    "RMSNorm",
    "Rotation",
    "Scale",
    "SelectiveScan",
    "Skip",
    "TrapezoidalScan",
    "TrapezoidShare",
    "rms_norm",
    "DepthwiseConv",
    "causal_conv",
    "centered_conv",
    "ConvStem",
    "LeadBranches",
    "Bidirectional",
    "Mamba",
    "Mamba2",
    "Mamba3",
    "SharedMamba2",
    "Unidirectional",
    "Hydra",
    "S4D",
    "LongConv",
    "S4DKernel",
    "DIRECTIONS",
    "VisionMamba",
    "VisionMambaBlock",
    "Attend",
    "SelfAttention",
    "MAMBA2_PRESETS",
    "PREPROCESSING",
    "PRESETS",
    "CNNBaseline",
    "ConvBlock",
    "ECGVisionMamba",
    "EnhancedECGMamba2",
    "TokenClassifier",
]
