"""LUDB's marks: how they are read, and which samples count as which wave."""

from dataclasses import replace

import numpy as np
import pytest
import wfdb
from marked import BEAT_S, beats_of, long_record

from ecgbook.leads import LEADS
from ecgbook.models import PREPROCESSING
from scripts import EXPERIMENTS, imported


@pytest.fixture(scope="module")
def ludb():
    """The script as a module; its folder is searched only while it is imported."""
    with imported(EXPERIMENTS, "ludb") as scripts:
        yield scripts.ludb


def test_marks_are_read_lead_by_lead_and_irregular_ones_left_out(ludb, tmp_path):
    def write(lead, symbols, samples):
        wfdb.wrann("r", lead, np.array(samples), list(symbols), fs=500, write_dir=str(tmp_path))

    write("ii", "(p)(N)(t)", [100, 110, 125, 150, 175, 200, 300, 350, 400])
    write("iii", "(N)N)", [150, 175, 200, 210, 220])
    write("avr", "((tt))", [150, 175, 180, 210, 220, 230])
    found = ludb.read_waves(tmp_path / "r", "II", 500.0)
    assert found.tolist() == [(0.2, 0.25, "P"), (0.3, 0.4, "QRS"), (0.6, 0.8, "T")]
    left_out = [ludb.read_waves(tmp_path / "r", lead, 500.0) for lead in ("III", "aVR")]
    assert [len(waves) for waves in left_out] == [0, 0]


def test_relevance_counts_in_its_wave_of_its_lead_and_nowhere_else(ludb):
    start_s, _ = PREPROCESSING["tutorial"].window_s(np.zeros((10_000, 12)), 500.0)
    assert start_s > 1.5, "the record is cut"
    time_s = start_s + np.arange(2048) / 125
    relevance, mask = np.zeros((2048, 12)), np.ones(2048, dtype=bool)

    def put(at_s, lead, value):
        relevance[np.abs(time_s - at_s).argmin(), LEADS.index(lead)] += value

    put(3.3 - 0.15, "I", 3.0)  # P
    put(3.3, "I", 5.0)  # QRS
    put(3.3 + 0.3, "V6", -7.0)  # T
    put(3.8, "V6", 11.0)  # rest
    put(2.0, "V6", 100.0)  # before the first mark
    put(3.3, "V1", 1000.0)  # a lead without marks
    waves = [beats_of(BEAT_S)] * 12
    waves[LEADS.index("V1")] = waves[0][:0]
    record = replace(long_record(ludb.Marked, np.zeros(5)), waves=tuple(waves))
    found = ludb.amounts(relevance, record, 125, mask, start_s, "marked")
    np.testing.assert_allclose(found, [[3, 5, 0, 11], [0, 0, 7, 0]])
    put(3.3 - 0.08, "I", 2.0)  # between P and QRS
    found = ludb.amounts(relevance, record, 125, mask, start_s, "before QRS")
    np.testing.assert_allclose(found, [[5, 5, 0, 11], [0, 0, 7, 0]])
    found = ludb.amounts(relevance, record, 125, mask, start_s, "marked")
    np.testing.assert_allclose(found, [[3, 5, 0, 13], [0, 0, 7, 0]])
    mask[time_s < 3.75] = False
    found = ludb.amounts(relevance, record, 125, mask, start_s, "marked")
    np.testing.assert_allclose(found, [[0, 0, 0, 11], [0, 0, 0, 0]])


def test_ludb_has_marks_of_both_rhythms_and_no_p_wave_in_fibrillation(ludb, ecgdata, monkeypatch):
    rows = [r for r in ludb.read_manifest(ecgdata) if r["folder"] == "ludb"]
    few = [r for r in rows if r["SR"] == "1"][:3] + [r for r in rows if r["AF"] == "1"][:4]
    monkeypatch.setattr(ludb, "read_manifest", lambda folder: few)
    records = ludb.read(ecgdata)
    kinds = {r.name: np.unique(np.concatenate(r.waves)["wave"]).tolist() for r in records}
    shown = {r.name: r.labels.tolist() for r in records}
    assert {tuple(each) for each in shown.values()} == {(1, 0, 0, 0, 0), (0, 1, 0, 0, 0)}
    for name, waves in kinds.items():
        assert waves == (["P", "QRS", "T"] if shown[name][0] else ["QRS", "T"])
    for r in records:  # a marked QRS is where the signal is steep
        steep = np.abs(np.diff(r.signal_mv[:, 1])) * 500
        waves = r.waves[1][r.waves[1]["wave"] == "QRS"]
        inside = np.zeros(len(steep), dtype=bool)
        for wave in waves:
            inside[round(wave["onset_s"] * 500) : round(wave["offset_s"] * 500)] = True
        if len(waves):
            assert steep[inside].mean() > 3 * steep[~inside].mean(), r.name
