"""Models and explanations as graphs that run elsewhere: does each export, how large, how exact.

``python experiments/export_parity.py`` writes results/export.json: for each size and model, what
`torch.export` and `ecgbook.export` make of it, the seconds that takes, the MiB of the ONNX file,
and the largest error against the model as it is, relative to the largest value. Batches of 1 and
2 are compared, also where the graph was made with another one. The seconds are of one thread and
one run, so they are noisy.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from compositions import apart
from provenance import provenance
from torch import Tensor

from ecgbook import export, models, results
from ecgbook.explain import MambaLRP
from ecgbook.models import MAMBA2_PRESETS, PREPROCESSING, PRESETS
from ecgbook.storage import write_json
from ecgbook.training import Bundle

RESULT = Path(__file__).parent / "results" / "export.json"
MODELS = ("CNNBaseline", "EnhancedECGMamba2", "ECGVisionMamba")  # the longest comes last
EXPLAINED = "EnhancedECGMamba2"
SIZES: dict[str, dict] = {"tutorial": {"n_layers": 1}, "full": {}}
"""What is changed of each preset: one layer, as the ladder's models have; the full depth."""
ALLOWED = 1e-4
"""Largest error of any graph."""


def build(name: str, size: str, **changes) -> Bundle:
    """Return an untrained model of a preset, ready to be exported."""
    torch.manual_seed(0)
    preset = (MAMBA2_PRESETS if name == "EnhancedECGMamba2" else PRESETS)[size]
    model = getattr(models, name)(**preset | changes).eval()
    return Bundle(model, PREPROCESSING[size], np.full(5, 0.5))


def signals(bundle: Bundle, records: int) -> tuple[Tensor, Tensor]:
    """Return noise of the size of an ECG, a quarter of the last record padding."""
    samples = bundle.preprocessing.n_samples
    x = 0.3 * torch.randn(records, samples, len(bundle.leads))
    ends = torch.full((records, 1), samples)
    ends[-1] = 3 * samples // 4
    return x, torch.arange(samples) < ends


def exported(bundle: Bundle) -> dict:
    """`torch.export` with any batch."""
    batch = torch.export.Dim("batch", min=1, max=64)
    shapes = {0: batch}, {0: batch}
    began = time.perf_counter()
    graph = torch.export.export(bundle.model, signals(bundle, 3), dynamic_shapes=shapes).module()
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "error": {"logits": worst(graph, bundle)}}


def as_onnx(bundle: Bundle) -> dict:
    """`ecgbook.export.model_to_onnx`, run by onnxruntime."""
    found, run = _written(export.model_to_onnx, bundle)
    return found | {"error": {"logits": worst(lambda x, mask: run(x=x, mask=mask)[0], bundle)}}


def explanation_as_onnx(bundle: Bundle) -> dict:
    """`ecgbook.export.explanation_to_onnx`, run by onnxruntime."""
    found, run = _written(export.explanation_to_onnx, bundle)
    x, mask = signals(bundle, 1)
    target = torch.eye(len(bundle.classes))[1]
    logits, relevance = run(x=x, mask=mask, target=target)
    error = {
        "logits": apart(logits, bundle.model(x, mask).detach()),
        "relevance": apart(relevance, MambaLRP(bundle).attribute(x, 1, mask)),
    }
    return found | {"error": error}


def worst(run: Callable[[Tensor, Tensor], Tensor], bundle: Bundle) -> float:
    """Return the largest error of the logits of one and of two records."""
    with torch.no_grad():
        batches = [signals(bundle, records) for records in (1, 2)]
        return max(apart(run(*batch), bundle.model(*batch)) for batch in batches)


def _written(write: Callable, bundle: Bundle) -> tuple[dict, Callable]:
    """Write a file, read it and throw it away; return its figures and how to run it."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        path = write(bundle, Path(folder) / "model.onnx")
        found = {"seconds": time.perf_counter() - began, "mib": path.stat().st_size / 2**20}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path.read_bytes(), options)

    def run(**inputs: Tensor) -> list[Tensor]:
        arrays = {name: value.numpy() for name, value in inputs.items()}
        return [torch.from_numpy(value) for value in session.run(None, arrays)]

    return found, run


def row(name: str, size: str, **changes) -> dict:
    """Measure one model of one size, built with `changes` to its preset."""
    bundle = build(name, size, **changes)
    ways = {"torch.export": exported, "onnx": as_onnx}
    if name == EXPLAINED:
        ways["onnx, explanation"] = explanation_as_onnx
    found: dict = {"parameters": sum(p.numel() for p in bundle.model.parameters())}
    for way, measure in ways.items():
        found[way] = measure(bundle)
        print(f"{size:9} {name:18} {way:18} {found[way]}", flush=True)
    return found


def main() -> None:
    """Measure all, or one model of one size, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", nargs=2, metavar=("SIZE", "MODEL"), help="keep the others")
    one = parser.parse_args().one
    torch.set_num_threads(1)
    libraries = {name: version(name) for name in ("onnx", "onnxscript", "onnxruntime")}
    command = " ".join(["python experiments/export_parity.py", *(["--one", *one] if one else [])])
    made_with = provenance(command, export_versions=libraries)
    if one:
        size, name = one
        found = results("export")
        measured = row(name, size, **SIZES[size])
        found["rows"][size][name] = measured | {"provenance": made_with}
        write_json(RESULT, found)
        return
    rows: dict = {size: {} for size in SIZES}
    for size, changes in SIZES.items():
        for name in MODELS:
            rows[size][name] = row(name, size, **changes)
            write_json(RESULT, {"provenance": made_with, "rows": rows})


if __name__ == "__main__":
    main()
