"""The command line: ``python -m ecgbook`` and one of its commands, see ``--help``."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .labels import POLICIES

if TYPE_CHECKING:
    from .data import ECGDataset
    from .signals import Preprocessing

# Torch takes seconds to load, and is loaded by the command that needs it: --help does not wait.
# A test holds these words and numbers to those of the package.
MODELS = {
    "cnn": ("CNNBaseline", "PRESETS"),
    "vision-mamba": ("ECGVisionMamba", "PRESETS"),
    "enhanced": ("EnhancedECGMamba2", "MAMBA2_PRESETS"),
}
PRESETS = ("full", "tutorial")
ATTACKS = ("fgsm", "n-fgsm", "pgd")
RECIPE = {
    "epochs": (20, "passes over the training records, at most"),
    "batch_size": (32, "records a step"),
    "learning_rate": (2e-3, "peak of the schedule"),
    "patience": (6, "epochs without a better validation score before it stops"),
    "positive_weight": (0.0, "0 treats all labels alike, 1 balances every class"),
}
EPSILON_MV = 0.025
MODEL_HELP = (
    "a model.safetensors that 'train' wrote, or 'tutorial' or 'robust', which come with the book"
)
SOURCE_HELP = "'synthetic', or a folder with manifest.csv as 'download' makes it"
RECORD_HELP = "WFDB header (.hea), a folder of them, or a pattern in quotes, such as 'ecg/*.hea'"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Parameters
    ----------
    arguments : list of str, optional
        Words of the command line; by default those of the process.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError) as error:
        print(f"ecgbook {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"ecgbook {options.command}: stopped", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ecgbook",
        description="Fetch ECGs, train and evaluate the models of the ECG book. "
        "For teaching, not for diagnosis.",
    )
    version = vars(sys.modules["ecgbook"])["__version__"]
    parser.add_argument("--version", action="version", version=f"ecgbook {version}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    download = commands.add_parser("download", help="fetch the book's real ECGs from PhysioNet")
    download.add_argument("--folder", type=Path, default=Path("ecgdata"), help="default: ecgdata")
    download.add_argument(
        "--list", type=Path, help="CSV of the records; default: experiments/records.csv"
    )
    download.add_argument("--jobs", type=int, default=8, help="downloads at once; default: 8")
    download.set_defaults(run=_download)

    train = commands.add_parser("train", help="train a model")
    train.add_argument(
        "--model", choices=MODELS, default="cnn", help="the baseline by default: it is fast"
    )
    train.add_argument(
        "--layers", type=int, help="blocks of the model; by default as many as the book's"
    )
    _add_source(train)
    train.add_argument(
        "--preset", choices=PRESETS, default="tutorial", help="size; default: tutorial"
    )
    train.add_argument(
        "--out", type=Path, help="folder to write; default: runs/ and the name of the model"
    )
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    for name, (default, meaning) in RECIPE.items():
        text = f"{meaning}; default: {default}"
        option = f"--{name.replace('_', '-')}"
        train.add_argument(option, type=type(default), default=default, help=text)
    train.add_argument(
        "--precision",
        choices=("no", "bf16", "fp16"),
        default="no",
        help="mixed; default: no; fp16 wants a GPU",
    )
    train.add_argument(
        "--adversarial", choices=ATTACKS, help="attack every batch; by default none is"
    )
    train.add_argument(
        "--epsilon-mv", type=float, help=f"budget of the attack in mV; default: {EPSILON_MV}"
    )
    train.add_argument(
        "--frequency-mask", action="store_true", help="remove random bands of frequencies"
    )
    train.set_defaults(run=_train)

    evaluate = commands.add_parser("evaluate", help="score a trained model")
    evaluate.add_argument("model", help=MODEL_HELP)
    _add_source(evaluate)
    evaluate.add_argument(
        "--part",
        choices=("train", "valid", "test", "all"),
        default="test",
        help="of the split that 'train' made; default: test",
    )
    evaluate.add_argument("--json", type=Path, help="also write the scores to this file")
    evaluate.set_defaults(run=_evaluate)

    predict = commands.add_parser("predict", help="name the rhythms in records")
    predict.add_argument("model", help=MODEL_HELP)
    predict.add_argument("records", nargs="+", help=RECORD_HELP)
    predict.set_defaults(run=_predict)

    explain = commands.add_parser(
        "explain", help="say which leads and beats a model used, by MambaLRP"
    )
    explain.add_argument("record", type=Path, help="WFDB header (.hea), 12 leads")
    explain.add_argument("--target", required=True, help="class to explain, such as PVC")
    explain.add_argument("--against", help="explain the margin of the target over this class")
    explain.add_argument("--model", default="tutorial", help=f"{MODEL_HELP}; default: tutorial")
    explain.add_argument("--figure", type=Path, help="also draw it on ECG paper, to this file")
    explain.set_defaults(run=_explain)

    export = commands.add_parser("export", help="write a model as ONNX, which runs without PyTorch")
    export.add_argument("model", help=MODEL_HELP)
    export.add_argument("file", type=Path, help="to write: NAME.onnx")
    export.add_argument(
        "--explanation", action="store_true", help="with the MambaLRP relevance of one record"
    )
    export.set_defaults(run=_export)
    return parser


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", default="synthetic", help=f"{SOURCE_HELP}; default: synthetic")
    parser.add_argument("--records", type=int, default=2000, help="synthetic ones; default: 2000")
    parser.add_argument(
        "--policy",
        choices=POLICIES,
        default="extended",
        help="which codes of real records count; default: extended",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of synthetic records, split and training; default: 0"
    )


def _dataset(options: argparse.Namespace, preprocessing: Preprocessing) -> ECGDataset:
    from . import data, synthetic

    if options.data != "synthetic":
        return data.from_folder(options.data, preprocessing, options.policy).distinct()
    return data.from_records(synthetic.make_records(options.records, options.seed), preprocessing)


def _download(options: argparse.Namespace) -> None:
    from . import data

    records = data.read_list(options.list) if options.list else None
    try:
        data.download(options.folder, records, jobs=options.jobs)
    except data.DownloadError as error:
        raise ValueError(str(error)) from error
    print(f"The records are in {options.folder}; export ECGBOOK_DATA={options.folder.resolve()}")


def _train(options: argparse.Namespace) -> None:
    import torch

    from . import data, models
    from .attacks import AdversarialTraining
    from .augment import FrequencyMask
    from .training import Recipe, fingerprint, fit

    preprocessing = models.PREPROCESSING[options.preset]
    attack = None
    if options.adversarial:
        epsilon_mv = EPSILON_MV if options.epsilon_mv is None else options.epsilon_mv
        attack = AdversarialTraining(options.adversarial, epsilon_mv)
    elif options.epsilon_mv is not None:
        raise ValueError(
            f"--epsilon-mv {options.epsilon_mv} without --adversarial found, both wanted; without "
            "an attack a budget has no effect"
        )
    recipe = Recipe(
        **{name: getattr(options, name) for name in RECIPE},
        precision=options.precision,
        seed=options.seed,
        augment=(FrequencyMask(preprocessing.fs_hz),) if options.frequency_mask else (),
        adversarial=attack,
    )
    name, presets = MODELS[options.model]
    layers = {} if options.layers is None else {"n_layers": options.layers}
    torch.manual_seed(options.seed)
    model = getattr(models, name)(**getattr(models, presets)[options.preset], **layers)
    dataset = _dataset(options, preprocessing)
    train, valid, _ = data.split_by_patient(dataset, seed=options.seed)
    out = options.out or Path("runs", options.model)
    about = _origin(options) | {"records_sha256": fingerprint(dataset)}
    bundle = fit(model, train, valid, recipe, out, options.resume, about=about)
    best = bundle.card["epochs"][bundle.card["best_epoch"]]
    print(
        f"{out / 'model.safetensors'}: epoch {best['epoch'] + 1} of "
        f"{len(bundle.card['epochs'])} kept, validation macro-AUROC {best['valid_auroc']:.3f} "
        f"({options.data} records)"
    )


def _evaluate(options: argparse.Namespace) -> None:
    from . import data, metrics, training
    from .storage import write_json

    bundle = training.load(options.model)
    dataset = _dataset(options, bundle.preprocessing)
    if dataset.classes != bundle.classes:
        raise ValueError(
            f"{options.model}: a model of {', '.join(bundle.classes)} found, one of "
            f"{', '.join(dataset.classes)} wanted, which the records are labeled with"
        )
    if options.part != "all":
        _check_origin(options, bundle.card, training.fingerprint(dataset))
        parts = data.split_by_patient(dataset, seed=options.seed)
        dataset = parts[("train", "valid", "test").index(options.part)]
    scores = training.evaluate(dataset, bundle.predict(dataset), bundle.thresholds)
    print(f"{options.part} part of {options.data}: {scores['records']} records, 95 % intervals")
    print(f"{'':6}{'positive':>9}{'AUROC':>24}{'AUPRC':>24}{'F1':>24}")
    for name in ("macro", *bundle.classes):
        count = scores["positives"].get(name, "")
        cells = "".join(
            f"{metrics.format_interval(scores[m][name]):>24}" for m in ("auroc", "auprc", "f1")
        )
        print(f"{name:6}{count:>9}{cells}")
    if options.json:
        write_json(options.json, {"model": str(options.model), "part": options.part} | scores)


def _predict(options: argparse.Namespace) -> None:
    from .records import read_record
    from .training import load

    bundle = load(options.model)
    paths = [path for words in options.records for path in _headers(words)]
    wide = max(7, *map(len, bundle.classes))
    print("Probability of each class; * from the model's threshold on. Not for diagnosis.")
    print(f"{'':32}" + "".join(f"{name:>{wide + 1}} " for name in bundle.classes))
    failed = []
    for path in paths:
        try:
            record = read_record(path)
            with _told_below():
                found = bundle.predict(record)
        except (ValueError, OSError) as error:
            failed.append(path)
            print(f"ecgbook predict: {_with_path(error, path)}", file=sys.stderr)
            continue
        cells = "".join(
            f"{p:{wide + 1}.3f}{'*' if p >= threshold else ' '}"
            for p, threshold in zip(found, bundle.thresholds, strict=True)
        )
        print(f"{path.stem:32}{cells}", flush=True)
        for note in bundle.notes(record):
            print(f"  note: {note}")
    if failed:
        names = ", ".join(str(path) for path in failed[:3]) + (", ..." if failed[3:] else "")
        raise ValueError(
            f"{len(paths) - len(failed)} of {len(paths)} records predicted, {len(failed)} failed: "
            f"{names}; why, is said above"
        )


def _headers(words: str) -> Iterator[Path]:
    """Find the headers that a word of the command line means."""
    path = Path(words)
    if path.is_dir():
        found = sorted(path.rglob("*.hea"))
    elif any(sign in words for sign in "*?[") and not path.exists():
        start = Path(path.anchor or ".")
        found = sorted(start.glob(str(path.relative_to(path.anchor) if path.anchor else path)))
        found = [each for each in found if each.suffix == ".hea"]
    else:
        found = [path]
    if not found:
        raise ValueError(f"{words}: no header (.hea) found, one or more wanted")
    return iter(found)


def _with_path(error: Exception, path: Path) -> str:
    text = str(error)
    return text if str(path.with_suffix("")) in text else f"{path}: {text}"


@contextmanager
def _told_below() -> Iterator[None]:
    """Leave out warnings of what the command prints as notes."""
    from .records import DoubtfulRecordWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DoubtfulRecordWarning)
        yield


def _explain(options: argparse.Namespace) -> None:
    from .explain import MambaLRP
    from .records import find_beats, read_record
    from .storage import whole_file
    from .training import load

    if options.against == options.target:
        raise ValueError(f"--against {options.against} found, a class other than --target wanted")
    if options.figure:
        _check_figure(options.figure)
    record = read_record(options.record)
    target = (options.target, options.against) if options.against else options.target
    bundle = load(options.model)
    with _told_below():
        found = MambaLRP(bundle).explain(record, target)
    print(f"What the model used in {record.name}; for teaching, not for diagnosis.")
    for note in bundle.notes(record):
        print(f"Note: {note}")
    print(found.balance())
    print(f"Input share {found.input_share:.3f}, bias share {1 - found.input_share:.3f}.")
    print(f"Relevance in units of the logit; + speaks for {found.target}.\n")
    print(f"{'':6}{'relevance':>10}{f'share of {found.kind}':>18}")
    for name, value in (*zip(found.leads, found.per_lead(), strict=True), ("biases", found.bias)):
        share = f"{value / found.logit:18.1%}" if found.logit else ""
        print(f"{name:6}{value:+10.3f}{share}")
    end_s = found.start_s + found.mask.sum() / bundle.preprocessing.fs_hz
    peaks_s = find_beats(record.signal_mv, record.fs_hz, record.leads)
    seen_s = peaks_s[(peaks_s >= found.start_s) & (peaks_s < end_s)]
    if len(seen_s):
        print("\n R peak relevance   (lead II, found by XQRS of the wfdb package)")
        for time_s, value in zip(seen_s, found.per_beat(seen_s), strict=True):
            print(f"{time_s:5.2f} s{value:+10.3f}")
        if len(seen_s) < len(peaks_s):
            print(f"{len(peaks_s) - len(seen_s)} more beats lie outside of what the model sees.")
    else:
        print("\nXQRS of the wfdb package finds no R peaks in lead II.")
    if options.figure:
        page = found.plot(seen_s if len(seen_s) else None)
        with whole_file(options.figure) as part:
            kind = options.figure.suffix[1:]
            page.figure.savefig(part, dpi=150, format=kind)  # pyright: ignore[reportAttributeAccessIssue]
        print(f"\nThe page is in {options.figure}")


def _export(options: argparse.Namespace) -> None:
    from .export import explanation_to_onnx, model_to_onnx
    from .training import load

    if options.file.suffix != ".onnx":
        raise ValueError(f"{options.file} found, a name that ends in .onnx wanted")
    write = explanation_to_onnx if options.explanation else model_to_onnx
    try:
        path = write(load(options.model), options.file)
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from error
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, for teaching, not for diagnosis")


def _check_figure(path: Path) -> None:
    """Refuse a figure that could not be written, before the work."""
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in kinds:
        raise ValueError(f"--figure {path} found, a file of type {', '.join(kinds)} wanted")
    if not path.parent.is_dir():
        raise ValueError(f"--figure {path}: no folder {path.parent} found, make it first")


def _origin(options: argparse.Namespace) -> dict:
    """Say where records and split come from, as the card of a model holds it."""
    origin = {"data": options.data, "policy": options.policy, "split_seed": options.seed}
    return origin | ({"synthetic_records": options.records} if options.data == "synthetic" else {})


def _check_origin(options: argparse.Namespace, card: dict, records_sha256: str) -> None:
    """Refuse a part of a split that is not the one the model was trained on."""
    found = _origin(options)
    if card.get("records_sha256") == records_sha256:
        del found["data"]  # the same records, by another path
    else:
        found["records_sha256"] = records_sha256
    if differing := [name for name, value in found.items() if card.get(name) != value]:
        name = differing[0]
        raise ValueError(
            f"{options.model} was trained with {name}={card.get(name)!r}, {found[name]!r} found; "
            f"its {options.part} part exists only there. "
            "Use --part all to score every record of other data"
        )


if __name__ == "__main__":
    sys.exit(main())
