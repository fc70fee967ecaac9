"""What experiments/run_explain.py measures of one method, on records that have been chosen.

All functions take the records, the model and the method first, then what the part's protocol says,
and return arrays with one row a record.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import ludb
import numpy as np
import run_ladder
import torch
from explain_methods import Method
from torch import Tensor, nn
from tqdm import tqdm

from ecgbook import explain
from ecgbook.data import ECGDataset, trim
from ecgbook.explain import MambaLRP
from ecgbook.labels import RHYTHMS

STEPS = run_ladder.STEPS
BEATS = {"PAC": "A", "PVC": "V"}
"""The kind of beat that is true evidence for a label."""
BATCH = 12


@dataclass(frozen=True)
class Chosen:
    """Records, the number of the label that is explained of each, and where they came from."""

    records: ECGDataset
    target: np.ndarray
    source: list


@dataclass(frozen=True)
class Judged:
    """What is left of chosen records when they are scored: the target and the patient of each."""

    target: np.ndarray
    groups: np.ndarray

    def subset(self, rows: np.ndarray) -> Judged:
        """Return some of the records."""
        return Judged(self.target[rows], self.groups[rows])


def batches(chosen: Chosen, size: int = BATCH) -> Iterator[tuple[range, Tensor, Tensor, Tensor]]:
    """Yield rows, signals, targets and masks without the padding that they share."""
    n = len(chosen.target)
    for start in tqdm(range(0, n, size), leave=False):
        rows = range(start, min(n, start + size))
        batch = trim(chosen.records.batch(rows))
        yield rows, batch["x"], torch.from_numpy(chosen.target[rows]), batch["mask"]


def joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Join the arrays of all batches."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def perturbed(chosen: Chosen, model: nn.Module, method: Method, **protocol) -> dict:
    """Delete windows in the order of a method's relevance."""
    parts = []
    for _, x, target, mask in batches(chosen):
        relevance = method(model, x, target, mask)
        parts.append(vars(explain.deletion(model, x, relevance, target, mask, **protocol)))
    return joined(parts)


def localized(chosen: Chosen, model: nn.Module, method: Method, tolerance: int) -> dict:
    """Judge a method's relevance by the true beats of the target."""
    parts = []
    for rows, x, target, mask in batches(chosen):
        pairs = [(chosen.source[i], BEATS[RHYTHMS[chosen.target[i]]]) for i in rows]
        beats = [explain.beat_mask(*pair, STEPS.fs_hz, STEPS.n_samples) for pair in pairs]
        truth = np.stack(beats)[:, : x.shape[1]]
        relevance = method(model, x, target, mask)
        given = (relevance, truth, mask)
        parts.append(
            {
                "mass": explain.relevance_mass(*given),
                "rank": explain.relevance_rank(*given),
                "pointing": explain.pointing_game(*given, tolerance=tolerance),
                "chance": explain.chance(truth, mask),
                "chance of pointing": explain.chance(truth, mask, tolerance=tolerance),
            }
        )
    return joined(parts)


def completed(chosen: Chosen, model: nn.Module, method: dict) -> dict:
    """Add up relevance and biases; the method is given by the options of `MambaLRP`."""
    parts = []
    for _, x, target, mask in batches(chosen, 1):
        found = MambaLRP(model, **method).explain(x, int(target), mask)
        values = {"error": found.error, "input": found.relevance.sum(dtype=np.float64)}
        values |= {"bias": found.bias, "logit": found.logit}
        parts.append({name: np.array([value]) for name, value in values.items()})
    return joined(parts)


def randomized(
    chosen: Chosen, model: nn.Module, method: Method, stages: list[str], bins: int
) -> dict:
    """Compare the maps of a method with those of less trained models and of other classes."""
    untrained = type(model)(**model.config).eval()
    parts = []
    for _, x, target, mask in batches(chosen):
        rise = explain.efficient_randomization(model, untrained, method, x, target, mask, bins=bins)
        found = {"complexity/rise": rise}
        for kind, absolute in (("signed", False), ("absolute", True)):
            same = {"mask": mask, "absolute": absolute}
            cascade = explain.cascading_randomization(
                model, untrained, method, x, target, stages=stages, **same
            )
            found |= {f"{kind}/{stage}": values for stage, values in cascade.items()}
            other = torch.Generator().manual_seed(0)  # the same other class, whatever the kind
            found[f"{kind}/random logit"] = explain.random_logit(
                model, method, x, target, generator=other, **same
            )
        parts.append(found)
    return joined(parts)


def shared_out(chosen: Chosen, model: nn.Module, method: Method) -> dict:
    """Add up relevance for the logits of `ludb.LABELS` over waves, as `ludb.amounts` does."""
    parts = []
    for rows, x, _, mask in batches(chosen):
        with torch.no_grad():
            logits = model(x, mask).numpy()
        found = np.empty((len(x), len(ludb.LABELS), len(ludb.SCHEMES), 2, len(ludb.INTERVALS)))
        numbers = [RHYTHMS.index(name) for name in ludb.LABELS]
        for t, number in enumerate(numbers):
            relevance = method(model, x, torch.full((len(x),), number), mask).numpy()
            for i, row in enumerate(rows):
                record = chosen.source[row]
                start_s, _ = STEPS.window_s(record.signal_mv, record.fs_hz)
                for s, scheme in enumerate(ludb.SCHEMES):
                    given = (STEPS.fs_hz, mask[i].numpy(), start_s, scheme)
                    found[i, t, s] = ludb.amounts(relevance[i], record, *given)
        left_out = [sum(not len(w) for w in chosen.source[row].waves) for row in rows]
        parts.append(
            {"amounts": found, "logits": logits[:, numbers], "leads_left_out": np.array(left_out)}
        )
    return joined(parts)


def timed(
    chosen: Chosen, model: nn.Module, method: Mapping[str, Method], batch: int, rounds: int
) -> dict:
    """Time a forward pass and every method in turn: s a record in each round but the first."""
    _, x, target, mask = next(batches(chosen, batch))
    forward = torch.no_grad()(lambda model, x, target, mask: model(x, mask))
    calls, times = {"forward": forward, **method}, []
    for _ in tqdm(range(rounds + 1), leave=False):
        times.append([])
        for call in calls.values():
            start = time.thread_time()
            call(model, x, target, mask)
            times[-1].append((time.thread_time() - start) / len(x))
    return dict(zip(calls, np.array(times[1:]).T, strict=True))
