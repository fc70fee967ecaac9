"""Where a logit came from, and whether an explanation can be believed."""

from .baselines import (
    Model,
    attention_rollout,
    grad_cam,
    gradient_times_input,
    integrated_gradients,
    occlusion,
    random_relevance,
    smooth_grad,
    target_logits,
)
from .faithfulness import ORDERS, REPLACEMENTS, Curves, deletion, insertion
from .localization import (
    beat_mask,
    chance,
    interval_shares,
    pointing_game,
    relevance_mass,
    relevance_rank,
)
from .mamba_lrp import Explanation, MambaLRP
from .page import explanation_page
from .randomization import (
    cascading_randomization,
    complexity,
    efficient_randomization,
    random_logit,
    similarity,
)
from .rules import MAMBA_LRP, MissingRule, Rule, Rules, attn_lrp, gamma, half, lrp, plain

__all__ = [
    "Explanation",
    "MambaLRP",
    "MAMBA_LRP",
    "MissingRule",
    "Rule",
    "Rules",
    "attn_lrp",
    "gamma",
    "half",
    "lrp",
    "plain",
    "Model",
    "attention_rollout",
    "grad_cam",
    "gradient_times_input",
    "integrated_gradients",
    "occlusion",
    "random_relevance",
    "smooth_grad",
    "target_logits",
    "ORDERS",
    "REPLACEMENTS",
    "Curves",
    "deletion",
    "insertion",
    "beat_mask",
    "chance",
    "interval_shares",
    "pointing_game",
    "relevance_mass",
    "relevance_rank",
    "cascading_randomization",
    "complexity",
    "efficient_randomization",
    "random_logit",
    "similarity",
    "explanation_page",
]
