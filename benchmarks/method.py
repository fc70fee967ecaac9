"""How `benchmarks/scan.py` and `benchmarks/models.py` measure, and how they store what they found.

Time is the processor time of one thread. The candidates take turns in every round, so that a busy
machine slows all of them alike; times are medians over the rounds, and so are the ratios, which
are formed within a round.

Memory is what a task adds to the peak of the resident memory of a fresh process, in which a short
input has first loaded and compiled what the task needs.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch
from torch import nn

from ecgbook.storage import write_json

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "results"
LENGTHS = [2**k for k in range(10, 17)]


def call(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    y = layer(x)
    return y[0] if isinstance(y, tuple) else y


def infer(layer: nn.Module, x: torch.Tensor) -> None:
    """Run forward alone."""
    with torch.inference_mode():
        call(layer, x)


def step(layer: nn.Module, x: torch.Tensor, pull: torch.Tensor) -> None:
    """Run forward and backward, and drop all gradients."""
    y = call(layer, x)
    y.backward(pull.to(y.dtype))
    for leaf in (x, *layer.parameters()):
        leaf.grad = None


def check_equal(name: str, found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Stop where a peer does not compute what the reference computes."""
    error = (found - wanted).norm() / wanted.norm()
    if not error < 1e-5:
        raise RuntimeError(f"{name}: off by {error:.1e} from the reference")


def in_turn(tasks: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Return the thread's processor time of each task in seconds, a value a round."""
    for task in tasks.values():  # not measured: compiles, fills caches
        task()
    times = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            start = time.thread_time()
            task()
            times[name].append(time.thread_time() - start)
    return times


def ratio(times: Iterable[float], reference: Iterable[float]) -> float:
    """Return the median over the rounds of the ratio within a round."""
    return median(map(float.__truediv__, times, reference))


def doublings(times: list[list[float]]) -> list[float]:
    """Return time(2L)/time(L) for the times at doubled lengths."""
    return [ratio(twice, once) for once, twice in zip(times, times[1:], strict=False)]


def peak_mib() -> float:
    """Return the peak of this process's resident memory."""
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux, what getrusage says is not below what the parent had in use
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].removesuffix("kB")) / 2**10
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def in_fresh_process(script: str, *words: str):
    """Run ``script --peak words`` and return what it prints."""
    command = [sys.executable, script, "--peak", *words]
    return json.loads(subprocess.check_output(command, text=True))


def cpu() -> dict:
    """Name the processor and what it has of the wide instructions (where Linux tells)."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return {"cpu": platform.processor()}
    facts = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    flags = set(facts.get("flags", "").split())
    return {
        "cpu": facts.get("model name", platform.processor()),
        "bfloat16": sorted({"avx512_bf16", "amx_bf16"} & flags),
        "instructions": sorted({"avx2", "fma", "avx512f", "avx512_vnni", "amx_tile"} & flags),
    }


def kept(before: dict | None, now: dict) -> dict:
    """Put a measurement in the place of that on the same processor; keep those on others.

    Parameters
    ----------
    before : dict or None
        What is stored: ``provenance`` and ``results``, and under ``other_processors`` a list of
        the same from elsewhere.
    now : dict
        ``provenance`` and ``results``.

    Returns
    -------
    dict
        The present measurement, with all others behind it.
    """
    others = [] if before is None else [before, *before.pop("other_processors", [])]
    here = now["provenance"]["cpu"]
    return now | {"other_processors": [r for r in others if r["provenance"]["cpu"] != here]}


def main(
    script: str,
    purpose: str,
    result: Path,
    parts: dict[str, Callable[[int], list[dict]]],
    peak: Callable[..., object],
    rounds: int,
) -> None:
    """Read the command line, measure the parts on one thread, and store them if asked.

    Parameters
    ----------
    script, purpose : str
        The benchmark's file, and its purpose in a line.
    result : Path
        File that ``--write`` updates; parts that were not measured stay as they are, and so do
        measurements on other processors.
    parts : dict of str to callable
        Each takes the number of rounds and returns its results.
    peak : callable
        What a fresh process does with the words of `in_fresh_process`; its answer is printed.
    rounds : int
        Rounds, unless the command line says otherwise.
    """
    parser = argparse.ArgumentParser(description=purpose)
    parser.add_argument("--only", nargs="+", choices=tuple(parts), default=tuple(parts))
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--write", action="store_true", help=f"put the results into {result.name}")
    parser.add_argument("--peak", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.peak:
        print(json.dumps(peak(*args.peak)))
        return
    sys.path.append(str(ROOT / "experiments"))
    from provenance import provenance

    options = f"--only {' '.join(args.only)} --rounds {args.rounds} --write"
    command = f"python benchmarks/{Path(script).name} {options}"
    made_with = provenance(command, **cpu(), rounds=args.rounds)
    print(f"{made_with['cpu']}, 1 thread, torch {version('torch')}, {args.rounds} rounds")
    stored = json.loads(result.read_text()) if result.is_file() else {}
    for part in args.only:
        now = {"provenance": made_with, "results": parts[part](args.rounds)}
        stored[part] = kept(stored.get(part), now)
        if args.write:
            print(write_json(result, stored))
