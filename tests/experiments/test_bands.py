"""The experiment on bands: its measures on cases with a known answer, and what its file holds."""

import json

import numpy as np
import pytest
import torch

from ecgbook import results
from ecgbook.labels import RHYTHMS
from ecgbook.leads import limb_residual
from ecgbook.metrics import paired_bootstrap, verdict
from ecgbook.signals import remove_band
from ecgbook.storage import to_json
from scripts import EXPERIMENTS, imported

N = 16


@pytest.fixture(scope="module")
def bands():
    """The script as a module; its folder is searched only while it is imported."""
    names = ("bands", "disturbances", "run_ladder", "provenance")
    with imported(EXPERIMENTS, *names) as scripts:
        yield scripts.bands


@pytest.fixture(scope="module")
def records(bands):
    return bands.synthetic_records(N)


@pytest.fixture(scope="module")
def parts(bands):
    return bands.components(N)


# --- energy -----------------------------------------------------------------------------------


def test_components_add_up_to_the_records_and_their_shares_to_what_is_there(bands, records, parts):
    found = bands.energy(records, parts)
    assert found["not_in_components"] < 1e-4  # the recorder's rounding, once a component
    for band, sizes in found["taken"].items():
        assert 0 < sizes["sharp"] < sizes["soft"] < 1, band
    hz = np.arange(626) / 10
    for kind, shares in found["shares"].items():
        power = torch.fft.rfft(parts[kind], dim=1).abs().square().sum((0, 2)).numpy()
        power[1:-1] *= 2  # frequencies below zero
        for band, (low, high) in bands.BANDS.items():
            wanted = power[(hz >= low) & (hz < high)].sum() / power.sum()
            assert abs(shares[band] - wanted) < 1e-9, (kind, band)
        assert 0 <= shares["outside"] < 0.1


def test_windows_count_energy_more_than_once_but_whole_records_do_not(bands, records):
    x = bands.prepared(records)
    found = bands.windowed(x, records)
    assert found["rest, AF"]["times"] > 2 > 0.8 > found["QRS"]["times"]
    everywhere = sum(bands.taken(x, band).square().sum() for band in bands.BANDS)
    assert 0.95 < everywhere / x.square().sum() <= 1


# --- ringing ----------------------------------------------------------------------------------


def test_sharp_edges_ring_outside_of_the_qrs_complexes_and_soft_ones_less(bands, records, parts):
    found = bands.ringing(records, parts)
    assert found["4-6"]["soft"]["far_uv"] < found["4-6"]["sharp"]["far_uv"]
    for sizes in found.values():
        assert sizes["sharp"]["share_outside"] > sizes["soft"]["share_outside"] > 0


def test_the_sizes_in_a_band_are_those_of_a_known_wave(bands, records, parts):
    at = torch.arange(1250, dtype=torch.float64) / 125
    wave = torch.sin(2 * torch.pi * 5 * at)[None, :, None].expand(N, -1, 12)
    half = torch.arange(N)[:, None, None] < N // 2  # the others have none, and do not count
    sizes = bands.ringing(records, dict(parts, f=0.1 * wave * half))
    assert sizes["4-6"]["f_uv"] == pytest.approx(100 / np.sqrt(2))
    assert sizes["6-9"]["f_uv"] < 1e-6


# --- removal ----------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1250, 1251])
def test_other_phases_keep_spectrum_energy_and_einthoven(bands, samples):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(4, samples, 12, dtype=torch.float64, generator=generator)
    x[..., 2:6] = x[..., :2] @ torch.tensor([[-1, -0.5, 1, -0.5], [1, -0.5, -0.5, 1.0]]).double()
    y = bands.shuffled(x, bands.random_turns(4, samples))
    before, after = (torch.fft.rfft(v, dim=1).abs() for v in (x, y))
    torch.testing.assert_close(after, before)
    torch.testing.assert_close(y.square().sum((1, 2)), x.square().sum((1, 2)))
    assert np.abs(limb_residual(y.numpy())).max() < 1e-12
    for one, other in zip(x, y, strict=True):
        assert abs((one * other).sum() / one.square().sum()) < 0.2
    same = bands.shuffled(x[:1].expand(2, -1, -1), bands.random_turns(2, samples))
    assert (same[0] - same[1]).abs().max() > 1  # each record has phases of its own


def test_every_band_is_removed_both_ways_and_the_null_changes_as_much(bands, records):
    x = bands.prepared(records)
    found = dict(bands.conditions(x, other_edges=True))
    assert len(found) == 1 + 6 * len(bands.BANDS)
    assert len(dict(bands.conditions(x, other_edges=False))) == 1 + 4 * len(bands.BANDS)
    for band, edges in bands.BANDS.items():
        for name, edge_hz in (bands.EDGES_HZ | bands.OTHER_EDGES_HZ).items():
            wanted = remove_band(x, 125, *edges, edge_hz=edge_hz)
            torch.testing.assert_close(found[f"{band}/{name}"], wanted)
        for name in bands.EDGES_HZ:
            changes = (found[f"{band}/{c}"] - x for c in (name, f"null, {name}"))
            removed, added = (change.square().sum((1, 2)) for change in changes)
            torch.testing.assert_close(added, removed)


# --- scores -----------------------------------------------------------------------------------


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    y = (rng.random((60, 2)) < 0.4).astype(float)
    return y, 3 * y + rng.standard_normal((60, 2)), rng.random((60, 2)) < 0.8


def test_the_separation_is_a_difference_of_means_over_trusted_labels(bands, scores):
    y, p, mask = scores
    wanted = [p[m & (w > 0), k].mean() - p[m & (w == 0), k].mean()
              for k, (m, w) in enumerate(zip(mask.T, y.T, strict=True))]  # fmt: skip
    np.testing.assert_allclose(bands.separation(y, p, mask), wanted)
    counts = np.random.default_rng(1).integers(0, 3, (5, 60))
    for row, count in zip(bands.separation(y, p, mask, counts), counts, strict=True):
        rows = np.repeat(np.arange(60), count)
        np.testing.assert_allclose(row, bands.separation(y[rows], p[rows], mask[rows]))


@pytest.mark.parametrize(("change", "share"), [((1, 5), 0), ((0.5, 0), 0.5), ((-1, 2), 2)])
def test_a_shift_loses_nothing_and_a_shrinking_its_share(bands, scores, change, share):
    y, p, _ = scores
    changed = change[0] * p + change[1]
    pair = np.hstack([p, p]), np.hstack([p, changed])
    found = paired_bootstrap(bands.lost, np.tile(y, 2), *pair)
    for bound in (found.value, found.low, found.high):
        np.testing.assert_allclose(bound, share, atol=1e-12)  # in every draw


def test_ringing_is_what_sharp_edges_lose_beyond_soft_ones(bands, scores):
    y, p, mask = scores
    y, p, mask = (np.hstack([v, v, v])[:, :5] for v in (y, p, mask))
    z = {"whole": p}
    for band in bands.BANDS:
        names = {"sharp": 0.4, "soft": 0.7, "null, sharp": 0.5, "null, soft": 0.9}
        z |= {f"{band}/{name}": kept * p for name, kept in names.items()}
    found = bands.scored(z, y, mask, np.arange(60))["bands"]["4-6"]
    for k in RHYTHMS:
        np.testing.assert_allclose(found["lost"]["sharp"][k], 0.6)
        np.testing.assert_allclose(found["ringing"][k], 0.3)
        np.testing.assert_allclose(found["over_null"][k], 0.2)
    z["whole"] = -p  # nothing to lose
    assert set(bands.scored(z, y, mask, np.arange(60))["bands"]["4-6"]["ringing"].values()) == {
        None
    }


# --- the file ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::ecgbook.metrics.AbsentClassWarning")
@pytest.mark.parametrize("source", ["synthetic", "real"])
def test_the_kept_predictions_make_the_committed_scores(bands, monkeypatch, source):
    monkeypatch.setattr(bands, "BANDS", {"4-6": bands.BANDS["4-6"]})  # one is quick
    again, found = json.loads(to_json(bands.score(source))), results("bands")[source]
    assert again["positives"] == found["positives"]
    for model, wanted in found["models"].items():
        new = again["models"][model]
        pairs = [(new[name], wanted[name]) for name in ("separation", "auroc")]
        new, wanted = (each["bands"]["4-6"] for each in (new, wanted))
        pairs += [(new[name], wanted[name]) for name in ("ringing", "over_null")]
        pairs += [(new["lost"][way], wanted["lost"][way]) for way in wanted["lost"]]
        for one, other in pairs:
            for rhythm in RHYTHMS:
                np.testing.assert_allclose(one[rhythm], other[rhythm])


@pytest.fixture(scope="module")
def measured():
    return results("bands")


def said(measured, key, band, rhythm, model="tutorial"):
    """The verdict on a cell of the map, on synthetic records."""
    return verdict(measured["synthetic"]["models"][model]["bands"][band][key][rhythm])


def test_claim_windows_count_what_rings_as_energy_between_beats(measured):
    times = {where: each["times"] for where, each in measured["energy"]["windowed"].items()}
    assert min(times["rest, AF"], times["rest, AFL"]) > 3 and times["QRS"] < 1
    for size in measured["ringing"].values():
        assert size["soft"]["share_outside"] < size["sharp"]["share_outside"]
        assert size["soft"]["far_uv"] < size["sharp"]["far_uv"]
    assert measured["ringing"]["4-6"]["sharp"]["far_uv"] > measured["ringing"]["4-6"]["f_uv"]


def test_claim_atrial_waves_lie_where_physiology_has_them(measured):
    shares = measured["energy"]["shares"]
    assert shares["f"]["4-6"] + shares["f"]["6-9"] > 0.7
    assert shares["F"]["4-6"] == max(shares["F"].values())


def test_claim_more_than_half_of_what_sr_loses_at_4_to_6_hz_is_ringing(measured):
    cell = measured["synthetic"]["models"]["tutorial"]["bands"]["4-6"]
    assert said(measured, "ringing", "4-6", "SR") == "better"  # named in the plan
    assert cell["ringing"]["SR"][0] > 0.5 * cell["lost"]["sharp"]["SR"][0]
    assert said(measured, "ringing", "4-6", "PAC") == "better"
    for rhythm in ("SR", "PAC"):
        assert said(measured, "over_null", "4-6", rhythm) == "worse"
        assert said(measured, "ringing", "4-6", rhythm, "robust") == "not shown"


def test_claim_flutter_needs_4_to_6_hz_and_fibrillation_is_not_shown_to(measured):
    for model, of_af in (("tutorial", "not shown"), ("robust", "better")):
        assert said(measured, "over_null", "4-6", "AFL", model) == "better"
        assert said(measured, "over_null", "4-6", "AF", model) == of_af
        scores = measured["synthetic"]["models"][model]["bands"]
        assert said(measured, "ringing", "4-6", "AFL", model) == "worse"
        assert scores["4-6"]["lost"]["soft"]["AFL"][1] > 0.5
    scores = measured["synthetic"]["models"]["tutorial"]["bands"]
    for rhythm in ("SR", "AF", "AFL", "PAC"):  # what sharp edges alone would say
        assert max(scores, key=lambda b: scores[b]["lost"]["sharp"][rhythm][0]) == "4-6"


def test_claim_on_real_records_pac_rings_and_sr_is_not_shown_to(measured):
    found = measured["real"]["models"]["tutorial"]["bands"]["4-6"]
    words = {k: {r: verdict(found[k][r]) for r in RHYTHMS} for k in ("ringing", "over_null")}
    assert words["ringing"]["PAC"] == "better" and words["ringing"]["SR"] == "not shown"
    assert words["over_null"]["AF"] == words["over_null"]["AFL"] == "better"
    assert words["over_null"]["SR"] == words["over_null"]["PAC"] == "worse"
    assert measured["real"]["positives"]["AFL"] < 20


@pytest.mark.parametrize("source", ["synthetic", "real"])
@pytest.mark.parametrize("model", ["tutorial", "robust"])
def test_claim_pvc_needs_the_lowest_bands(measured, source, model):
    for band in ("0.5-2", "2-4"):
        cell = measured[source]["models"][model]["bands"][band]
        for values in (cell["lost"]["soft"], cell["over_null"]):
            assert verdict(values["PVC"]) == "better"
        assert cell["lost"]["sharp"]["PVC"][0] < 0.5 * cell["lost"]["soft"]["PVC"][0]
