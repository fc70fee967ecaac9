"""Does a relevance map depend on the model and on the class? Tests that take the training away."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from scipy.stats import entropy, spearmanr
from torch import Tensor, nn

from .baselines import Model


def similarity(
    a: Tensor | np.ndarray,
    b: Tensor | np.ndarray,
    mask: Tensor | np.ndarray | None = None,
    *,
    absolute: bool,
) -> np.ndarray:
    """Compute Spearman's rank correlation of two relevance maps of every record (SciPy).

    Parameters
    ----------
    a, b : Tensor or ndarray, shape (batch, length, leads)
    mask : Tensor or ndarray, shape (batch, length), bool, optional
        True where there is signal; the rest does not count.
    absolute : bool
        Whether to compare absolute values: if not, a map and its negative have a correlation
        of -1.

    Returns
    -------
    ndarray, shape (batch,), float64
        NaN, with SciPy's warning, for a map that is constant.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if a.ndim != 3 or a.shape != b.shape:
        raise ValueError(
            f"maps of shapes {tuple(a.shape)} and {tuple(b.shape)} found, twice the same "
            "(batch, length, leads) wanted"
        )
    found = []
    for p, q in zip(_inside(a, mask), _inside(b, mask), strict=True):
        p, q = (np.abs(p), np.abs(q)) if absolute else (p, q)
        found.append(spearmanr(p, q)[0])
    return np.array(found)


def complexity(
    relevance: Tensor | np.ndarray, mask: Tensor | np.ndarray | None = None, *, bins: int
) -> np.ndarray:
    """Compute the entropy of the histogram of every record's relevance.

    Parameters
    ----------
    relevance : Tensor or ndarray, shape (batch, length, leads)
    mask : Tensor or ndarray, shape (batch, length), bool, optional
        As for `similarity`.
    bins : int
        Bins of equal width between the smallest and the largest value.

    Returns
    -------
    ndarray, shape (batch,), float64
        In nats: near 0 if a few samples stand out and all others are alike, log(bins) if all
        values are as frequent. The scale of the map does not matter.

    Source: Hedström et al. (2023), arXiv:2401.06465.
    """
    if bins < 2:
        raise ValueError(f"bins={bins} found, 2 or more wanted")
    counts = [np.histogram(values, bins)[0] for values in _inside(relevance, mask)]
    return np.array([entropy(each) for each in counts])


def cascading_randomization(
    model: nn.Module,
    untrained: nn.Module,
    method: Callable[..., Tensor],
    x: Tensor,
    target: int | Tensor,
    mask: Tensor | None = None,
    *,
    stages: Sequence[str],
    absolute: bool,
) -> dict[str, np.ndarray]:
    """Compare the map with those of the model as one part after the other loses its training.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode; a copy is changed.
    untrained : torch.nn.Module
        The same architecture with fresh parameters, such as ``type(model)(**model.config)``.
    method : callable
        ``method(model, x, target, mask)``, such as `ecgbook.explain.gradient_times_input`.
    x, target, mask
        As for `ecgbook.explain.target_logits`.
    stages : sequence of str
        Names of submodules from the output to the input, such as
        ``["head", "attention", "blocks.1", "blocks.0", "stem"]``.
    absolute : bool
        As for `similarity`.

    Returns
    -------
    dict of str to ndarray, shape (batch,)
        For each stage, the similarity of the map of the trained model to that of the model in
        which this stage and all before it have the parameters and buffers of `untrained`.

    Raises
    ------
    ValueError
        If a stage is no submodule of the model.

    Notes
    -----
    A map that depends on what the model learned comes close to 0 at the last stage. How fast it
    falls says little: residual connections keep the order of magnitude of the signal, and so part
    of the map (Binder et al., 2023, arXiv:2211.12486).

    Source: Adebayo et al. (2018), arXiv:1810.03292.
    """
    for stage in stages:
        if not stage or stage not in dict(model.named_modules()):
            raise ValueError(
                f"stage {stage!r} found, a submodule of {type(model).__name__} wanted: "
                f"{', '.join(name for name, _ in model.named_children())}, or a part of one"
            )
    reference = method(model, x, target, mask)
    altered, found = copy.deepcopy(model), {}
    for stage in stages:
        fresh = untrained.get_submodule(stage).state_dict()
        altered.get_submodule(stage).load_state_dict(fresh)
        changed = method(altered, x, target, mask)
        found[stage] = similarity(reference, changed, mask, absolute=absolute)
    return found


def efficient_randomization(
    model: nn.Module,
    untrained: nn.Module,
    method: Callable[..., Tensor],
    x: Tensor,
    target: int | Tensor,
    mask: Tensor | None = None,
    *,
    bins: int,
) -> np.ndarray:
    """Compute by how much a map grows more complex when the model loses all its training (eMPRT).

    Parameters
    ----------
    model, untrained, method, x, target, mask
        As for `cascading_randomization`.
    bins : int
        As for `complexity`.

    Returns
    -------
    ndarray, shape (batch,), float64
        Complexity of the map of `untrained`, minus that of the map of `model`, over the latter.
        Positive where the training has made the map simpler; 0 for a map that does not depend on
        the model.

    Notes
    -----
    It compares no two maps sample by sample, as `similarity` does, and has no order of stages.

    Source: Hedström et al. (2023), arXiv:2401.06465.
    """
    trained, fresh = (
        complexity(method(each, x, target, mask), mask, bins=bins) for each in (model, untrained)
    )
    return fresh / trained - 1


def random_logit(
    model: Model,
    method: Callable[..., Tensor],
    x: Tensor,
    target: int | Tensor,
    mask: Tensor | None = None,
    *,
    absolute: bool,
    generator: torch.Generator | None = None,
) -> np.ndarray:
    """Compare the map of the target with that of another class, drawn for each record.

    Parameters
    ----------
    model, x, target, mask
        As for `ecgbook.explain.target_logits`, and so are the errors.
    method : callable
        As for `cascading_randomization`.
    absolute : bool
        As for `similarity`.
    generator : torch.Generator, optional
        Source of chance, on the CPU; PyTorch's own, if omitted.

    Returns
    -------
    ndarray, shape (batch,), float64
        1 for a map that does not depend on the class.

    Source: Sixt et al. (2020), arXiv:1912.09818.
    """
    reference = method(model, x, target, mask)
    with torch.no_grad():
        n_classes = model(x[:1], None if mask is None else mask[:1]).shape[1]
    if n_classes < 2:
        raise ValueError(f"{n_classes} class found, 2 or more wanted to draw another one")
    away = torch.randint(1, n_classes, (len(x),), generator=generator).to(x.device)
    other = (torch.as_tensor(target, device=x.device) + away) % n_classes
    return similarity(reference, method(model, x, other, mask), mask, absolute=absolute)


def _inside(
    relevance: Tensor | np.ndarray, mask: Tensor | np.ndarray | None
) -> Iterator[np.ndarray]:
    """Yield the values of one record after the other that lie inside the mask."""
    relevance = torch.as_tensor(relevance).detach().cpu().double()
    if mask is None:
        mask = torch.ones(relevance.shape[:2], dtype=torch.bool)
    for values, valid in zip(relevance, torch.as_tensor(mask).cpu(), strict=True):
        yield values[valid].flatten().numpy()
