"""MambaLRP's rules: for each class of module, what stands in for its forward in an explanation.

Under these rules the logit is linear in input and biases together, along the way this input takes
through the network. So an input's relevance is the input times its gradient, a bias's relevance is
the bias times its gradient, and the sum of all relevance is the logit.

Source: Jafari, Montavon, Müller and Eberle (2024), arXiv:2406.07592 (MambaLRP); Ali et al. (2022),
arXiv:2202.07304 (normalization and attention); Achtibat et al. (2024), arXiv:2402.05602 (AttnLRP);
Montavon et al. (2019), doi:10.1007/978-3-030-28954-6_10 (LRP-0 and gamma). The step from Mamba's
scan to those of Mamba-2 and Mamba-3 is this book's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import RLock
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..models import (
    S4D,
    SSD,
    Attend,
    DecayRate,
    DepthwiseConv,
    Gate,
    Hydra,
    LongConv,
    Mamba,
    Mamba2,
    Mamba3,
    MaskedMean,
    RMSNorm,
    Rotation,
    S4DKernel,
    Scale,
    SelectiveScan,
    SharedMamba2,
    Skip,
    TrapezoidalScan,
    TrapezoidShare,
    VisionMamba,
)

Rule = Callable[..., Tensor]
"""Takes a module and the arguments of its forward, and returns what its forward would."""

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
_BIASED = (nn.Linear, nn.Conv1d, nn.LayerNorm)  # whose bias is added on the way to the logit


class OtherFunction(ValueError):
    """Under the rules, a model computes something else than without them."""


class MissingRule(ValueError):
    """A module of a class that no rule is known for."""


def plain(module: nn.Module, *args, **kwargs) -> Tensor:
    """Run a module as it is: for linear ones the gradient is the rule LRP-0 already.

    Parameters
    ----------
    module : torch.nn.Module
    *args, **kwargs
        What its forward takes.

    Returns
    -------
    Tensor
    """
    return type(module).forward(module, *args, **kwargs)


def half(product: Tensor) -> Tensor:
    """Give each of two factors half the relevance of their product.

    Parameters
    ----------
    product : Tensor

    Returns
    -------
    Tensor
        The same values, with half the gradient.
    """
    return (product + product.detach()) / 2


def _silu(act: nn.SiLU, x: Tensor) -> Tensor:
    return x * x.detach().sigmoid()


def _gelu(act: nn.GELU, x: Tensor) -> Tensor:
    if act.approximate != "none":
        raise ValueError(f"GELU(approximate={act.approximate!r}) found, 'none' wanted")
    return x * torch.special.ndtr(x.detach())


def _rms_norm(norm: RMSNorm, x: Tensor) -> Tensor:
    parts = x.unflatten(-1, (norm.n_groups, -1))
    scale = torch.rsqrt(parts.detach().square().mean(-1, keepdim=True) + norm.eps)
    return (parts * scale).flatten(-2) * norm.weight


def _layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    axes = tuple(range(-len(norm.normalized_shape), 0))
    centered = x - x.mean(axes, keepdim=True)
    y = centered * torch.rsqrt(centered.detach().square().mean(axes, keepdim=True) + norm.eps)
    y = y if norm.weight is None else y * norm.weight
    return y if norm.bias is None else y + norm.bias


def _gate(gate: Gate, y: Tensor, z: Tensor) -> Tensor:
    return half(y * gate.act(z))


def _glu(glu: nn.GLU, x: Tensor) -> Tensor:
    """Take the sigmoid as a constant, as in SiLU: it has no factor that could get a half."""
    value, gate = x.chunk(2, glu.dim)
    return value * gate.detach().sigmoid()


def _skip(skip: Skip, x: Tensor, chosen: Tensor, D: Tensor) -> Tensor:
    """Take what the token chose as a constant, like B and C, with which it shares a matrix."""
    return plain(skip, x, chosen.detach(), D)


def _scan(scan, x, dt, A, B, C, D=None, reverse=False) -> Tensor:
    chosen = (v.detach() for v in (dt, A, B, C))
    return plain(scan, x, *chosen, D, reverse)


def _trapezoidal_scan(scan, x, dt, A, share, B, C, D=None, mask=None, reverse=False) -> Tensor:
    chosen = (v.detach() for v in (dt, A, share, B, C))
    return plain(scan, x, *chosen, D, mask, reverse)


def _attend(attend: Attend, q, k, v, mask=None) -> Tensor:
    return attend.weights(q.detach(), k.detach(), mask).to(v.dtype) @ v


def attn_lrp(attend: Attend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Let queries and keys take part, as AttnLRP does; it does **not** conserve relevance.

    Each factor of a product gets half of its relevance, and the softmax keeps its gradient, which
    is AttnLRP's rule for it. Use it as ``MAMBA_LRP | {Attend: attn_lrp}``.

    Parameters
    ----------
    attend : Attend
    q, k, v, mask
        As for `ecgbook.models.Attend.forward`.

    Returns
    -------
    Tensor
    """
    return half(attend.weights(half(q), half(k), mask).to(v.dtype) @ v)


def gamma(strength: float) -> Rule:
    """Make the rule that favors what agrees with the sign of a convolution's output.

    With p and n the sums of the positive and negative contributions to ``z = p + n``, biases
    included, relevance is spread as by ``z + strength p`` where z > 0 and by ``z + strength n``
    where z < 0. Both are farther from zero than z, so nothing needs a stabilizer.

    Parameters
    ----------
    strength : float
        0 is LRP-0; the larger, the less contributions of the other sign count.

    Returns
    -------
    callable
        A rule for ``torch.nn.Conv1d``.

    Raises
    ------
    ValueError
        If `strength` is negative.
    """
    if not strength >= 0:
        raise ValueError(f"strength={strength!r} found, 0 or more wanted")

    def rule(conv: nn.Conv1d, x: Tensor) -> Tensor:
        x_up, x_down = x.clamp(min=0), x.clamp(max=0)
        w_up, w_down = conv.weight.clamp(min=0), conv.weight.clamp(max=0)
        b_up = b_down = None
        if conv.bias is not None:
            b_up, b_down = conv.bias.clamp(min=0), conv.bias.clamp(max=0)
        run = conv._conv_forward
        positive = run(x_up, w_up, b_up) + run(x_down, w_down, None)
        negative = run(x_up, w_down, b_down) + run(x_down, w_up, None)
        z = positive + negative
        favored = z + strength * torch.where(z > 0, positive, negative)
        ratio = torch.where(favored == 0, 1, z / favored)
        return favored * ratio.detach()

    return rule


class Rules(dict):
    """A rule for each class of module; a plain ``dict`` does as well.

    Attributes
    ----------
    lossy : bool
        True if relevance is known not to sum to the logit: some rules are switched off, or one
        is `attn_lrp`. Of all others, `MambaLRP` says so where it does not.
    """

    lossy = False

    def without(self, *kinds: type) -> Rules:
        """Return the rules with some switched off: those modules keep their plain gradient."""
        for kind in kinds:
            if kind not in self:
                known = ", ".join(k.__name__ for k in self)
                raise ValueError(f"{kind.__name__} found, one of {known} wanted")
        rules = self | dict.fromkeys(kinds, plain)
        rules.lossy = True
        return rules

    def __or__(self, other: Mapping) -> Rules:
        rules = Rules({**self, **other})
        rules.lossy = self.lossy or attn_lrp in other.values()
        return rules


MAMBA_LRP = Rules(
    {
        nn.SiLU: _silu,
        nn.GELU: _gelu,
        RMSNorm: _rms_norm,
        nn.LayerNorm: _layer_norm,
        Gate: _gate,
        SSD: _scan,
        SelectiveScan: _scan,
        TrapezoidalScan: _trapezoidal_scan,
        Skip: _skip,
        nn.GLU: _glu,
        Attend: _attend,
        nn.Conv1d: gamma(0.25),
        DepthwiseConv: plain,
        LongConv: plain,
        nn.Linear: plain,
        nn.ReLU: plain,
        nn.Dropout: plain,
        nn.Identity: plain,
        Scale: plain,
        MaskedMean: plain,
        # What follows acts inside what the scans detach, or only holds parameters.
        nn.Softplus: plain,
        DecayRate: plain,
        TrapezoidShare: plain,
        Rotation: plain,
        Mamba: plain,
        VisionMamba: plain,
        Mamba2: plain,
        Mamba3: plain,
        SharedMamba2: plain,
        Hydra: plain,
        S4DKernel: plain,
        S4D: plain,
    }
)
"""MambaLRP for every model of the book.

Activations, normalizations, step sizes, B, C, Hydra's chosen skip, the sigmoid of a GLU and
attention weights count as constants, and a gate shares equally. The convolutions of stem and CNN
follow ``gamma(0.25)``, as the patch embedding of MambaLRP's Vision Mamba does; everything else
follows LRP-0. ``MAMBA_LRP.without(nn.Conv1d)`` is LRP-0 there too.
"""


@contextmanager
def lrp(model: nn.Module, rules: Mapping[type, Rule] = MAMBA_LRP) -> Iterator[list[Tensor]]:
    """Let a model run under rules, which change its gradients and not its values.

    One thread at a time: another one that wants the same model waits.

    Only the ``forward`` of each module object is replaced, and put back at the end, also after an
    exception. A batch normalization directly behind a convolution is folded into it meanwhile,
    unless it has a rule of its own; no parameter or buffer changes. Scans keep the backend that
    `ecgbook.scan.backend` names: no kernel of this package has the gate or an activation built in.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode.
    rules : mapping of type to Rule
        One for each class of module that is a leaf of the model or has parameters of its own; a
        subclass needs one of its own.

    Yields
    ------
    list of Tensor
        What the model adds: its biases, and those of folded convolutions. With the gradients of a
        logit under the rules, ``(x * x.grad).sum() + sum((b * b.grad).sum())`` is that logit.
        A bias inside of what the rules detach has no gradient (``allow_unused=True``).

    Raises
    ------
    MissingRule
        If a module has no rule, naming its path and class.
    ValueError
        In training mode, under autocast, or if the model was compiled.
    """
    _check_mode(model)
    stand_ins = _fold(model, rules)
    _check_rules(model, rules, stand_ins)
    with lock_of(model), ExitStack() as stack:
        additive = {}
        for module in model.modules():
            stand_in = stand_ins.get(module, module)
            if type(stand_in) in rules:
                swap(stack, module, partial(rules[type(stand_in)], stand_in))
            elif stand_in is None:  # folded
                swap(stack, module, lambda x, mask=None: x)
            if isinstance(stand_in, _BIASED) and stand_in.bias is not None:
                additive[stand_in.bias] = None  # a dict: each once, in order
        for bias in additive:
            stack.callback(bias.requires_grad_, bias.requires_grad)
            bias.requires_grad_()
        yield list(additive)


_LOCKS: WeakKeyDictionary = WeakKeyDictionary()
_LOCKS_LOCK = RLock()


def lock_of(model: nn.Module):
    """Return the lock of a model: while one thread explains it, another one waits.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    threading.RLock
    """
    with _LOCKS_LOCK:
        return _LOCKS.setdefault(model, RLock())


def swap(stack: ExitStack, module: nn.Module, forward: Callable) -> None:
    """Replace the forward of one module object until a stack closes.

    Parameters
    ----------
    stack : contextlib.ExitStack
    module : torch.nn.Module
    forward : callable
    """
    before = module.__dict__.get("forward")  # that of an outer `lrp`, if any
    if before is None:
        stack.callback(module.__dict__.pop, "forward")
    else:
        stack.callback(setattr, module, "forward", before)
    module.forward = forward


def _fold(model: nn.Module, rules: Mapping[type, Rule]) -> dict[nn.Module, nn.Module | None]:
    """Return for each convolution with a norm behind it one with the norm in it, and no norm."""
    stand_ins = {}
    for parent in model.modules():
        children = list(parent.children())
        for conv, norm in zip(children, children[1:], strict=False):
            if type(conv) is nn.Conv1d and isinstance(norm, nn.BatchNorm1d):
                if type(norm) not in rules:
                    stand_ins[conv], stand_ins[norm] = _folded(conv, norm), None
    return stand_ins


@torch.no_grad()
def _folded(conv: nn.Conv1d, norm: nn.BatchNorm1d) -> nn.Conv1d:
    sizes = conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride
    more = {"padding": conv.padding, "dilation": conv.dilation, "groups": conv.groups}
    fused = nn.Conv1d(*sizes, **more, padding_mode=conv.padding_mode, device="meta")
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    bias = norm.bias - norm.running_mean * scale
    if conv.bias is not None:
        bias = bias + conv.bias * scale
    fused.weight = nn.Parameter(conv.weight * scale[:, None, None])
    fused.bias = nn.Parameter(bias)
    return fused


def _check_mode(model: nn.Module) -> None:
    if hasattr(model, "_orig_mod"):
        raise ValueError("a compiled model found, the model itself wanted: model._orig_mod")
    training = [path for path, module in model.named_modules() if module.training]
    if training:
        where = f"{training[0]!r} in training mode" if training[0] else "a model in training mode"
        raise ValueError(f"{where} found, evaluation mode wanted; call model.eval()")
    one = torch.ones(1, 1, device=next((p.device for p in model.parameters()), None))
    if (one.float() @ one.float()).dtype != torch.float32:
        raise ValueError("autocast found, full precision wanted; leave the autocast context")


def _check_rules(model: nn.Module, rules: Mapping[type, Rule], stand_ins: dict) -> None:
    for path, module in model.named_modules():
        if type(module) in rules or module in stand_ins:
            continue
        inner = isinstance(module, _CONTAINERS) or next(module.children(), None) is not None
        if inner and next(module.parameters(recurse=False), None) is None:
            continue
        hint = ""
        if isinstance(module, nn.BatchNorm1d):
            hint = "; it can be folded only into a Conv1d directly before it"
        raise MissingRule(
            f"{path or 'the model'}: a {type(module).__name__} found, a module with a rule wanted"
            f"{hint}; give one: rules | {{{type(module).__name__}: rule}}, where `plain` keeps "
            "the gradient, which is right for what is linear"
        )
