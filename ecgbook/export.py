"""Models, and their explanations, as ONNX files that run without PyTorch: in a page, on a phone.

The graphs are those that `ecgbook.scan.composed` makes possible. A file says in its metadata how
its input is prepared and what its outputs mean. For teaching, not for diagnosis.

Source: ONNX, onnx.ai.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import json
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._decomp import core_aten_decompositions
from torch.fx.experimental.proxy_tensor import make_fx

from .attacks import evaluation_mode
from .explain import lrp
from .storage import to_json, version, whole_file
from .training import Bundle

OPSET = 18
"""Version of ONNX's operators, which runtimes of 2023 and later know."""


def model_to_onnx(bundle: Bundle, path: str | Path) -> Path:
    """Write a model as an ONNX file.

    Its inputs are ``x (batch, n_samples, n_leads)`` float32 in mV and ``mask (batch, n_samples)``
    bool, as ``bundle.prepare`` makes them; its outputs ``logits`` and ``probabilities``, both
    ``(batch, n_classes)`` float32.

    Parameters
    ----------
    bundle : Bundle
    path : str or Path

    Returns
    -------
    Path

    Raises
    ------
    ImportError
        If torch is older than 2.6.
    ModuleNotFoundError
        If onnx or onnxscript is not installed.
    OSError
        If the file cannot be written.
    """
    _check_libraries()
    x, mask = _example(bundle, records=2)
    batch = {"x": {0: "batch"}, "mask": {0: "batch"}}
    names = {"input_names": ["x", "mask"], "output_names": ["logits", "probabilities"]}
    with evaluation_mode(bundle.model, frozen=True):
        graph = _WithProbabilities(bundle.model)
        return _write(graph, (x, mask), path, bundle, dynamic_shapes=batch, **names)


def explanation_to_onnx(bundle: Bundle, path: str | Path) -> Path:
    """Write a model with its MambaLRP explanation as an ONNX file.

    Its inputs are ``x (1, n_samples, n_leads)`` float32 in mV, ``mask (1, n_samples)`` bool, and
    ``target (n_classes,)`` float32: what is explained is the sum of the logits with these weights,
    so 1 for one class, or 1 and -1 for the margin between two. Its outputs are ``logits (1,
    n_classes)`` and ``relevance``, of the shape of ``x``, as `ecgbook.explain.MambaLRP` gives it.

    Parameters
    ----------
    bundle : Bundle
    path : str or Path

    Returns
    -------
    Path

    Raises
    ------
    MissingRule, ValueError
        As `ecgbook.explain.lrp` does.
    ImportError, ModuleNotFoundError, OSError
        As `model_to_onnx` does.
    """
    _check_libraries()
    x, mask = _example(bundle, records=1)
    target = torch.eye(len(bundle.classes))[0]
    table = dict(core_aten_decompositions())
    table[torch.ops.aten.convolution_backward.default] = _convolution_backward
    names = {"input_names": ["x", "mask", "target"], "output_names": ["logits", "relevance"]}
    with evaluation_mode(bundle.model, frozen=True), lrp(bundle.model):
        graph = make_fx(_explained(bundle.model), decomposition_table=table)(x, mask, target)
        return _write(graph, (x, mask, target), path, bundle, **names)


class _WithProbabilities(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(x, mask)
        return logits, logits.sigmoid()


def _explained(model: nn.Module):
    """Return the function of signal, mask and target that gives logits and relevance."""

    def explain(x: Tensor, mask: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            logits = model(x, mask)
            (grad,) = torch.autograd.grad((logits * target).sum(), [x])
        return logits.detach(), (x * grad).masked_fill(~mask[..., None], 0).detach()

    return explain


def _convolution_backward(
    grad, x, weight, bias_sizes, stride, padding, dilation, transposed, _, groups, wanted
):
    """Write the gradient of a convolution's input as a transposed convolution, which ONNX knows."""
    if transposed or list(wanted) != [True, False, False]:
        raise ValueError("the gradient of another convolution, or of its weights, cannot be traced")
    reached = [
        (n - 1) * s - 2 * p + d * (k - 1) + 1
        for n, s, p, d, k in zip(
            grad.shape[2:], stride, padding, dilation, weight.shape[2:], strict=True
        )
    ]
    rest = [n - r for n, r in zip(x.shape[2:], reached, strict=True)]
    options = stride, padding, dilation, True, rest, groups
    return torch.ops.aten.convolution.default(grad, weight, None, *options), None, None


def _example(bundle: Bundle, records: int) -> tuple[Tensor, Tensor]:
    """Return noise of the shape of the model's input, half of it padding."""
    samples = bundle.preprocessing.n_samples
    x = 0.1 * torch.randn(records, samples, len(bundle.leads))
    return x, torch.arange(samples).expand(records, -1) < samples // 2


def _check_libraries() -> None:
    if "optimize" not in inspect.signature(torch.onnx.export).parameters:
        raise ImportError(
            f"torch {torch.__version__} found, 2.6 or newer wanted to write ONNX: "
            "pip install --upgrade torch"
        )
    for name in ("onnx", "onnxscript"):
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(
                f"{name} not found, wanted to write ONNX: pip install onnx onnxscript"
            )


def _write(graph: nn.Module, inputs: tuple, path: str | Path, bundle: Bundle, **options) -> Path:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of what the exporter says about itself
        program = torch.onnx.export(
            graph, inputs, dynamo=True, opset_version=OPSET, verbose=False, **options
        )
    about = {
        "use": "for teaching, not for diagnosis",
        "ecgbook": version(),
        "classes": to_json(bundle.classes),
        "leads": to_json(bundle.leads),
        "thresholds": to_json(bundle.thresholds),
        "preprocessing": to_json(bundle.preprocessing.to_dict()),
    }
    program.model.metadata_props.update(about)
    with whole_file(path) as part:
        program.save(str(part), external_data=False)
    return Path(path)


def read_metadata(path: str | Path) -> dict:
    """Read what an ONNX file of this package says about itself.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    dict
        ``classes``, ``leads``, ``thresholds``, ``preprocessing``, ``ecgbook`` and ``use``.

    Raises
    ------
    ValueError
        If the file is no model of this package.
    """
    import onnx

    try:
        props = {p.key: p.value for p in onnx.load(str(path)).metadata_props}
        plain = {name: props[name] for name in ("use", "ecgbook")}
        names = ("classes", "leads", "thresholds", "preprocessing")
        return plain | {name: json.loads(props[name]) for name in names}
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}: an ONNX file of ecgbook wanted, {error!r} found") from error
