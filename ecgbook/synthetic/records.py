"""Synthetic 12-lead ECGs of all five rhythms, with the true place of every beat and wave.

The heart is a moving dipole: each wave of each beat is a sum of Gaussians on X (left), Y (down)
and Z (back). A matrix of the patient's own projects it onto eight leads; the other four follow
from Einthoven's law. Noise is added at the electrodes, so the law holds for the noise as well.

The timelines are in `ecgbook.synthetic`, the shapes in `ecgbook.synthetic`, the disturbances in
`ecgbook.signals`, each with its sources.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral

import numpy as np

from .. import leads
from ..labels import RHYTHMS
from ..signals import disturbance
from .morphology import Patient, Wave, draw_patient, fibrillatory_waves, flutter_waves, gaussians
from .rhythms import SCENARIOS, Rhythm, make_rhythm, pick

BEAT_DTYPE = np.dtype([("time_s", "f8"), ("kind", "U1")])
WAVE_DTYPE = np.dtype(
    [("onset_s", "f8"), ("peak_s", "f8"), ("offset_s", "f8"), ("wave", "U3"), ("beat", "i8")]
)
WAVE_KINDS: dict[str, str] = {
    "P": "P waves, of the sinus node and of ectopic foci",
    "QRS": "QRS complexes",
    "ST": "ST segments",
    "T": "T waves",
    "f": "fibrillatory waves of the atria",
    "F": "flutter waves of the atria",
}
"""The kinds of wave that records are made up of, and what they mean."""

LEAST_FS_HZ = 50.0
STEP_MV = 2.0**-10
"""Resolution of the recorder. A power of two, so that the derived limb leads are exact."""

_STEPS_TO_LEADS = STEP_MV * np.hstack([leads.derive(*np.eye(2, 8)), np.eye(8)[:, 2:]])
_STEPS_TO_LEADS = _STEPS_TO_LEADS.astype(np.float32)
_STAYS = 0.75  # chance that a further record of a patient shows the rhythm of the patient


@dataclass(frozen=True, eq=False)
class SyntheticRecord:
    """One synthetic 12-lead record with its truth.

    Attributes
    ----------
    name : str
        ``"synthetic-<seed>-<number>"``.
    patient : str
        The patient; records of one patient share the shape of their beats.
    rhythm : str
        The scenario it was drawn from, one of `ecgbook.synthetic.SCENARIOS`.
    signal_mv : ndarray, shape (samples, 12), float32
        The leads in mV, in the order of `ecgbook.leads.LEADS`.
    fs_hz : float
        Sampling rate.
    labels : ndarray, shape (5,), float32
        1 where the rhythm is present, in the order of `ecgbook.labels.RHYTHMS`.
    beats : recarray, shape (beats,)
        ``time_s`` of the R peak (where the QRS dipole is largest) and ``kind``, a key of
        `ecgbook.synthetic.BEAT_KINDS`. Times count from the first sample.
    waves : recarray, shape (waves,)
        ``onset_s``, ``peak_s``, ``offset_s``, ``wave`` ("P", "QRS" or "T") and ``beat``, a row of
        `beats`; -1 for a P wave that leads to none, or for a wave of a beat just outside the
        record. Onset and offset lie where the wave has 3 % of its greatest size over the leads,
        and are cut at the ends of the record. Waves whose peak lies outside are left out.
    """

    name: str
    patient: str
    rhythm: str
    signal_mv: np.ndarray
    fs_hz: float
    labels: np.ndarray
    beats: np.recarray
    waves: np.recarray

    @property
    def leads(self) -> tuple[str, ...]:
        """The 12 lead names, in the order of the columns of `signal_mv`."""
        return leads.LEADS

    @property
    def duration_s(self) -> float:
        """Length of the record in seconds."""
        return len(self.signal_mv) / self.fs_hz


def make_records(
    n: int,
    seed: int = 0,
    fs_hz: float = 500,
    seconds: float = 10,
    mix: Mapping[str, float] | None = None,
    records_per_patient: int = 1,
    noise: float = 1.0,
    waves: str | Collection[str] = tuple(WAVE_KINDS),
) -> list[SyntheticRecord]:
    """Make synthetic 12-lead records.

    Parameters
    ----------
    n : int
        Number of records.
    seed : int
        Not negative. Record i depends on the seed and i alone: not on `n`, and its beats not on
        the sampling rate either.
    fs_hz : float
        Sampling rate, at least 50 Hz.
    seconds : float
        Length of each record, at least 2.5 s.
    mix : mapping of str to float, optional
        Weight of each scenario, such as ``{"SR": 1, "AF+PVC": 0.5}``. By default
        `ecgbook.synthetic.SCENARIOS`: all five rhythms, their combinations and look-alikes.
    records_per_patient : int
        Records i of one patient follow each other and share the shapes of their beats. Three
        quarters of them show the patient's own rhythm; the others are drawn from the mix.
    noise : float
        Factor on all disturbances; 0 gives clean records.
    waves : str or collection of str
        The kinds of wave that are drawn, of `WAVE_KINDS`; all by default, and none leaves the
        disturbances alone. All else stays as it is, labels, beats and marks too: so a record is
        the sum of its components, but for the steps of the recorder, of `STEP_MV` in each.

    Returns
    -------
    list of SyntheticRecord
        The records, in order.

    Raises
    ------
    TypeError
        If `n`, `seed` or `records_per_patient` is no whole number.
    ValueError
        If an argument is out of its range, `mix` names an unknown scenario or has no weight, or
        `waves` names an unknown kind.
    """
    if not isinstance(n, Integral) or isinstance(n, bool):
        raise TypeError(f"n = {n!r} found, a whole number of records wanted")
    if n < 0:
        raise ValueError(f"n = {n} found, 0 or more records wanted")
    records = iter_records(seed, fs_hz, seconds, mix, records_per_patient, noise, waves=waves)
    return list(itertools.islice(records, int(n)))


def iter_records(
    seed: int = 0,
    fs_hz: float = 500,
    seconds: float = 10,
    mix: Mapping[str, float] | None = None,
    records_per_patient: int = 1,
    noise: float = 1.0,
    start: int = 0,
    waves: str | Collection[str] = tuple(WAVE_KINDS),
) -> Iterator[SyntheticRecord]:
    """Yield the records of `make_records` one by one, without end.

    Parameters
    ----------
    seed, fs_hz, seconds, mix, records_per_patient, noise, waves
        As in `make_records`.
    start : int
        Number of the first record.

    Yields
    ------
    SyntheticRecord
        Record `start`, `start` + 1 and so on, the same bytes as in the list of `make_records`.

    Raises
    ------
    TypeError, ValueError
        As `make_records`, at once and not at the first record.
    """
    wholes = {
        "seed": (seed, 0),
        "records_per_patient": (records_per_patient, 1),
        "start": (start, 0),
    }
    for name, (value, least) in wholes.items():
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise TypeError(f"{name} = {value!r} found, a whole number wanted")
        if value < least:
            raise ValueError(f"{name} = {value} found, at least {least} wanted")
    if not (math.isfinite(fs_hz) and fs_hz >= LEAST_FS_HZ):
        raise ValueError(f"fs_hz = {fs_hz!r} found, at least {LEAST_FS_HZ} wanted to hold a QRS")
    if not (math.isfinite(seconds) and seconds >= 2.5):
        raise ValueError(
            f"seconds = {seconds!r} found, at least 2.5 wanted to hold an ectopic beat"
        )
    if not (math.isfinite(noise) and noise >= 0):
        raise ValueError(f"noise = {noise!r} found, a factor of 0 or more wanted")
    shares = _shares(SCENARIOS if mix is None else mix)
    kinds = (waves,) if isinstance(waves, str) else tuple(waves)
    if unknown := [kind for kind in kinds if kind not in WAVE_KINDS]:
        raise ValueError(f"wave {unknown[0]!r} found in waves, {', '.join(WAVE_KINDS)} wanted")

    def generate():
        for i in itertools.count(int(start)):
            patient = i // int(records_per_patient)
            yield _record(int(seed), i, patient, fs_hz, seconds, shares, noise, kinds)

    return generate()


def _shares(mix: Mapping[str, float]) -> dict[str, float]:
    """Check the weights of a mix and scale them to a sum of 1."""
    if unknown := [name for name in mix if name not in SCENARIOS]:
        raise ValueError(f"rhythm {unknown[0]!r} found in mix, {', '.join(SCENARIOS)} wanted")
    weights = np.array(list(mix.values()), dtype=np.float64)
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise ValueError(f"mix {dict(mix)!r} found, weights of 0 or more with a sum above 0 wanted")
    return dict(zip(mix, (weights / weights.sum()).tolist(), strict=True))


def _rng(seed: int, *key: int) -> np.random.Generator:
    """Return the stream of chance of one purpose, independent of every other key."""
    return np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=key))


def _record(seed, i, patient, fs_hz, seconds, shares, noise, kinds) -> SyntheticRecord:
    patient_rng, rng = _rng(seed, 0, patient), _rng(seed, 1, i)
    scenario = pick(shares, patient_rng)
    body = draw_patient(patient_rng)
    fresh = pick(shares, rng)
    if rng.random() >= _STAYS:
        scenario = fresh
    rhythm = make_rhythm(scenario, seconds, rng)
    samples = int(round(seconds * fs_hz))
    independent, waves = _render(rhythm, body, samples, fs_hz, rng, kinds)
    if noise > 0:
        disturbed = disturbance(samples, fs_hz, rhythm.breath_hz, rng)
        if noise != 1:
            disturbed *= np.float32(noise)
        independent += disturbed
    # Whole steps of a power of two: float32 holds them and their sums and halves exactly.
    independent *= np.float32(1 / STEP_MV)
    np.rint(independent, out=independent)
    signal_mv = independent @ _STEPS_TO_LEADS
    inside = (rhythm.time_s >= 0) & (rhythm.time_s < samples / fs_hz)
    beats = np.empty(np.count_nonzero(inside), dtype=BEAT_DTYPE)
    beats["time_s"], beats["kind"] = rhythm.time_s[inside], rhythm.kind[inside]
    return SyntheticRecord(
        name=f"synthetic-{seed}-{i:06d}",
        patient=f"synthetic-{seed}-patient-{patient:06d}",
        rhythm=scenario,
        signal_mv=signal_mv,
        fs_hz=float(fs_hz),
        labels=np.array([r in scenario.split("+") for r in RHYTHMS], dtype=np.float32),
        beats=beats.view(np.recarray),
        waves=waves,
    )


def _render(
    rhythm: Rhythm,
    body: Patient,
    samples: int,
    fs_hz: float,
    rng: np.random.Generator,
    kinds: tuple[str, ...],
) -> tuple[np.ndarray, np.recarray]:
    """Draw waves of some kinds on the independent leads (samples, 8) in mV, and mark all waves.

    The kinds that are not drawn take their numbers of `rng` all the same.
    """
    time_s = np.arange(samples) / fs_hz
    placement = 1 + 0.04 * rng.standard_normal(8)  # electrodes never sit twice at the same place
    breath = 0.05 * np.abs(rng.standard_normal()) * (1 + 0.5 * rng.standard_normal(8))
    phase = rng.uniform(0, 2 * np.pi)

    def gain(when_s):
        swing = np.sin(2 * np.pi * rhythm.breath_hz * when_s + phase)
        return placement * (1 + breath * swing[:, None])

    matrix = placement[:, None] * body.matrix
    if rhythm.atria == "fibrillation":
        atrial, out = "f", fibrillatory_waves(time_s, matrix, rng)
    elif rhythm.atria == "flutter":
        atrial, out = "F", flutter_waves(time_s, rhythm.flutter_hz, matrix, rng)
    else:
        atrial, out = "", np.zeros((samples, 8), dtype=np.float32)
    if atrial not in kinds:
        out[:] = 0

    def add(kind, when_s, wave, gain, stretch):
        if kind in kinds:
            _add(out, fs_hz, when_s, wave, gain, stretch)

    drawn = []  # name, wave, times, stretches, beats
    size = gain(rhythm.p_time_s) * rng.normal(1, 0.04, (len(rhythm.p_time_s), 1))
    for ectopic in set(rhythm.p_ectopic.tolist()):
        of = rhythm.p_ectopic == ectopic
        p, when_s = (body.p_ectopic() if ectopic else body.p), rhythm.p_time_s[of]
        as_is = np.ones(len(when_s))
        add("P", when_s, p, size[of], as_is)
        drawn.append(("P", p, when_s, as_is, rhythm.p_beat[of]))

    size = gain(rhythm.time_s) * rng.normal(1, 0.025, (len(rhythm.time_s), 1))
    t_size = size * rng.normal(1, 0.04, (len(rhythm.time_s), 1))
    # The QT interval follows the rate with a memory (Fridericia's cube root of RR).
    usual_s = 0.75 * rhythm.rr_s.mean()
    stretch = np.clip(usual_s + 0.25 * rhythm.rr_s, 0.3, 1.6) ** (1 / 3)
    shape = np.where(rhythm.kind == "V", 2 + rhythm.focus, rhythm.aberrant.astype(int))
    for which in sorted(set(shape.tolist())):
        if which > 1:
            ventricles = body.focus(which - 2)
        else:
            ventricles = body.aberrant() if which else body.normal
        qrs, t, beat = ventricles.qrs, ventricles.t, np.flatnonzero(shape == which)
        when_s, slow = rhythm.time_s[beat], stretch[beat]
        widening_s = max(0.0, qrs.offset_s - qrs.onset_s - 0.1)
        t_s = when_s + qrs.onset_s + widening_s + (body.qtc_s - t.offset_s) * slow
        as_is = np.ones(len(beat))
        add("QRS", when_s, qrs, size[beat], as_is)
        add("ST", when_s + qrs.offset_s + 0.01, ventricles.st, size[beat], slow)
        add("T", t_s, t, t_size[beat], slow)
        drawn += [("QRS", qrs, when_s, as_is, beat), ("T", t, t_s, slow, beat)]
    return out, _marks(drawn, rhythm, samples / fs_hz)


def _add(out, fs_hz, when_s, wave: Wave, gain, stretch) -> None:
    """Add a wave to `out` (samples, 8) at every time (n,), with gain (n, 8) and stretch (n,)."""
    first_s, last_s = wave.span_s
    begin = np.ceil((when_s + first_s * stretch) * fs_hz).astype(int)
    width = int((last_s - first_s) * stretch.max(initial=0) * fs_hz) + 1
    # From the peak of each wave: small numbers, so single precision is enough.
    start_s = ((begin / fs_hz - when_s) / stretch).astype(np.float32)[:, None]
    steps_s = (1 / (fs_hz * stretch)).astype(np.float32)[:, None] * np.arange(width, dtype="f4")
    shapes = gaussians(start_s + steps_s, wave.center_s, wave.before_s, wave.after_s)
    sizes = gain.astype(np.float32)[:, None, :] * wave.leads_mv
    pieces = shapes.transpose(1, 2, 0) @ sizes
    for start, piece in zip(begin.tolist(), pieces, strict=True):
        skip = max(0, -start)
        room = out[start + skip : max(0, start + width)]
        room += piece[skip : skip + len(room)]


def _marks(drawn: list[tuple], rhythm: Rhythm, seconds: float) -> np.recarray:
    """Mark the waves that peak inside the record, numbered by the beats inside it."""
    waves = np.empty(sum(len(when_s) for _, _, when_s, _, _ in drawn), dtype=WAVE_DTYPE)
    end = 0
    for name, wave, when_s, stretch, beat in drawn:
        start, end = end, end + len(when_s)
        part = waves[start:end]
        part["onset_s"] = when_s + wave.onset_s * stretch
        part["peak_s"] = when_s
        part["offset_s"] = when_s + wave.offset_s * stretch
        part["wave"], part["beat"] = name, beat
    order = np.argsort(waves["peak_s"], kind="stable")
    peak_s = waves["peak_s"][order]
    waves = waves[order[(peak_s >= 0) & (peak_s < seconds)]]
    np.maximum(waves["onset_s"], 0, out=waves["onset_s"])
    np.minimum(waves["offset_s"], seconds, out=waves["offset_s"])
    row = np.cumsum(rhythm.time_s >= 0) - 1
    row[(rhythm.time_s < 0) | (rhythm.time_s >= seconds)] = -1
    waves["beat"] = np.where(waves["beat"] >= 0, row[waves["beat"]], -1)
    return waves.view(np.recarray)
