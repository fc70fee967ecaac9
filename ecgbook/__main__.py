"""The command line: ``python -m ecgbook download | train | evaluate | predict | explain``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from . import data, metrics, models, synthetic, training
from .attacks import ATTACKS, AdversarialTraining
from .augment import FrequencyMask
from .data import ECGDataset, from_folder, from_records
from .explain import MambaLRP
from .labels import POLICIES, RHYTHMS
from .leads import LEADS
from .records import Record, find_beats, read_record
from .signals import Preprocessing
from .storage import write_json
from .training import Recipe, fingerprint, fit

MODELS = {
    "cnn": (models.CNNBaseline, models.PRESETS),
    "vision-mamba": (models.ECGVisionMamba, models.PRESETS),
    "enhanced": (models.EnhancedECGMamba2, models.MAMBA2_PRESETS),
}
MODEL_HELP = (
    "a model.safetensors that 'train' wrote, or 'tutorial' or 'robust', which come with the book"
)
SOURCE_HELP = "'synthetic', or a folder with manifest.csv as 'download' makes it"


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
    except (ValueError, OSError, data.DownloadError) as error:
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
        "--preset", choices=models.PRESETS, default="tutorial", help="size; default: tutorial"
    )
    train.add_argument(
        "--out", type=Path, help="folder to write; default: runs/ and the name of the model"
    )
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    for name, meaning in (
        ("epochs", "passes over the training records, at most"),
        ("batch_size", "records a step"),
        ("learning_rate", "peak of the schedule"),
        ("patience", "epochs without a better validation score before it stops"),
        ("positive_weight", "0 treats all labels alike, 1 balances every rhythm"),
    ):
        default, option = getattr(Recipe, name), f"--{name.replace('_', '-')}"
        text = f"{meaning}; default: {default}"
        train.add_argument(option, type=type(default), default=default, help=text)
    train.add_argument(
        "--precision", choices=("no", "bf16", "fp16"), default="no", help="mixed; default: no"
    )
    train.add_argument(
        "--adversarial", choices=ATTACKS, help="attack every batch; by default none is"
    )
    train.add_argument(
        "--epsilon-mv", type=float, default=0.025, help="budget of the attack; default: 0.025"
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
    predict.add_argument("records", type=Path, nargs="+", help="WFDB headers (.hea), 12 leads")
    predict.set_defaults(run=_predict)

    explain = commands.add_parser(
        "explain", help="say which leads and beats a model used, by MambaLRP"
    )
    explain.add_argument("record", type=Path, help="WFDB header (.hea), 12 leads")
    explain.add_argument("--target", choices=RHYTHMS, required=True, help="rhythm to explain")
    explain.add_argument(
        "--against", choices=RHYTHMS, help="explain the margin of the target over this rhythm"
    )
    explain.add_argument("--model", default="tutorial", help=f"{MODEL_HELP}; default: tutorial")
    explain.add_argument("--figure", type=Path, help="also draw it on ECG paper, to this file")
    explain.set_defaults(run=_explain)
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
    if options.data != "synthetic":
        return from_folder(options.data, preprocessing, options.policy).distinct()
    return from_records(synthetic.make_records(options.records, options.seed), preprocessing)


def _download(options: argparse.Namespace) -> None:
    records = data.read_list(options.list) if options.list else None
    data.download(options.folder, records, jobs=options.jobs)
    print(f"The records are in {options.folder}; export ECGBOOK_DATA={options.folder.resolve()}")


def _train(options: argparse.Namespace) -> None:
    preprocessing = models.PREPROCESSING[options.preset]
    attack = options.adversarial and AdversarialTraining(options.adversarial, options.epsilon_mv)
    recipe = Recipe(
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        patience=options.patience,
        positive_weight=options.positive_weight,
        precision=options.precision,
        seed=options.seed,
        augment=(FrequencyMask(preprocessing.fs_hz),) if options.frequency_mask else (),
        adversarial=attack,
    )
    dataset = _dataset(options, preprocessing)
    train, valid, _ = data.split_by_patient(dataset, seed=options.seed)
    torch.manual_seed(options.seed)
    cls, presets = MODELS[options.model]
    layers = {} if options.layers is None else {"n_layers": options.layers}
    model = cls(**presets[options.preset], **layers)
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
    bundle = training.load(options.model)
    dataset = _dataset(options, bundle.preprocessing)
    if options.part != "all":
        _check_origin(options, bundle.card, fingerprint(dataset))
        parts = data.split_by_patient(dataset, seed=options.seed)
        dataset = parts[("train", "valid", "test").index(options.part)]
    scores = training.evaluate(dataset, training.predict(bundle.model, dataset), bundle.thresholds)
    print(f"{options.part} part of {options.data}: {scores['records']} records, 95 % intervals")
    print(f"{'':6}{'positive':>9}{'AUROC':>24}{'AUPRC':>24}{'F1':>24}")
    for name in ("macro", *RHYTHMS):
        count = scores["positives"].get(name, "")
        cells = "".join(
            f"{metrics.format_interval(scores[m][name]):>24}" for m in ("auroc", "auprc", "f1")
        )
        print(f"{name:6}{count:>9}{cells}")
    if options.json:
        write_json(options.json, {"model": str(options.model), "part": options.part} | scores)


def _predict(options: argparse.Namespace) -> None:
    bundle = training.load(options.model)
    print("Probability of each rhythm; * from the model's threshold on. Not for diagnosis.")
    print(f"{'':32}" + "".join(f"{rhythm:>8} " for rhythm in RHYTHMS))
    for path in options.records:
        record = read_record(path)
        found = bundle.predict(record)
        marks = np.where(found >= bundle.thresholds, "*", " ")
        cells = "".join(f"{p:8.3f}{mark}" for p, mark in zip(found, marks, strict=True))
        print(f"{path.stem:32}{cells}")
        for note in _notes(record, bundle.preprocessing):
            print(f"  note: {note}")


def _notes(record: Record, preprocessing: Preprocessing) -> list[str]:
    """Say what is doubtful in a record, and which part of it a model sees."""
    notes = list(record.notes)
    window_s = preprocessing.n_samples / preprocessing.fs_hz
    if record.duration_s > window_s + 1 / preprocessing.fs_hz:
        start_s = preprocessing.start_s(len(record.signal_mv), record.fs_hz)
        notes.append(
            f"the model sees {start_s:.1f} to {start_s + window_s:.1f} s of "
            f"{record.duration_s:.1f} s, and nothing else"
        )
    return notes


def _explain(options: argparse.Namespace) -> None:
    if options.against == options.target:
        raise ValueError(f"--against {options.against} found, a rhythm other than --target wanted")
    record = read_record(options.record)
    target = (options.target, options.against) if options.against else options.target
    bundle = training.load(options.model)
    found = MambaLRP(bundle).explain(record, target)
    print(f"What the model used in {record.name}; for teaching, not for diagnosis.")
    for note in _notes(record, bundle.preprocessing):
        print(f"Note: {note}")
    print(found.balance())
    print(f"Input share {found.input_share:.3f}, bias share {1 - found.input_share:.3f}.")
    print(f"Relevance in units of the logit; + speaks for {found.target}.\n")
    print(f"{'':6}{'relevance':>10}{f'share of {found.kind}':>18}")
    for name, value in (*zip(LEADS, found.per_lead(), strict=True), ("biases", found.bias)):
        share = f"{value / found.logit:18.1%}" if found.logit else ""
        print(f"{name:6}{value:+10.3f}{share}")
    peaks_s = find_beats(record.signal_mv, record.fs_hz)
    if len(peaks_s):
        print("\n R peak relevance   (lead II, found by XQRS of the wfdb package)")
        for time_s, value in zip(peaks_s, found.per_beat(peaks_s), strict=True):
            print(f"{time_s:5.2f} s{value:+10.3f}")
    else:
        print("\nXQRS of the wfdb package finds no R peaks in lead II.")
    if options.figure:
        page = found.plot(peaks_s if len(peaks_s) else None)
        page.figure.savefig(options.figure, dpi=150)  # pyright: ignore[reportAttributeAccessIssue]
        print(f"\nThe page is in {options.figure}")


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
