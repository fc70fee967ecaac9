"""ONNX files: the models and their explanations, run without PyTorch, give the same numbers."""

import inspect

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import ecgbook
from ecgbook import export, models, synthetic
from ecgbook.__main__ import main
from ecgbook.explain import MambaLRP
from ecgbook.models import MAMBA2_PRESETS, PREPROCESSING, PRESETS
from ecgbook.signals import Preprocessing
from ecgbook.training import Bundle

OLD = "optimize" not in inspect.signature(torch.onnx.export).parameters
needs_exporter = pytest.mark.skipif(OLD, reason="torch 2.6 writes ONNX first")


def built(cls, leads=ecgbook.leads.LEADS, samples=2048, **sizes):
    torch.manual_seed(0)
    presets = MAMBA2_PRESETS if cls is models.EnhancedECGMamba2 else PRESETS
    model = cls(**presets["tutorial"], n_layers=1, leads=leads, **sizes).eval()
    steps = Preprocessing(fs_hz=125, n_samples=samples)
    classes = tuple("ABCDE"[: model.config["n_classes"]])
    return Bundle(model, steps, np.linspace(0.2, 0.8, len(classes)), {}, classes, leads)


def signals(bundle, n, seed=0):
    rng = np.random.default_rng(seed)
    samples = bundle.preprocessing.n_samples
    x = 0.3 * rng.standard_normal((n, samples, len(bundle.leads))).astype(np.float32)
    mask = np.arange(samples) < rng.integers(samples // 2, samples, n)[:, None]
    return x, mask


@needs_exporter
@pytest.mark.parametrize(
    "bundle",
    [
        built(models.CNNBaseline, n_classes=3),
        built(models.ECGVisionMamba, samples=512),
        built(models.EnhancedECGMamba2, ("I", "II", "V1", "V2"), samples=512, n_classes=2),
    ],
    ids=["cnn", "vision mamba", "enhanced, four leads"],
)
def test_a_model_runs_without_torch_for_any_batch(bundle, tmp_path):
    path = export.model_to_onnx(bundle, tmp_path / "model.onnx")
    onnx.checker.check_model(str(path))
    session = onnxruntime.InferenceSession(str(path))
    for n in (1, 3):
        x, mask = signals(bundle, n, seed=n)
        logits, probabilities = session.run(None, {"x": x, "mask": mask})
        with torch.no_grad():
            wanted = bundle.model(torch.from_numpy(x), torch.from_numpy(mask)).numpy()
        np.testing.assert_allclose(logits, wanted, atol=1e-4)
        np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-wanted)), atol=1e-5)
    about = export.read_metadata(path)
    assert tuple(about["classes"]) == bundle.classes and tuple(about["leads"]) == bundle.leads
    assert about["thresholds"] == pytest.approx(bundle.thresholds)
    assert Preprocessing.from_dict(about["preprocessing"]) == bundle.preprocessing
    assert about["use"] == "for teaching, not for diagnosis"
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"], "one file, with the weights"


@needs_exporter
@pytest.mark.parametrize("cls", [models.CNNBaseline, models.EnhancedECGMamba2])
def test_an_explanation_runs_without_torch(cls, tmp_path):
    bundle = built(cls, samples=256)
    bundle.model.head.requires_grad_(False)
    path = export.explanation_to_onnx(bundle, tmp_path / "explain.onnx")
    session = onnxruntime.InferenceSession(str(path))
    x, mask = signals(bundle, 1)
    targets = {"C": ("C",), "A": ("A",), ("B", "D"): ("B", "D")}
    for target, names in targets.items():
        weights = np.zeros(5, np.float32)
        for name, sign in zip(names, (1, -1), strict=False):
            weights[bundle.classes.index(name)] = sign
        logits, relevance = session.run(None, {"x": x, "mask": mask, "target": weights})
        tensors = torch.from_numpy(x), torch.from_numpy(mask)
        wanted = MambaLRP(bundle).attribute(tensors[0], target, tensors[1]).numpy()
        np.testing.assert_allclose(relevance, wanted, atol=1e-4 * np.abs(wanted).max())
        np.testing.assert_allclose(logits, bundle.model(*tensors).detach(), atol=1e-4)
        assert (relevance[~mask] == 0).all()
    assert not any("forward" in vars(m) for m in bundle.model.modules())
    assert [p.requires_grad for p in bundle.model.head.parameters()] == [False, False]
    assert bundle.model.stem.conv1.weight.requires_grad and not bundle.model.training


@needs_exporter
def test_the_command_line_writes_a_file_that_predicts_as_the_bundle_does(tmp_path, capsys):
    torch.manual_seed(0)
    model = models.CNNBaseline(**PRESETS["tutorial"], n_layers=1).eval()
    bundle = Bundle(model, PREPROCESSING["tutorial"], np.full(5, 0.5))
    saved = str(ecgbook.training.save(bundle, tmp_path / "m.safetensors"))
    path = tmp_path / "m.onnx"
    assert main(["export", saved, str(path)]) == 0
    assert "m.onnx" in capsys.readouterr().out
    [record] = synthetic.make_records(1, seed=3)
    x, mask = bundle.prepare(record)
    session = onnxruntime.InferenceSession(str(path))
    _, found = session.run(None, {"x": x[None], "mask": mask[None]})
    np.testing.assert_allclose(found[0], bundle.predict(record), atol=1e-5)
    assert main(["export", saved, str(tmp_path / "m.txt")]) == 1
    assert "m.txt found, a name that ends in .onnx wanted" in capsys.readouterr().err


def test_what_is_no_file_of_this_package_is_named(tmp_path):
    path = tmp_path / "x.onnx"
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [])), path)
    with pytest.raises(ValueError, match="x.onnx: an ONNX file of ecgbook wanted"):
        export.read_metadata(path)


@pytest.mark.parametrize("write", [export.model_to_onnx, export.explanation_to_onnx])
def test_an_old_torch_is_named(write, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.onnx, "export", lambda model, args, f: None)
    with pytest.raises(ImportError, match=r"torch \S+ found, 2.6 or newer wanted to write ONNX"):
        write(built(models.CNNBaseline), tmp_path / "x.onnx")


@needs_exporter
def test_a_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="onnx not found, wanted to write ONNX: pip inst"):
        export.model_to_onnx(built(models.CNNBaseline), tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []
