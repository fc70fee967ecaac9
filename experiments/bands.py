"""Where waves have their energy, and what models lose without a band; write results/bands.json.

    python experiments/bands.py                    # everything; real records in ECGBOOK_DATA
    python experiments/bands.py --data synthetic
    python experiments/bands.py --recompute        # score what was predicted again, run no model

experiments/plan.md, "Bands", says what is measured and why; it was written before. The logits of
every condition are kept in results/band_predictions, in half precision, with the labels. Each model
was trained once: the intervals are over patients, not over seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from disturbances import BANDS_HZ, choose
from provenance import provenance
from scipy.ndimage import maximum_filter1d
from torch import Tensor

from ecgbook import data, metrics, models, training
from ecgbook.data import ECGDataset
from ecgbook.labels import RHYTHMS
from ecgbook.leads import INDEPENDENT, index
from ecgbook.metrics import bootstrap, paired_bootstrap
from ecgbook.signals import remove_band
from ecgbook.storage import read_safetensors, write_json, write_safetensors
from ecgbook.synthetic import WAVE_KINDS, SyntheticRecord, make_records
from ecgbook.training import fingerprint

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "bands.json"
PREDICTIONS = HERE / "results" / "band_predictions"
STEPS = replace(models.PREPROCESSING["tutorial"], n_samples=1250)
"""As both models want it, cut to 10 s: no record is padded."""

FS_HZ = STEPS.fs_hz
N_RECORDS, SEED = 400, 1003
FAR_S = 0.25
MODELS = ("tutorial", "robust")
SOURCES = ("synthetic", "real")
BANDS = {f"{low:g}-{high:g}": (low, high) for low, high in BANDS_HZ}
EDGES_HZ = {"sharp": 0.0, "soft": 2.0}
OTHER_EDGES_HZ = {"soft, 1 Hz": 1.0, "soft, 4 Hz": 4.0}
"""For the first model, on synthetic records only."""


def synthetic_records(n: int = N_RECORDS, **options) -> list[SyntheticRecord]:
    """Make the synthetic records, or some components of them."""
    return make_records(n, SEED, FS_HZ, **options)


def prepared(records: list[SyntheticRecord]) -> Tensor:
    """Return what a model would get of records, shape (n, samples, 12), float64."""
    x = np.stack([STEPS(record.signal_mv, record.fs_hz)[0] for record in records])
    return torch.from_numpy(x).double()


def taken(x: Tensor, band: str, edge_hz: float = 0.0) -> Tensor:
    """Return what the removal of a band takes from records."""
    return x - remove_band(x, FS_HZ, *BANDS[band], edge_hz=edge_hz)


# Energy -----------------------------------------------------------------------------------------


def components(n: int = N_RECORDS) -> dict[str, Tensor]:
    """Render every kind of wave alone, and the disturbances alone, and prepare them."""
    parts = {kind: prepared(synthetic_records(n, waves=kind, noise=0)) for kind in WAVE_KINDS}
    return parts | {"disturbances": prepared(synthetic_records(n, waves=()))}


def energy_shares(x: Tensor) -> dict[str, float]:
    """Share out the energy of whole records among the bands and what lies outside of all."""
    whole = x.square().sum()
    shares = {band: float(taken(x, band).square().sum() / whole) for band in BANDS}
    return shares | {"outside": 1 - sum(shares.values())}


def during(record: SyntheticRecord, *kinds: str) -> np.ndarray:
    """Mark the samples inside waves of some kinds, shape (samples,)."""
    at = np.arange(STEPS.n_samples) / FS_HZ
    waves = record.waves[np.isin(record.waves.wave, kinds)][:, None]
    return ((at >= waves.onset_s) & (at < waves.offset_s)).any(0)


def windowed(x: Tensor, records: list[SyntheticRecord]) -> dict[str, dict]:
    """Share out what removed bands hold inside of windows, as if it were the energy there.

    ``times`` says how often the energy that is there was counted: it is no 1, since parts that are
    perpendicular over the whole record are not so in a window.
    """
    rows = {kind: np.array([during(r, kind) for r in records]) for kind in ("P", "QRS", "T")}
    rest = ~np.logical_or.reduce(list(rows.values()))
    for rhythm in ("AF", "AFL"):
        shown = np.array([r.labels[RHYTHMS.index(rhythm)] > 0 for r in records])
        rows[f"rest, {rhythm}"] = rest & shown[:, None]
    power = {band: taken(x, band).square().sum(2).numpy() for band in BANDS}
    whole, found = x.square().sum(2).numpy(), {}
    for name, where in rows.items():
        sums = {band: each[where].sum() for band, each in power.items()}
        total = sum(sums.values())
        shares = {band: each / total for band, each in sums.items()}
        found[name] = {"times": total / whole[where].sum(), "shares": shares}
    return found


def energy(records: list[SyntheticRecord], parts: dict[str, Tensor]) -> dict:
    """Measure where each kind of wave has its energy, and what windows would say."""
    x, edges = prepared(records), list(EDGES_HZ.items())
    whole = x.square().sum()
    return {
        "shares": {kind: energy_shares(part) for kind, part in parts.items()},
        "of_the_record": {kind: float(p.square().sum() / whole) for kind, p in parts.items()},
        "taken": {
            band: {name: float(taken(x, band, hz).square().sum() / whole) for name, hz in edges}
            for band in BANDS
        },
        "not_in_components": float((x - sum(parts.values())).square().sum() / whole),
        "windowed": windowed(x, records),
    }


# Ringing ----------------------------------------------------------------------------------------


def root_mean_square_uv(x: Tensor) -> float:
    """Return the size of samples in µV, over the independent leads."""
    return 1e3 * float(x[..., index(INDEPENDENT)].square().mean().sqrt())


def ringing(records: list[SyntheticRecord], parts: dict[str, Tensor]) -> dict:
    """Measure what removals take outside of QRS complexes from records that hold nothing else.

    Far is where no QRS complex is within `FAR_S`.
    """
    inside = np.array([during(r, "QRS") for r in records])
    outside = ~torch.from_numpy(inside)
    far = ~torch.from_numpy(maximum_filter1d(inside, 1 + 2 * round(FAR_S * FS_HZ), axis=1))
    found = {}
    for band in BANDS:
        found[band] = {}
        for name, edge_hz in EDGES_HZ.items():
            part = taken(parts["QRS"], band, edge_hz)
            found[band][name] = {
                "share_outside": float(part[outside].square().sum() / part.square().sum()),
                "outside_uv": root_mean_square_uv(part[outside]),
                "far_uv": root_mean_square_uv(part[far]),
            }
        for kind in ("f", "F"):
            shown = parts[kind].abs().amax((1, 2)) > 0
            found[band][f"{kind}_uv"] = root_mean_square_uv(taken(parts[kind][shown], band))
    return found


# Removal ----------------------------------------------------------------------------------------


def random_turns(n: int, samples: int, seed: int = 0) -> Tensor:
    """Draw a phase for every frequency of every record, shape (n, frequencies, 1), complex128.

    Frequencies without a phase, 0 and half the sampling rate, get a sign.
    """
    generator = torch.Generator().manual_seed(seed)
    turns = torch.rand((n, samples // 2 + 1, 1), dtype=torch.float64, generator=generator)
    real = [0, -1] if samples % 2 == 0 else [0]
    turns[:, real] = turns[:, real].round() / 2
    return torch.exp(2j * torch.pi * turns)


def shuffled(x: Tensor, turns: Tensor) -> Tensor:
    """Return signals of the same spectrum, and so the same energy, with other phases."""
    return torch.fft.irfft(torch.fft.rfft(x, dim=1) * turns, x.shape[1], dim=1)


def conditions(x: Tensor, other_edges: bool) -> Iterator[tuple[str, Tensor]]:
    """Yield the whole records, then each band removed and, of the same energy, put in."""
    yield "whole", x
    turns = random_turns(*x.shape[:2])
    for band in BANDS:
        for name, edge_hz in EDGES_HZ.items():
            part = taken(x, band, edge_hz)
            yield f"{band}/{name}", x - part
            yield f"{band}/null, {name}", x + shuffled(part, turns)
        for name, edge_hz in OTHER_EDGES_HZ.items() if other_edges else ():
            yield f"{band}/{name}", x - taken(x, band, edge_hz)


def logits(model: torch.nn.Module, x: Tensor) -> np.ndarray:
    """Return the logits of records, shape (n, 5), float32."""
    with torch.no_grad():
        return torch.cat([model(part.float()) for part in x.split(32)]).numpy()


def test_records(source: str) -> ECGDataset:
    """Return the records of one kind, none of them shorter than 10 s."""
    if source == "synthetic":
        return data.from_records(synthetic_records(), STEPS)
    folder = data.data_folder()
    if folder is None:
        raise SystemExit("ECGBOOK_DATA is not set: real records wanted")
    records = data.from_folder(folder, STEPS).distinct()
    return choose(records.subset(records.n_valid == STEPS.n_samples), N_RECORDS)


def predict(source: str) -> None:
    """Keep the logits of both models under every condition, with all that it takes to score."""
    records = test_records(source)
    command = f"python experiments/bands.py --data {source}"
    made_with = provenance(
        command, data_sha256=fingerprint(records), preprocessing=STEPS.to_dict(), seeds=1
    )
    x = torch.from_numpy(np.asarray(records.x)).double()
    groups = np.unique(records.groups, return_inverse=True)[1]
    arrays = {"y": records.y, "y_mask": records.y_mask, "groups": groups}
    met = {}
    for name in MODELS:
        model, found = training.load(name).model, {}
        for condition, changed in conditions(x, source == "synthetic" and name == MODELS[0]):
            print(f"{source}, {name}: {condition}", flush=True)
            found[condition] = logits(model, changed)
        met[name] = list(found)
        arrays[name] = np.stack(list(found.values())).astype(np.float16)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(each)) for name, each in arrays.items()}
    header = {"conditions": met, "provenance": made_with}
    write_safetensors(PREDICTIONS / f"{source}.safetensors", tensors, header)


# Scores -----------------------------------------------------------------------------------------


def separation(y, p, mask=None, weights=None) -> np.ndarray:
    """Return how far apart the mean scores of records with and without a label are.

    A metric as `ecgbook.metrics.bootstrap` wants it: y, p, mask (n, k), weights (draws, n); returns
    (k,) or (draws, k).
    """
    y, p = np.asarray(y, dtype=np.float64), np.asarray(p, dtype=np.float64)
    trusted = np.ones_like(y) if mask is None else np.asarray(mask, dtype=np.float64)
    each = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=np.float64)
    with np.errstate(invalid="ignore"):  # a draw without a label has no mean
        yes, no = ((each @ (p * w)) / (each @ w) for w in (y * trusted, (1 - y) * trusted))
    return yes - no


def lost(y, p, mask=None, weights=None) -> np.ndarray:
    """Return the share of the separation that is lost, a metric of two sets of scores at once.

    Half of the columns of y, p and mask, (n, 2 k), are those of the whole records, the other half
    of changed ones: so both meet the same draws.
    """
    whole, changed = np.split(separation(y, p, mask, weights), 2, axis=-1)
    return 1 - changed / whole


def score(source: str) -> dict:
    """Score what was kept of one kind of records."""
    tensors, header = read_safetensors(PREDICTIONS / f"{source}.safetensors")
    arrays = {name: tensor.numpy().astype(np.float64) for name, tensor in tensors.items()}
    y, mask, groups = arrays["y"], arrays["y_mask"].astype(bool), arrays["groups"].astype(int)
    found = {}
    for name in MODELS:
        by_condition = dict(zip(header["conditions"][name], arrays[name], strict=True))
        found[name] = scored(by_condition, y, mask, groups)
    return {
        "records": len(y),
        "patients": len(np.unique(groups)),
        "positives": dict(zip(RHYTHMS, (y * mask).sum(0).astype(int), strict=True)),
        "models": found,
        "provenance": header["provenance"],
    }


def scored(z: dict[str, np.ndarray], y: np.ndarray, mask: np.ndarray, groups: np.ndarray) -> dict:
    """Score a model: what there is to lose, and what of it is lost without each band.

    Every entry is [value, low, high] by rhythm; None where the whole records are not separated.
    """
    draw = partial(bootstrap, y=y, mask=mask, groups=groups)
    whole = z["whole"]
    apart = draw(separation, p=whole)
    shown = apart.low > 0
    twice = {"y": np.tile(y, 2), "mask": np.tile(mask, 2), "groups": groups}

    def further(before: str, after: str) -> dict:  # lost in one condition beyond another
        p_a, p_b = (np.hstack([whole, z[condition]]) for condition in (before, after))
        return by_rhythm(paired_bootstrap(lost, p_a=p_a, p_b=p_b, **twice), shown)

    result = {
        "separation": by_rhythm(apart),
        "auroc": by_rhythm(draw(metrics.auroc, p=whole)),
        "bands": {},
    }
    for band in BANDS:
        names = [each.split("/")[1] for each in z if each.startswith(f"{band}/")]
        soft, sharp = f"{band}/soft", f"{band}/sharp"
        result["bands"][band] = {
            "lost": {name: further("whole", f"{band}/{name}") for name in names},
            "ringing": further(soft, sharp),
            "over_null": further(f"{band}/null, soft", soft),
            "auroc": {
                name: by_rhythm(draw(metrics.auroc, p=z[f"{band}/{name}"])) for name in names
            },
            "auroc_soft_over_sharp": by_rhythm(
                paired_bootstrap(metrics.auroc, y, z[sharp], z[soft], groups=groups, mask=mask)
            ),
        }
    return result


def by_rhythm(found: metrics.Interval, shown: np.ndarray | None = None) -> dict:
    """Return [value, low, high] for every rhythm; None where it is not shown to be defined."""
    rows = np.transpose([found.value, found.low, found.high]).tolist()
    shown = np.ones(len(rows), dtype=bool) if shown is None else shown
    return {r: row if s else None for r, row, s in zip(RHYTHMS, rows, shown, strict=True)}


def main() -> None:
    """Make what the command line names, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=SOURCES, nargs="+", default=SOURCES)
    parser.add_argument("--recompute", action="store_true", help="score again, run no model")
    options = parser.parse_args()
    results = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    results |= {"bands_hz": BANDS, "edges_hz": EDGES_HZ | OTHER_EDGES_HZ}
    if "synthetic" in options.data:
        made_with = provenance("python experiments/bands.py --data synthetic", seed=SEED)
        records, parts = synthetic_records(), components()
        results |= {"energy": energy(records, parts), "ringing": ringing(records, parts)}
        results["provenance"] = made_with
    for source in options.data:
        if not options.recompute:
            predict(source)
        results[source] = score(source)
    print(write_json(RESULT, results))


if __name__ == "__main__":
    main()
