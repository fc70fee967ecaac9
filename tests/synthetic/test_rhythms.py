"""Timelines: rates, couplings, pauses, conduction, and what each scenario promises to show."""

import numpy as np
import pytest

from ecgbook.labels import RHYTHMS
from ecgbook.synthetic import BEAT_KINDS, SCENARIOS, make_rhythm
from ecgbook.synthetic.rhythms import pick

ECTOPICS = {"PAC": "A", "PVC": "V"}


def rhythms(scenario, n, seed, seconds=20):
    """Timelines of one scenario."""
    rng = np.random.default_rng(seed)
    return [make_rhythm(scenario, seconds, rng) for _ in range(n)]


def cv(rhythm):
    """Coefficient of variation of the RR intervals."""
    rr_s = np.diff(rhythm.time_s)
    return rr_s.std() / rr_s.mean()


def test_pick_draws_every_key_by_its_share():
    rng = np.random.default_rng(0)
    shares = {"a": 0.5, "never": 0.0, 3: 0.2, (1, 2): 0.3}
    drawn = [pick(shares, rng) for _ in range(4000)]
    for key, share in shares.items():
        assert drawn.count(key) / 4000 == pytest.approx(share, abs=4 * np.sqrt(0.25 / 4000))
    assert drawn.count("never") == 0


def test_pick_survives_shares_that_round_below_one():
    class Highest:
        def random(self):
            return 1 - 2**-53

    assert pick({"a": 0.6, "b": 0.4 - 1e-12, "never": 0.0}, Highest()) == "a"


def test_the_default_mix_has_the_documented_shares():
    assert sum(SCENARIOS.values()) == pytest.approx(1)
    of = {r: sum(w for s, w in SCENARIOS.items() if r in s.split("+")) for r in RHYTHMS}
    assert list(of.values()) == pytest.approx([0.30, 0.21, 0.21, 0.21, 0.28])
    assert SCENARIOS["none"] == pytest.approx(0.13)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_timeline_is_in_order_and_covers_more_than_the_record(scenario):
    for rhythm in rhythms(scenario, 12, seed=1, seconds=10):
        assert set(rhythm.kind) <= set(BEAT_KINDS)
        assert rhythm.time_s[0] < 0 and rhythm.time_s[-1] > 10
        np.testing.assert_array_equal(rhythm.rr_s[1:], np.diff(rhythm.time_s))
        assert (rhythm.rr_s > 0.2).all()
        assert (rhythm.kind[rhythm.aberrant] == "A").all()
        assert (rhythm.focus[rhythm.kind != "V"] == 0).all()
        assert np.isfinite(rhythm.flutter_hz) == (rhythm.atria == "flutter")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_p_waves_lead_to_sinus_and_atrial_beats_and_to_no_others(scenario):
    for rhythm in rhythms(scenario, 8, seed=2, seconds=10):
        led = rhythm.p_beat[rhythm.p_beat >= 0]
        assert sorted(led) == np.flatnonzero(np.isin(rhythm.kind, ["N", "A"])).tolist()
        pr_s = rhythm.time_s[led] - rhythm.p_time_s[rhythm.p_beat >= 0]
        assert ((pr_s > 0.07) & (pr_s < 0.30)).all()
        conducted = rhythm.p_ectopic[rhythm.p_beat >= 0]
        np.testing.assert_array_equal(conducted, rhythm.kind[led] == "A")


@pytest.mark.parametrize("seconds", [2.5, 5])
@pytest.mark.parametrize("scenario", [s for s in SCENARIOS if "P" in s])
def test_short_records_show_every_ectopic_beat_they_are_labeled_with(scenario, seconds):
    wanted = {ECTOPICS[p] for p in scenario.split("+") if p in ECTOPICS}
    for rhythm in rhythms(scenario, 8, seed=3, seconds=seconds):
        inside = (rhythm.time_s >= 0) & (rhythm.time_s < seconds - 0.35)
        after_the_first = rhythm.kind[inside][1:]
        assert wanted <= set(after_the_first)
        assert set(rhythm.kind) & set(ECTOPICS.values()) == wanted


@pytest.mark.parametrize(("scenario", "inside"), [("SR", True), ("none", False)])
def test_sr_means_60_to_100_beats_and_only_that(scenario, inside):
    for rhythm in rhythms(scenario, 80, seed=2):
        rate = 60 / np.diff(rhythm.time_s).mean()
        normal = 58 < rate < 102 and cv(rhythm) < 0.085 and (rhythm.kind == "N").all()
        assert normal == inside, (rate, cv(rhythm))


def test_rr_variation_by_rhythm():
    sinus, af, flutter = (
        np.array([cv(r) for r in rhythms(s, 150, seed=7)]) for s in ("SR", "AF", "AFL")
    )
    assert 0.012 < np.median(sinus) < 0.04  # real 0.022-0.025
    assert sinus.max() < 0.085
    assert 0.16 < np.median(af[af > 0.05]) < 0.24  # real 0.19-0.20
    assert 0.04 < np.mean(af < 0.03) < 0.2  # regular fibrillation, a look-alike
    assert 0.45 < np.mean(flutter < 0.04) < 0.9  # fixed conduction


def test_rr_intervals_are_random_in_fibrillation_and_follow_the_breath_in_sinus_arrhythmia():
    def strongest_line(scenario, floor):
        """Strongest Fourier component of RR: its share, and if it is the breath; lag-1 r."""
        lines, breathes, neighbors = [], [], []
        for rhythm in rhythms(scenario, 40, seed=8, seconds=60):
            if cv(rhythm) > floor:
                rr_s = np.diff(rhythm.time_s)
                power = np.abs(np.fft.rfft(rr_s - rr_s.mean())) ** 2
                lines.append(power.max() / power.sum())
                hz = power.argmax() / rr_s.sum()
                breathes.append(abs(hz - rhythm.breath_hz) < 0.03)
                neighbors.append(np.corrcoef(rr_s[:-1], rr_s[1:])[0, 1])
        return np.median(lines), np.mean(breathes), np.median(neighbors)

    line, _, neighbor = strongest_line("AF", 0.1)
    assert line < 0.2
    assert abs(neighbor) < 0.08
    line, breathes, _ = strongest_line("none", 0.08)
    assert line > 0.35
    assert breathes > 0.7


@pytest.mark.parametrize(("scenario", "kind"), [("SR+PAC", "A"), ("SR+PVC", "V")])
def test_ectopic_beats_come_early_and_pause_as_they_should(scenario, kind):
    early, pauses = [], []
    for rhythm in rhythms(scenario, 150, seed=4):
        t, k = rhythm.time_s, "".join(rhythm.kind)
        for i in range(2, len(t) - 1):
            if k[i - 2 : i + 2] == "NN" + kind + "N":
                usual = t[i - 1] - t[i - 2]
                early.append((t[i] - t[i - 1]) / usual)
                pauses.append((t[i + 1] - t[i - 1]) / usual)
    early, pauses = np.array(early), np.array(pauses)
    assert len(early) > 100
    assert np.mean((early > 0.38) & (early < 0.92)) > 0.97
    if kind == "A":
        assert np.median(pauses) < 1.93  # the sinus clock starts anew: less than two intervals
    else:
        assert np.mean(np.abs(pauses - 2) < 0.15) > 0.8  # full compensatory pause
        assert 0 < np.mean(np.abs(pauses - 1) < 0.15) < 0.2  # some are interpolated


def test_flutter_conducts_in_whole_ratios_of_its_own_rate():
    for rhythm in rhythms("AFL", 60, seed=14):
        assert 250 <= 60 * rhythm.flutter_hz <= 350
        waves = np.diff(rhythm.time_s) * rhythm.flutter_hz
        assert np.abs(waves - np.rint(waves)).max() < 0.4  # the node's delay varies
        assert np.abs(waves - np.rint(waves)).mean() < 0.12
        assert set(np.rint(waves)) <= {2, 3, 4}


def test_unknown_scenario_and_too_short_rhythm_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="rhythm 'VT' found"):
        make_rhythm("VT", 10, rng)
    with pytest.raises(ValueError, match="seconds = 1 found"):
        make_rhythm("SR", 1, rng)
