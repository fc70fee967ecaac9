"""When the beats of a synthetic ECG fall: timelines of the five rhythms and of their look-alikes.

Sources: textbook electrophysiology for rates, couplings and pauses; A. Petrėnas et al. (2017),
doi:10.1088/1361-6579/aa9153, for irregular RR intervals without correlation in atrial fibrillation;
P. E. McSharry et al. (2003), doi:10.1109/TBME.2003.808805, for the 0.1 Hz and the respiratory
part of heart rate variability.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

_Key = TypeVar("_Key")

SCENARIOS: dict[str, float] = {
    "SR": 0.12,
    "SR+PAC": 0.08,
    "SR+PVC": 0.07,
    "SR+PAC+PVC": 0.03,
    "PAC": 0.07,
    "PVC": 0.05,
    "PAC+PVC": 0.03,
    "AF": 0.16,
    "AF+PVC": 0.05,
    "AFL": 0.16,
    "AFL+PVC": 0.05,
    "none": 0.13,
}
"""The combinations of rhythms that can be drawn, and the share of each in the default mix.

The default gives SR 30 %, AF 21 %, AFL 21 %, PAC 21 %, PVC 28 % and none of the five 13 %.
``"PAC"``, ``"PVC"`` and ``"PAC+PVC"`` sit on a sinus rhythm that is not labeled SR (bradycardia,
tachycardia or sinus arrhythmia), as these carry other codes in the Challenge's databases.
"""

BEAT_KINDS: dict[str, str] = {
    "N": "sinus beat",
    "A": "premature atrial beat",
    "V": "premature ventricular beat",
    "f": "beat conducted during atrial fibrillation",
    "F": "beat conducted during atrial flutter",
    "J": "junctional or re-entrant beat without a visible P wave (none of the five rhythms)",
}
"""The kinds of beat and what they mean."""

_UNLABELED = {"brady": 0.40, "tachy": 0.35, "arrhythmia": 0.25}
_EVERY = {0: 0.78, 2: 0.12, 3: 0.10}  # ectopic beats: isolated, bigeminy, trigeminy
_BLOCKS = {(2,): 0.4, (3,): 0.1, (4,): 0.2, (2, 3, 4): 0.3}  # flutter waves for a beat
_MARGIN_S = 2.0  # simulated before and after the record, so that it starts and ends in full swing
_ATTEMPTS = 2000


@dataclass(frozen=True, eq=False)
class Rhythm:
    """The course of one record: what the atria and the ventricles do, and when.

    Attributes
    ----------
    time_s, kind : ndarray, shape (beats,), float64 and str
        R peaks in seconds from the first sample (some lie outside the record), and `BEAT_KINDS`.
    rr_s : ndarray, shape (beats,), float64
        Time since the beat before.
    focus : ndarray, shape (beats,), int64
        For a ventricular beat, the number of the focus that it comes from.
    aberrant : ndarray, shape (beats,), bool
        True for a premature atrial beat that is conducted with a wide QRS.
    p_time_s, p_beat, p_ectopic : ndarray, shape (p_waves,), float64, int64 and bool
        Peaks of the P waves, the beat that each leads to (-1: none), and if it is premature.
    atria : {"sinus", "fibrillation", "flutter", "silent"}
        What the atria do.
    flutter_hz : float
        Rate of the flutter waves; NaN where there are none.
    breath_hz : float
        Respiratory rate.
    """

    time_s: np.ndarray
    kind: np.ndarray
    rr_s: np.ndarray
    focus: np.ndarray
    aberrant: np.ndarray
    p_time_s: np.ndarray
    p_beat: np.ndarray
    p_ectopic: np.ndarray
    atria: str
    flutter_hz: float
    breath_hz: float


@dataclass
class _Events:
    """Beats and P waves in the order in which they are generated."""

    beats: list[tuple] = field(default_factory=list)  # time, kind, focus, aberrant
    p_waves: list[tuple] = field(default_factory=list)  # time, index into beats or -1, ectopic

    def beat(self, time, kind, focus=0, aberrant=False, pr_s=None):
        """Add a beat; `pr_s` is the time from the peak of its P wave to R, if it has one."""
        if pr_s is not None:
            self.p_waves.append((time - pr_s, len(self.beats), kind == "A"))
        self.beats.append((time, kind, focus, aberrant))

    def rhythm(self, atria, breath_hz, flutter_hz=np.nan) -> Rhythm:
        """Sort the beats by time and freeze them."""
        time, kind, focus, aberrant = (np.array(c) for c in zip(*self.beats, strict=True))
        order = np.argsort(time, kind="stable")
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        p_waves = sorted(self.p_waves)
        p_beat = [rank[beat] if beat >= 0 else -1 for _, beat, _ in p_waves]
        time = time[order]
        return Rhythm(
            time_s=time,
            kind=kind[order],
            rr_s=np.diff(time, prepend=2 * time[0] - time[1]),
            focus=focus[order],
            aberrant=aberrant[order],
            p_time_s=np.array([p[0] for p in p_waves], dtype=np.float64),
            p_beat=np.array(p_beat, dtype=np.int64),
            p_ectopic=np.array([p[2] for p in p_waves], dtype=bool),
            atria=atria,
            flutter_hz=float(flutter_hz),
            breath_hz=float(breath_hz),
        )


def make_rhythm(scenario: str, seconds: float, rng: np.random.Generator) -> Rhythm:
    """Draw the timeline of one record.

    Parameters
    ----------
    scenario : str
        One of `SCENARIOS`.
    seconds : float
        Length of the record; at least 2.5.
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    Rhythm
        Beats from about 2 s before the record to 2 s after it. Every ectopic kind of the scenario
        occurs in the record at least once with a beat before it, and no other ectopic kind does.

    Raises
    ------
    ValueError
        If the scenario is unknown or `seconds` is less than 2.5.
    """
    if scenario not in SCENARIOS:
        raise ValueError(f"rhythm {scenario!r} found, one of {', '.join(SCENARIOS)} wanted")
    if not seconds >= 2.5:
        raise ValueError(
            f"seconds = {seconds!r} found, at least 2.5 wanted to hold an ectopic beat"
        )
    parts = scenario.split("+")
    ectopics = [{"PAC": "A", "PVC": "V"}[p] for p in parts if p in ("PAC", "PVC")]
    for _ in range(_ATTEMPTS):
        if "AF" in parts:
            rhythm = _fibrillation(seconds, "V" in ectopics, rng)
        elif "AFL" in parts:
            rhythm = _flutter(seconds, "V" in ectopics, rng)
        elif not ectopics and "SR" not in parts and rng.random() < 0.15:
            rhythm = _junctional(seconds, rng)
        else:
            rhythm = _sinus(seconds, "SR" in parts, ectopics, rng)
        if _shows(rhythm, ectopics, seconds):
            return rhythm
    raise RuntimeError(f"no {scenario} fits in {seconds} s after {_ATTEMPTS} draws: ask for longer")


def pick(shares: Mapping[_Key, float], rng: np.random.Generator) -> _Key:
    """Draw a key of a mapping by its share; many times as quick as `Generator.choice`.

    Parameters
    ----------
    shares : mapping of keys to float
        Chance of each key, 0 or more, with a sum of 1.
    rng : numpy.random.Generator
        Source of chance, of which it takes one number.
    """
    point = rng.random()
    for key, share in shares.items():
        point -= share
        if point < 0:
            return key
    return max(shares, key=shares.get)  # rounding left a rest


def _shows(rhythm: Rhythm, ectopics: list[str], seconds: float) -> bool:
    """Say if the record holds a beat, and each ectopic kind in full with a beat before it."""
    inside = (rhythm.time_s >= 0.1) & (rhythm.time_s < seconds - 0.35)
    if not inside.any():
        return False
    after_first = inside & (np.cumsum(inside) > 1)
    return all((after_first & (rhythm.kind == e)).any() for e in ectopics)


def _modulated(mean_rr_s, slow, breath, breath_hz, noise, rng):
    """Return a function of time that gives the sinus RR interval there."""
    phase = rng.uniform(0, 2 * np.pi, 2).tolist()

    def rr(time_s):
        waves = slow * math.sin(2 * math.pi * 0.1 * time_s + phase[0])
        waves += breath * math.sin(2 * math.pi * breath_hz * time_s + phase[1])
        return mean_rr_s * (1 + waves + noise * rng.standard_normal())

    return rr


def _sinus(seconds, labeled_sr, ectopics, rng):
    """Sinus rhythm (60-100/min) or, unlabeled, brady-, tachycardia or arrhythmia, plus ectopics."""
    breath_hz = rng.uniform(0.18, 0.35)
    variation = float(np.clip(0.025 * math.exp(0.75 * rng.standard_normal()), 0.004, 0.06))
    share = rng.uniform(0.3, 0.9)  # of the variation that follows the breath
    kind = pick(_UNLABELED, rng)
    if labeled_sr:
        rate = float(np.clip(72 * math.exp(0.16 * rng.standard_normal()), 60.5, 99))
    elif kind == "brady":
        rate = rng.uniform(40, 57)
    elif kind == "tachy":
        rate, variation = rng.uniform(104, 130 if ectopics else 145), variation * 0.4
    else:
        rate, variation, share = rng.uniform(55, 90), rng.uniform(0.12, 0.19), 0.9
    rr_at = _modulated(
        60 / rate,
        1.3 * variation * (1 - share),
        1.3 * variation * share,
        breath_hz,
        0.25 * variation,
        rng,
    )
    pr_s = float(np.clip(rng.normal(0.150, 0.022), 0.105, 0.24)) * (60 / rate) ** 0.15
    every = pick(_EVERY, rng)
    # Isolated ectopics: a chance for each beat, such that short records do not wait for luck.
    chance = math.exp(rng.uniform(math.log(0.05), math.log(0.3)))
    chance = max(chance, min(0.5, 0.6 * len(ectopics) / seconds))
    coupling_a, coupling_v = rng.uniform(0.55, 0.82), _coupling(rng)
    pr_ectopic_s = pr_s * rng.uniform(0.75, 1.15)

    events, time, count = _Events(), -_MARGIN_S - rng.uniform(0, 60 / rate), 0
    while time < seconds + _MARGIN_S:
        rr = rr_at(time)
        events.beat(time, "N", pr_s=pr_s)
        count += 1
        if not ectopics or not (count % every == 0 if every else rng.random() < chance):
            time += rr
        elif ectopics[rng.integers(len(ectopics))] == "V":
            time = _ventricular(events, time, rr, pr_s, coupling_v, rng)
        else:
            early = max(0.3, rr * coupling_a * rng.normal(1, 0.04))
            time = _atrial(events, time, min(early, 0.85 * rr), rr, pr_ectopic_s, rng)
    return events.rhythm("sinus", breath_hz)


def _coupling(rng):
    """Draw the coupling of three ventricular foci, in RR, and how often another than 0 fires."""
    foci = rng.uniform(0.45, 0.75, 3).tolist()
    return foci, (rng.uniform(0.2, 0.6) if rng.random() < 0.2 else 0.0)


def _focus(coupling, rng):
    """Draw the focus of the next ventricular beat and its coupling."""
    foci, multifocal = coupling
    focus = int(rng.integers(1, 3)) if rng.random() < multifocal else 0
    return focus, foci[focus] * rng.normal(1, 0.03)


def _ventricular(events, time, rr, pr_s, coupling, rng):
    """Add a ventricular beat (or two) after the sinus beat at `time`; return the next sinus R."""
    focus, early = _focus(coupling, rng)
    early_s = max(0.3, early * rr)
    events.beat(time + early_s, "V", focus)
    if rr > 0.85 and early < 0.55 and rng.random() < 0.25:
        return time + 1.03 * rr  # interpolated: the sinus beat still gets through
    events.p_waves.append((time + rr - pr_s, -1, False))  # the sinus P falls into the ectopic beat
    if rng.random() < 0.1 and early_s < 0.7 * rr:
        events.beat(time + early_s + max(0.32, early_s * rng.uniform(0.85, 1.05)), "V", focus)
        return time + 2 * rr + 0.35 * rr
    return time + 2 * rr  # full compensatory pause: the sinus clock went on


def _atrial(events, time, early_s, rr, pr_s, rng):
    """Add a premature atrial beat after the sinus beat at `time`; return the next sinus R."""
    if rng.random() < 0.08:  # blocked: the P wave alone, on the T wave before
        p_time = time + 0.75 * early_s
        events.p_waves.append((p_time, -1, True))
        return p_time + rr * rng.uniform(1.15, 1.3)
    premature = time + early_s
    events.beat(premature, "A", aberrant=rng.random() < 0.12, pr_s=pr_s)
    if rng.random() < 0.08:
        premature += max(0.3, early_s * rng.uniform(0.85, 1.0))
        events.beat(premature, "A", pr_s=pr_s)
    return premature + rr * rng.uniform(1.02, 1.2)  # the sinus clock starts anew


def _junctional(seconds, rng):
    """Regular narrow beats without P waves: junctional rhythm or re-entrant tachycardia."""
    rate = rng.uniform(42, 60) if rng.random() < 0.4 else rng.uniform(125, 185)
    breath_hz, cv = rng.uniform(0.18, 0.35), rng.uniform(0.003, 0.012)
    events, time = _Events(), -_MARGIN_S - rng.uniform(0, 60 / rate)
    while time < seconds + _MARGIN_S:
        events.beat(time, "J")
        time += 60 / rate * rng.normal(1, cv)
    return events.rhythm("silent", breath_hz)


def _fibrillation(seconds, ectopic, rng):
    """Uncorrelated RR intervals; in one record of ten the ventricles beat regularly instead."""
    regular = rng.random() < 0.1
    rate = float(np.clip(92 * math.exp(0.28 * rng.standard_normal()), 48, 165))
    cv = float(np.clip(0.205 * math.exp(0.3 * rng.standard_normal()), 0.11, 0.36))
    if regular:  # complete block with an escape rhythm, or a pacemaker
        rate, cv = rng.uniform(40, 70), rng.uniform(0.003, 0.02)
    mean, shortest = 60 / rate, 0.28
    shape = ((mean - shortest) / (cv * mean)) ** 2
    foci, chance = _coupling(rng), math.exp(rng.uniform(math.log(0.06), math.log(0.25)))
    events, time = _Events(), -_MARGIN_S - rng.uniform(0, mean)
    while time < seconds + _MARGIN_S:
        events.beat(time, "f")
        rr = (
            mean * rng.normal(1, cv)
            if regular
            else shortest + (mean - shortest) * (rng.gamma(shape) / shape)
        )
        if ectopic and rng.random() < chance:
            focus, early = _focus(foci, rng)
            time += max(0.34, early * min(mean, 0.85))
            events.beat(time, "V", focus)
            rr = max(rr, 0.75 * mean) + 0.12
        time += rr
    return events.rhythm("fibrillation", rng.uniform(0.18, 0.35))


def _flutter(seconds, ectopic, rng):
    """Beats conducted at 2:1, 3:1, 4:1 or a varying ratio of a regular atrial rate."""
    flutter_hz = float(np.clip(rng.normal(290, 22), 250, 350)) / 60
    blocks = pick(_BLOCKS, rng)
    weights = rng.dirichlet(2 * np.ones(len(blocks)))
    foci, chance = _coupling(rng), math.exp(rng.uniform(math.log(0.06), math.log(0.25)))
    jitter_s = rng.uniform(0.002, 0.006) if len(blocks) == 1 else rng.uniform(0.004, 0.014)
    cycle = 1 / flutter_hz
    most = int((seconds + 2 * _MARGIN_S + 4 * cycle) / cycle) + 1
    ratio = rng.choice(blocks, size=most, p=weights).tolist()
    jitter = (jitter_s * np.clip(rng.standard_normal(most), -2.5, 2.5)).tolist()
    extra = (rng.random(most) < chance if ectopic else np.zeros(most, dtype=bool)).tolist()
    events, start, wave = _Events(), -_MARGIN_S - rng.uniform(0, 4 * cycle), 0
    while (time := start + wave * cycle) < seconds + _MARGIN_S:
        time += jitter[wave]
        events.beat(time, "F")
        if extra[wave]:
            focus, early = _focus(foci, rng)
            premature = time + max(0.32, early * min(ratio[wave] * cycle, 0.8))
            events.beat(premature, "V", focus)
            wave = math.ceil((premature + 0.42 - start) / cycle)  # the node is refractory
        else:
            wave += ratio[wave]
    return events.rhythm("flutter", rng.uniform(0.18, 0.35), flutter_hz)
