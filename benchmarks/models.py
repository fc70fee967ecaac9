"""Speed, memory and scaling of the whole models, and of two ways to compute the lead branches.

    OMP_NUM_THREADS=1 python benchmarks/models.py [--only whole length branches] [--write]

`benchmarks/method.py` says how time and memory are measured. Parts:

- whole: inference and a training step of every model, at full and tutorial size. The memory of a
  training step includes the gradients, but no optimizer; it is measured once, because it varies
  little, and that of inference in every round.
- length: inference at doubled lengths, tutorial size. The exponent is the slope of log time over
  log length in the last doublings. Memory is measured once, at growing lengths in one process.
- branches: stems and Mamba-2 layers of the four lead groups, one after the other as the package
  has them, and side by side in one call. The simpler form stays in the package unless the other
  one takes a training step of a batch 1.3 times as fast: that is where the hours go.

``--write`` puts the parts that were measured into ``experiments/results/models_speed.json`` and
leaves the others there as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from statistics import linear_regression, median

import torch
from method import (
    LENGTHS,
    RESULTS,
    call,
    check_equal,
    doublings,
    in_fresh_process,
    in_turn,
    infer,
    main,
    peak_mib,
    ratio,
    step,
)
from peers import GroupedMamba2, GroupedStem, TransformerClassifier
from torch import Tensor, nn

from ecgbook.leads import LEAD_GROUPS
from ecgbook.models import (
    MAMBA2_PRESETS,
    PREPROCESSING,
    PRESETS,
    CNNBaseline,
    ECGVisionMamba,
    EnhancedECGMamba2,
    LeadBranches,
    Mamba2,
)

WHOLE = (
    "EnhancedECGMamba2",
    "without branches",
    "ECGVisionMamba",
    "Transformer encoder",
    "CNNBaseline",
)
LONG = ("EnhancedECGMamba2", "without attention", "ECGVisionMamba", "Transformer encoder")
LAST = 3  # doublings that the exponent is fitted to
BATCHES = {"full": 1, "tutorial": 16}


def make(name: str, size: str) -> nn.Module:
    """Make a model in a preset's size, in evaluation mode."""
    torch.manual_seed(0)
    ours, plain = partial(EnhancedECGMamba2, **MAMBA2_PRESETS[size]), PRESETS[size]
    makers = {
        "EnhancedECGMamba2": ours,
        "without branches": partial(ours, use_multi_branch=False),
        "without attention": partial(ours, use_attention=False),
        "ECGVisionMamba": partial(ECGVisionMamba, **plain),
        "Transformer encoder": partial(TransformerClassifier, **plain),
        "CNNBaseline": partial(CNNBaseline, **plain),
    }
    return makers[name]().eval()


def use(kind: str, model: nn.Module, batch: int, samples: int) -> Callable[[], None]:
    """Return what runs a model once: forward, or a training step."""
    x = torch.randn(batch, samples, 12)
    if kind == "forward":
        return partial(infer, model, x)
    return partial(step, model, x, torch.randn(batch, 5))


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def token_count(model: nn.Module, samples: int) -> int:
    return model.stem.masks(torch.ones(1, samples, dtype=torch.bool))[1].shape[1]


def peak(kind: str, name: str, size: str, batch: str, *lengths: str) -> list[float]:
    """Return the MiB that a model's use has added after each length; in a fresh process."""
    use(kind, make(name, "tutorial"), 1, 128)()  # gradients of the model itself shall count
    model = make(name, size).train(kind == "training")
    before, added = peak_mib(), []
    for length in lengths:
        use(kind, model, int(batch), int(length))()
        added.append(peak_mib() - before)
    return added


def added_mib(kind: str, name: str, size: str, batch: int, lengths: list[int]) -> list[float]:
    """Measure `peak` where nothing else has been."""
    return in_fresh_process(__file__, kind, name, size, *map(str, (batch, *lengths)))


def race(rows: dict[str, dict], kind: str, tasks: dict, batch: int, rounds: int) -> None:
    """Time tasks in turn; put time and ratio to the first one into their rows."""
    times = in_turn(tasks, rounds)
    for name, values in times.items():
        rows[name][f"{kind}_ms"] = 1e3 * median(values) / batch
        rows[name][f"{kind}_ratio"] = ratio(values, next(iter(times.values())))


def show(title: str, rows: list[dict], form: dict[str, str]) -> None:
    """Print rows as a Markdown table."""
    print(f"\n{title}\n\n| | " + " | ".join(key.replace("_", " ") for key in form) + " |")
    print("|---|" + "---:|" * len(form))
    for row in rows:
        cells = [format(row[key], spec) if key in row else "" for key, spec in form.items()]
        print(f"| {row['name']} | " + " | ".join(cells) + " |", flush=True)


def whole(rounds: int) -> list[dict]:
    """Measure the models at both sizes."""
    results = []
    for size, batch in BATCHES.items():
        samples = PREPROCESSING[size].n_samples
        models = {name: make(name, size) for name in WHOLE}
        rows = {name: {"name": name, "parameters": parameters(m)} for name, m in models.items()}
        for kind in ("forward", "training"):
            tasks = {
                name: use(kind, model.train(kind == "training"), batch, samples)
                for name, model in models.items()
            }
            race(rows, kind, tasks, batch, rounds)
            for name, row in rows.items():
                runs = rounds if kind == "forward" else 1
                added = [added_mib(kind, name, size, batch, [samples]) for _ in range(runs)]
                row[f"{kind}_mib"] = median(mib for (mib,) in added)
                row[f"{kind}_mib_ratio"] = row[f"{kind}_mib"] / rows[WHOLE[0]][f"{kind}_mib"]
        facts = {"size": size, "batch": batch, "samples": samples}
        facts["tokens"] = token_count(models[WHOLE[0]], samples)
        results.append(facts | {"rows": list(rows.values())})
        title = "{size} size, batch {batch}, {samples} samples ({tokens} tokens); ms a record"
        form = {"parameters": ",", "forward_ms": ".1f", "forward_ratio": ".2f"}
        form |= {"forward_mib": ".0f", "forward_mib_ratio": ".2f", "training_ms": ".0f"}
        form |= {"training_ratio": ".2f", "training_mib": ".0f", "training_mib_ratio": ".2f"}
        show(title.format(**facts), results[-1]["rows"], form)
    return results


def length(rounds: int) -> list[dict]:
    """Measure inference at doubled lengths: one record, tutorial size."""
    models = {name: make(name, "tutorial") for name in LONG}
    tasks = {(name, n): use("forward", models[name], 1, n) for name in LONG for n in LENGTHS}
    times = in_turn(tasks, rounds)
    results = []
    for name, model in models.items():
        own = [times[name, n] for n in LENGTHS]
        ms = [1e3 * median(values) for values in own]
        last = slice(-LAST - 1, None)
        logs = [[math.log(v) for v in values[last]] for values in (LENGTHS, ms)]
        results.append(
            {
                "name": name,
                "parameters": parameters(model),
                "samples": LENGTHS,
                "tokens": [token_count(model, n) for n in LENGTHS],
                "forward_ms": ms,
                "forward_ratio": [
                    ratio(values, times[LONG[0], n]) for n, values in zip(LENGTHS, own, strict=True)
                ],
                "time_of_2L_over_L": doublings(own),
                "exponent": linear_regression(*logs).slope,
                "exponent_fitted_to": LENGTHS[last],
                "forward_mib": added_mib("forward", name, "tutorial", 1, LENGTHS),
            }
        )
    heads = [str(n) for n in LENGTHS]
    for key, spec in (("forward_ms", ".1f"), ("time_of_2L_over_L", ".2f"), ("forward_mib", ".0f")):
        rows = [{"name": r["name"], **dict(zip(heads, r[key], strict=False))} for r in results]
        show(f"{key} at lengths in samples", rows, dict.fromkeys(heads, spec))
    show("Exponent over the last doublings", results, {"exponent": ".2f"})
    return results


class Untouched(nn.Module):
    """A block that leaves the tokens as the stem made them."""

    def forward(self, tokens: Tensor, token_mask: Tensor) -> Tensor:
        """Return the tokens."""
        return tokens


class OneByOne(nn.Module):
    """Layers in a loop, each over tokens of its own."""

    def __init__(self, layers: list[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, h: Tensor) -> Tensor:
        """Mix tokens (batch, length, layers, d_model)."""
        return torch.stack([f(v) for f, v in zip(self.layers, h.unbind(2), strict=True)], 2)


def one_by_one_and_at_once(size: str) -> dict[str, tuple[nn.Module, nn.Module]]:
    """Make both forms of each part of the lead branches, with the same values."""
    torch.manual_seed(0)
    d_model, width, padding = PRESETS[size].values()
    stems = LeadBranches({name: Untouched() for name in LEAD_GROUPS}, width, d_model, padding)
    sizes = {key: MAMBA2_PRESETS[size][key] for key in ("d_state", "head_dim")}
    layers = OneByOne([Mamba2(d_model, **sizes) for _ in LEAD_GROUPS])
    return {
        "stems": (stems, GroupedStem([*stems.stems.values()])),
        "Mamba-2 layers": (layers, GroupedMamba2([*layers.layers])),
    }


def branches(rounds: int) -> list[dict]:
    """Time the parts of the lead branches, one by one and at once."""
    results = []
    for size, batch in (*BATCHES.items(), ("tutorial", 1)):
        parts = one_by_one_and_at_once(size)
        signal = torch.randn(batch, PREPROCESSING[size].n_samples, 12)
        with torch.no_grad():
            tokens = call(parts["stems"][0].eval(), signal)
        for part, x in (("stems", signal), ("Mamba-2 layers", tokens.requires_grad_())):
            layers = dict(zip(("one by one", "at once"), parts[part], strict=True))
            rows = {name: {"name": name} for name in layers}
            facts = {"part": part, "size": size, "batch": batch, "tokens": tokens.shape[1]}
            facts["gain"] = {}
            for kind in ("forward", "training"):
                wanted, found = (call(f.train(kind == "training"), x) for f in layers.values())
                check_equal(part, found.detach(), wanted.detach())
                run = infer if kind == "forward" else partial(step, pull=torch.randn_like(wanted))
                race(rows, kind, {n: partial(run, f, x) for n, f in layers.items()}, batch, rounds)
                facts["gain"][kind] = 1 / rows["at once"][f"{kind}_ratio"]
            results.append(facts | {"rows": list(rows.values())})
            title = "Four {part}, {size} size, batch {batch}, {tokens} tokens; ms a record"
            form = {"forward_ms": ".2f", "forward_ratio": ".2f"}
            form |= {"training_ms": ".2f", "training_ratio": ".2f"}
            show(title.format(**facts), results[-1]["rows"], form)
    return results


if __name__ == "__main__":
    # PyTorch's fast path for encoder layers in inference is slower on a CPU than its usual one.
    torch.backends.mha.set_fastpath_enabled(False)
    parts = {"whole": whole, "length": length, "branches": branches}
    main(__file__, __doc__.splitlines()[0], RESULTS / "models_speed.json", parts, peak, rounds=3)
