"""Speed, memory and scaling of the state-space layers, beside other layers and other libraries.

    OMP_NUM_THREADS=1 python benchmarks/scan.py [--only speed memory scaling] [--write]

`benchmarks/method.py` says how time and memory are measured. Peers that have our parameters get
our values, and their output is compared with ours before they are timed. Memory is that of a
training step.

`make oracles` installs the libraries compared with. ``--write`` puts the parts that were measured
into ``experiments/results/speed.json`` and leaves the others there as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
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
from peers import (
    ListingMamba2,
    LoopScan,
    MatrixProducts,
    ScanAlone,
    loop_mamba,
    mambapy_mamba,
    mambapy_scan,
    transformers_mamba2,
)
from torch import nn

from ecgbook.models import (
    S4D,
    Bidirectional,
    Hydra,
    Mamba,
    Mamba2,
    Mamba3,
    SelectiveScan,
    Unidirectional,
)

FLOOR = "matrix products alone"


class Bfloat16(nn.Module):
    """Run a layer under autocast to bfloat16; the parameters stay in float32."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        """Call the layer."""
        with torch.autocast("cpu", torch.bfloat16):
            return self.layer(x)


def compiled(layer: nn.Module | None) -> nn.Module | None:
    """Compile a layer by PyTorch's default compiler."""
    return layer if layer is None else torch.compile(layer)


@dataclass(frozen=True)
class Table:
    """Candidates that are timed in turn; the first is the reference of the ratios."""

    title: str
    batch: int
    length: int
    d_model: int
    d_state: int
    makers: dict[str, Callable[[], nn.Module | None]]
    equal: tuple[str, ...] = ()  # peers with the reference's parameters and function
    floor: bool = False


def tables() -> list[Table]:
    """Return what is compared."""

    def layers(d_model: int, d_state: int) -> dict[str, Callable]:
        lstm = partial(nn.LSTM, d_model, d_model, batch_first=True)
        return {
            "ecgbook Mamba2": partial(Mamba2, d_model, d_state),
            "ecgbook Mamba2, bfloat16": lambda: Bfloat16(Mamba2(d_model, d_state)),
            "ecgbook Mamba3": partial(Mamba3, d_model, d_state),
            "ecgbook Hydra, both directions": partial(Hydra, d_model, d_state),
            "ecgbook S4D": partial(S4D, d_model, d_state),
            "Mamba-2 as in the paper's listing": partial(ListingMamba2, d_model, d_state),
            "the listing, compiled": lambda: compiled(ListingMamba2(d_model, d_state)),
            "the listing, compiled, bfloat16": lambda: Bfloat16(
                compiled(ListingMamba2(d_model, d_state))
            ),
            "transformers Mamba2Mixer": partial(transformers_mamba2, d_model, d_state),
            "transformers Mamba2Mixer, compiled": lambda: compiled(
                transformers_mamba2(d_model, d_state)
            ),
            "nn.LSTM, one direction": lstm,
            "nn.LSTM, one direction, bfloat16": lambda: Bfloat16(lstm()),
            "nn.GRU, one direction": partial(nn.GRU, d_model, d_model, batch_first=True),
            "nn.TransformerEncoderLayer": partial(
                nn.TransformerEncoderLayer,
                d_model,
                nhead=4,
                dim_feedforward=4 * d_model,
                dropout=0,
                batch_first=True,
                norm_first=True,
            ),
        }

    equal = ("Mamba-2 as in the paper's listing", "transformers Mamba2Mixer")
    few = ("ecgbook Mamba2", "nn.LSTM, one direction", "nn.TransformerEncoderLayer")
    long = {name: layers(384, 128)[name] for name in few}
    pair = [f"{name}{low}" for name in few[:2] for low in ("", ", bfloat16")]
    longer = {name: layers(384, 128)[name] for name in pair}
    return [
        Table("One layer", 8, 729, 384, 128, layers(384, 128), equal, floor=True),
        Table("One small layer", 8, 729, 64, 64, layers(64, 64), equal, floor=True),
        Table("Beside the LSTM", 8, 2048, 384, 128, longer),
        Table("One long record", 1, 8192, 384, 128, long),
        Table(
            "Directions",
            *(8, 729, 384, 128),
            {
                "one direction": partial(Unidirectional, 384),
                "both directions, separate": partial(Bidirectional, 384),
                "both directions, shared": partial(Bidirectional, 384, shared=True),
            },
        ),
        Table(
            "One Mamba-1 layer",
            *(8, 729, 384, 16),
            {
                "ecgbook Mamba": partial(Mamba, 384),
                "loop over steps, autograd": partial(loop_mamba, 384),
                "mambapy MambaBlock": partial(mambapy_mamba, 384),
            },
            equal=("loop over steps, autograd", "mambapy MambaBlock"),
        ),
        Table(
            "Mamba-1's scan alone",
            *(8, 729, 768, 16),
            {
                "ecgbook selective_scan": partial(ScanAlone, SelectiveScan(), 8, 729, 768),
                "loop over steps, autograd": partial(ScanAlone, LoopScan(), 8, 729, 768),
                "mambapy pscan": lambda: (scan := mambapy_scan()) and ScanAlone(scan, 8, 729, 768),
            },
            equal=("loop over steps, autograd", "mambapy pscan"),
        ),
    ]


def made(table: Table) -> dict[str, nn.Module]:
    """Make the layers of a table; check those that compute what the reference computes."""
    torch.manual_seed(0)
    found = {name: make() for name, make in table.makers.items()}
    for name in [name for name, layer in found.items() if layer is None]:
        print(f"{name}: not installed, `make oracles` does it")
        del found[name]
    reference = next(iter(found.values()))
    x = torch.randn(1, 100, table.d_model)
    with torch.no_grad():
        wanted = call(reference, x)
        for name in set(table.equal) & set(found):
            found[name].load_state_dict(reference.state_dict())
            check_equal(name, call(found[name], x), wanted)
    return found


def speed(rounds: int) -> list[dict]:
    """Time every table; print it as Markdown."""
    results = []
    for table in tables():
        layers = made(table)
        x = torch.randn(table.batch, table.length, table.d_model)
        leaf, pull = x.clone().requires_grad_(), torch.randn_like(x)

        tasks = {
            "forward": {name: partial(infer, layer, x) for name, layer in layers.items()},
            "training": {name: partial(step, layer, leaf, pull) for name, layer in layers.items()},
        }
        if table.floor:
            products = MatrixProducts(table.batch, table.length, table.d_model, table.d_state)
            tasks["forward"][FLOOR], tasks["training"][FLOOR] = products.forward, products.training
        rows = {name: {"name": name} for name in tasks["forward"]}
        for name, layer in layers.items():
            if not isinstance(layer, ScanAlone):
                rows[name]["parameters"] = sum(p.numel() for p in layer.parameters())
        for kind, each in tasks.items():
            times = in_turn(each, rounds)
            reference = next(iter(times.values()))
            for name, values in times.items():
                rows[name][f"{kind}_us_per_token"] = 1e6 * median(values) / x[..., 0].numel()
                rows[name][f"{kind}_ratio"] = ratio(values, reference)
        facts = {k: v for k, v in vars(table).items() if k not in ("makers", "equal", "floor")}
        results.append(facts | {"rows": list(rows.values())})
        show_speed(results[-1])
    return results


def show_speed(result: dict) -> None:
    sizes = "batch {batch}, {length} tokens, d_model {d_model}, d_state {d_state}".format(**result)
    print(f"\n{result['title']}: {sizes}; µs a token, and the ratio to the first row\n")
    print("| | parameters | forward | ratio | forward + backward | ratio |")
    print("|---|---:|---:|---:|---:|---:|")
    for row in result["rows"]:
        parameters = f"{row['parameters']:,}" if "parameters" in row else ""
        cells = f"{row['forward_us_per_token']:.1f} | {row['forward_ratio']:.2f}"
        cells += f" | {row['training_us_per_token']:.1f} | {row['training_ratio']:.2f}"
        print(f"| {row['name']} | {parameters} | {cells} |")


def peak(title: str, name: str) -> float | None:
    """Return the memory in MiB that a training step of one candidate adds; in a fresh process."""
    table = next(t for t in tables() if t.title == title)
    layer = table.makers[name]()
    if layer is None:
        return None
    short = torch.randn(1, 64, table.d_model, requires_grad=True)
    step(layer, short, torch.randn_like(short))
    x = torch.randn(table.batch, table.length, table.d_model, requires_grad=True)
    pull = torch.randn_like(x)
    before = peak_mib()
    step(layer, x, pull)
    return peak_mib() - before


def memory(rounds: int) -> list[dict]:
    """Measure every candidate in processes of its own, and take the median."""
    results = []
    for table in tables():
        rows = []
        print(f"\n{table.title}: MiB that a training step adds to the process\n\n| | MiB | ratio |")
        print("|---|---:|---:|")
        for name in [n for n in table.makers if "compiled" not in n]:  # the compiler's would count
            added = [in_fresh_process(__file__, table.title, name) for _ in range(rounds)]
            if None not in added:
                rows.append({"name": name, "mib": median(added)})
                print(f"| {name} | {median(added):.0f} | {median(added) / rows[0]['mib']:.2f} |")
        results.append({"title": table.title, "rows": rows})
    return results


def exponent(lengths: list[int], per_token: list[float]) -> float:
    """Fit a power of the length to the time of a whole sequence."""
    totals = [n * t for n, t in zip(lengths, per_token, strict=True)]
    return linear_regression(*([math.log(v) for v in values] for values in (lengths, totals))).slope


def scaling(rounds: int) -> list[dict]:
    """Time training steps at doubled lengths: batch 1, d_model 64."""
    torch.manual_seed(0)
    results = []
    layers = {
        "ecgbook Mamba2": Mamba2(64, 64),
        "ecgbook Mamba": Mamba(64),
        "ecgbook Mamba3": Mamba3(64, 64),
        "ecgbook Hydra": Hydra(64),
        "ecgbook S4D": S4D(64),
    }
    for name, layer in layers.items():
        inputs = [torch.randn(1, length, 64, requires_grad=True) for length in LENGTHS]
        tasks = {str(x.shape[1]): partial(step, layer, x, torch.randn_like(x)) for x in inputs}
        times = list(in_turn(tasks, rounds).values())
        doubled = doublings(times)
        per_token = [1e6 * median(t) / n for t, n in zip(times, LENGTHS, strict=True)]
        results.append(
            {
                "name": name,
                "lengths": LENGTHS,
                "training_us_per_token": per_token,
                "time_of_2L_over_L": doubled,
                "exponent": exponent(LENGTHS, per_token),
            }
        )
        print(
            f"\n{name}, d_model 64, batch 1, training: time grows with the length to the power "
            f"{results[-1]['exponent']:.2f}\n\n| tokens | µs a token | time(2L)/time(L) |"
        )
        print("|---:|---:|---:|")
        for length, us, growth in zip(LENGTHS, per_token, [*doubled, None], strict=True):
            print(f"| {length} | {us:.1f} | {'' if growth is None else f'{growth:.2f}'} |")
    return results


if __name__ == "__main__":
    parts = {"speed": speed, "memory": memory, "scaling": scaling}
    main(__file__, __doc__.splitlines()[0], RESULTS / "speed.json", parts, peak, rounds=7)
