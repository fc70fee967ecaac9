"""What the waves of a synthetic ECG look like: one patient's P, QRS, ST and T, and atrial waves.

A wave is a sum of skewed Gaussians, each a dipole on X (left), Y (down), Z (back), which the
patient's own matrix projects onto the eight independent leads.

Sources: P. E. McSharry et al. (2003), doi:10.1109/TBME.2003.808805 (Gaussian waves); G. E. Dower
et al. (1980), doi:10.1002/clc.4960030803 (dipole to leads); R. Sameni et al. (2007),
doi:10.1155/2007/43407 (Gaussians on a dipole). The means and spreads of the QRS, T and P dipoles
are rounded fits to sinus records of PTB-XL and the PhysioNet/CinC Challenge 2021, the
durations medians of the marks in lead II of 159 LUDB records.
"""

from __future__ import annotations

import cmath
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

DOWER = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)
"""Dower's lead vectors: rows I, II, V1 to V6, columns X, Y, Z."""

_ROW_GAIN = np.array([1.08, 0.95, 0.80, 1.15, 1.10, 1.05, 1.0, 0.97])[:, None]

EDGE = 0.03
"""A wave begins and ends where it has this share of its greatest size."""

# Normal QRS: six Gaussians, their mean dipole and its spread, relative to the largest.
_QRS_CENTER_S = np.array([-0.030, -0.018, -0.006, 0.006, 0.018, 0.030])
_QRS_MEAN = np.array(
    [
        [-0.01, 0.00, -0.03],
        [-0.01, -0.02, -0.13],
        [0.56, 0.24, 0.14],
        [0.46, 0.20, 0.35],
        [-0.14, -0.03, 0.23],
        [-0.01, 0.00, 0.03],
    ]
)
_QRS_SPREAD = np.array(
    [
        [0.04, 0.03, 0.06],
        [0.14, 0.07, 0.12],
        [0.16, 0.15, 0.33],
        [0.28, 0.18, 0.23],
        [0.12, 0.10, 0.16],
        [0.07, 0.07, 0.09],
    ]
)
_T_MEAN, _T_SPREAD = np.array([0.14, 0.075, -0.125]), np.array([0.09, 0.06, 0.08])
_ST_MEAN, _ST_SPREAD = np.array([0.02, 0.01, -0.04]), np.array([0.035, 0.025, 0.03])

CONDUCTION: dict[str, float] = {"normal": 0.82, "hypertrophy": 0.07, "right": 0.07, "left": 0.04}
"""Share of patients with normal QRS, high voltage and strain, right and left bundle block."""


@dataclass(frozen=True, eq=False)
class Wave:
    """A sum of skewed Gaussians on the eight independent leads; time 0 is the wave's peak.

    Attributes
    ----------
    center_s, before_s, after_s : ndarray, shape (parts,), float32
        Centers of the Gaussians and their widths before and after the center.
    leads_mv : ndarray, shape (parts, 8), float32
        Size of each Gaussian on `ecgbook.leads.INDEPENDENT`, in mV.
    onset_s, offset_s : float
        Where the wave has 3 % of its greatest size (root sum of squares of the leads).
    span_s : tuple of float
        Where every Gaussian is below a thousandth of its size.
    """

    center_s: np.ndarray
    before_s: np.ndarray
    after_s: np.ndarray
    leads_mv: np.ndarray
    onset_s: float
    offset_s: float
    span_s: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Ventricles:
    """QRS, ST segment and T wave of one way of activating the ventricles."""

    qrs: Wave
    st: Wave
    t: Wave


@dataclass(frozen=True, eq=False)
class Patient:
    """What the records of one patient have in common.

    Attributes
    ----------
    conduction : str
        A key of `CONDUCTION`.
    matrix : ndarray, shape (8, 3), float64
        Dipole to independent leads.
    p : Wave
        P wave of the sinus node.
    normal : Ventricles
        Of conducted beats.
    qtc_s : float
        QT interval at an RR interval of 1 s.
    size_mv : float
        Size of the QRS dipole.
    seed : int
        Of the shapes below, which are only drawn when a record asks for them.
    """

    conduction: str
    matrix: np.ndarray
    p: Wave
    normal: Ventricles
    qtc_s: float
    size_mv: float
    seed: int

    def p_ectopic(self) -> Wave:
        """Return the P wave of the ectopic atrial focus, on another axis than the sinus node's."""
        rng = np.random.default_rng([self.seed, 0])
        sinus = self.p.leads_mv.sum(0)
        axis = _direction(rng, (0.1, -0.2, 0.1), 1.0)
        seen = self.matrix @ axis
        if seen @ sinus > 0.6 * np.linalg.norm(seen) * np.linalg.norm(sinus):
            axis = -axis
        size_mv = 0.5 * np.linalg.norm(np.linalg.pinv(self.matrix) @ sinus) * rng.uniform(0.7, 1.1)
        return _p_wave(axis, size_mv, self.matrix, rng)

    def aberrant(self) -> Ventricles:
        """Return the shapes of premature atrial beats that find the right bundle refractory."""
        rng = np.random.default_rng([self.seed, 1])
        return _conducted("right", self.size_mv, self.matrix, rng)

    def focus(self, number: int) -> Ventricles:
        """Return the shapes of the beats of a ventricular focus."""
        return _focus(self.size_mv, self.matrix, np.random.default_rng([self.seed, 2, number]))


def gaussians(time_s, center_s, before_s, after_s) -> np.ndarray:
    """Evaluate skewed Gaussians of height 1.

    Parameters
    ----------
    time_s : ndarray, shape (...)
        Times in seconds.
    center_s, before_s, after_s : ndarray, shape (parts,)
        Centers, and standard deviations before and after them, in seconds. One and the same array
        for both says that none is skewed, which takes half as long.

    Returns
    -------
    ndarray, shape (parts, ...)
        Values between 0 and 1, of the dtype of the arguments.
    """
    each = (slice(None),) + (None,) * np.ndim(time_s)  # the parts lead, for long inner loops
    away = time_s - center_s[each]
    if before_s is after_s:
        away /= before_s[each]
    else:
        away /= np.where(away < 0, before_s[each], after_s[each])
    away *= away
    away *= -0.5
    return np.exp(away, out=away)


def _wave(center_s, before_s, after_s, dipole_mv, matrix, rng, residual=0.2) -> Wave:
    """Project dipoles (parts, 3) onto the leads, add what no dipole explains, put the peak at 0."""
    size = np.sqrt((dipole_mv * dipole_mv).sum(1, keepdims=True))
    leads_mv = dipole_mv @ matrix.T + residual * size * rng.standard_normal((len(size), 8))
    first_s, last_s = (center_s - 3.8 * before_s).min(), (center_s + 3.8 * after_s).max()
    grid_s = np.arange(first_s, last_s, 0.001)
    before = before_s.astype(np.float32)
    after = before if after_s is before_s else after_s.astype(np.float32)
    shapes = gaussians(grid_s.astype(np.float32), center_s.astype(np.float32), before, after)
    leads_mv = leads_mv.astype(np.float32)
    power = (shapes * ((leads_mv @ leads_mv.T) @ shapes)).sum(0)  # squares summed over the leads
    largest = power.argmax()
    peak_s = grid_s[largest]
    seen = grid_s[power >= EDGE**2 * power[largest]]
    return Wave(
        center_s=(center_s - peak_s).astype(np.float32),
        before_s=before,
        after_s=after,
        leads_mv=leads_mv,
        onset_s=float(seen[0] - peak_s),
        offset_s=float(seen[-1] - peak_s),
        span_s=(float(first_s - peak_s), float(last_s - peak_s)),
    )


def _direction(rng: np.random.Generator, mean, spread: float) -> np.ndarray:
    """Draw a unit vector around a mean direction."""
    vector = mean + spread * rng.standard_normal(3)
    return vector / np.sqrt(vector @ vector)


def draw_patient(rng: np.random.Generator) -> Patient:
    """Draw a patient: size and position of the heart, conduction, shapes of all waves.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of chance.
    """
    spread = rng.uniform(0.15, 0.25)
    matrix = _ROW_GAIN * DOWER * (1 + spread * rng.standard_normal((8, 3)))
    matrix += 0.05 * rng.standard_normal((8, 3))
    turned = Rotation.from_euler("xyz", 8 * rng.standard_normal(3), degrees=True)
    matrix = matrix @ turned.as_matrix().T
    conduction = str(rng.choice(list(CONDUCTION), p=list(CONDUCTION.values())))
    size_mv = float(np.clip(1.35 * np.exp(0.31 * rng.standard_normal()), 0.6, 2.8))
    p_axis = _direction(rng, (0.55, 0.75, 0.0), 0.3)
    p_size_mv = 0.11 * np.exp(0.35 * rng.standard_normal())
    return Patient(
        conduction=conduction,
        matrix=matrix,
        p=_p_wave(p_axis, p_size_mv, matrix, rng),
        normal=_conducted(conduction, size_mv, matrix, rng),
        qtc_s=float(np.clip(rng.normal(0.405, 0.022), 0.35, 0.47)),
        size_mv=size_mv,
        seed=int(rng.integers(2**62)),
    )


def _p_wave(axis, size_mv, matrix, rng) -> Wave:
    """Right atrium to the front, then left atrium to the back: 80 to 140 ms."""
    apart, turn = rng.uniform(0.014, 0.024), rng.uniform(0.15, 0.6)
    back = np.array([0.0, 0.0, turn])
    dipole = size_mv * np.array([axis - back, (0.9 * axis + back) * rng.uniform(0.7, 1.1)])
    before, after = np.full(2, 0.016), rng.uniform(0.014, 0.018, 2)
    return _wave(np.array([-apart, apart]), before, after, dipole, matrix, rng)


def _conducted(conduction, size_mv, matrix, rng) -> Ventricles:
    """Activation by the bundles, with one of the kinds of `CONDUCTION`."""
    center, width = _QRS_CENTER_S.copy(), np.full(6, 0.0075)
    wander = rng.standard_normal((6, 3))
    wander[1:] = 0.87 * wander[1:] + 0.5 * wander[:-1]
    dipole = _QRS_MEAN + 0.8 * _QRS_SPREAD * wander
    t_dipole = _T_MEAN + _T_SPREAD * rng.standard_normal(3)
    if conduction == "left":  # no septal vector, slow, to the left and back; T turned away
        dipole[:2] = 0.25 * np.array([[0.2, 0.1, 0.2], [0.6, 0.3, 0.4]])
        dipole[4:] = 0.6 * dipole[2:4] * rng.uniform(0.5, 1, (2, 1))
        dipole[:, 2] = np.abs(dipole[:, 2]) + 0.15
        center, width = 1.55 * center, 1.6 * width
        size_mv *= 1.15
    elif conduction == "hypertrophy":
        size_mv = min(1.5 * size_mv, 3.4)
        dipole[2:4] += (0.1, -0.05, 0.2)
        if rng.random() < 0.6:
            t_dipole = t_dipole * (-0.6, 0.3, 0.8)
    center = 1.05 * center * np.exp(0.1 * rng.standard_normal())
    width = width * np.exp(0.08 * rng.standard_normal())
    dipole = dipole / _largest(dipole, center, width)
    if conduction == "right":  # the right ventricle follows late: to the right and front
        late = rng.uniform(0.25, 0.55) * _direction(rng, (-0.6, 0.05, -0.7), 0.2)
        center = np.concatenate([center, [0.046, 0.066]])
        width = np.concatenate([width, [0.012, 0.014]])
        dipole = np.concatenate([dipole, [late, 0.6 * late]])
        t_dipole = t_dipole - 0.35 * late
    elif conduction == "left":
        t_dipole = 0.3 * t_dipole - 0.25 * _direction(rng, dipole[2] + dipole[3], 0.15)
    notches = rng.uniform(center[0], center[-1] + 0.01, 3)  # fine structure of the patient's own
    center = np.concatenate([center, notches])
    width = np.concatenate([width, rng.uniform(0.004, 0.007, 3)])
    dipole = np.concatenate([dipole, 0.06 * rng.standard_normal((3, 3))])
    qrs = _wave(center, width, width, size_mv * dipole, matrix, rng)
    return _with_recovery(qrs, size_mv, t_dipole, rng, matrix)


def _largest(dipole, center, width) -> float:
    """Size of the dipole (parts, 3) where it is largest: at the center of a part, nearly."""
    at_centers = gaussians(center, center, width, width).T @ dipole
    return np.sqrt((at_centers * at_centers).sum(1).max())


def _with_recovery(qrs, size_mv, t_dipole, rng, matrix, slow=1.0) -> Ventricles:
    """Add the ST segment and T wave to a QRS."""
    st_dipole = _ST_MEAN + 0.15 * (t_dipole - _T_MEAN) + _ST_SPREAD * rng.standard_normal(3)
    center, before, after = np.array([0.0, 0.06]), np.full(2, 0.030), np.full(2, 0.045)
    dipole = size_mv * np.array([0.6 * st_dipole, st_dipole])
    st = _wave(center, before, after, dipole, matrix, rng)
    center, before = np.array([-0.045, 0.0]), np.full(2, rng.uniform(0.040, 0.061))
    after = np.array([0.035, rng.uniform(0.025, 0.037)])
    turned = 0.15 * np.sqrt(t_dipole @ t_dipole) * rng.standard_normal(3)
    dipole = size_mv * np.array([0.35 * t_dipole + turned, 0.85 * t_dipole - 0.5 * turned])
    t = _wave(slow * center, slow * before, slow * after, dipole, matrix, rng)
    return Ventricles(qrs, st, t)


def _focus(size_mv, matrix, rng) -> Ventricles:
    """Draw a ventricular focus: QRS of 120 to 180 ms on its own axis, T against it."""
    from_right = rng.random() < 0.6  # then the wave runs to the left and back, like left block
    mean = (0.6, 0.4, 0.45) if from_right else (-0.5, 0.1, -0.6)
    axis = _direction(rng, mean, 0.55)
    size_mv = np.clip(size_mv, 0.9, 2.2) * rng.uniform(1.0, 1.7)
    turns = 0.3 * rng.standard_normal((4, 3))
    dipole = np.array([0.25, 0.75, 0.6, 0.25])[:, None] * axis + 0.5 * turns
    dipole[3] -= 0.35 * axis * rng.random()
    center = np.array([-0.052, -0.012, 0.022, 0.056]) * rng.uniform(0.72, 1.0)
    width = np.array([0.015, 0.016, 0.017, 0.019]) * rng.uniform(0.80, 1.0)
    dipole = size_mv / _largest(dipole, center, width) * dipole
    qrs = _wave(center, width, width, dipole, matrix, rng)
    t_dipole = -rng.uniform(0.25, 0.45) * _direction(rng, axis, 0.25)
    return _with_recovery(qrs, size_mv, t_dipole, rng, matrix, slow=1.2)


def _wandering(time_s, every_s, mean, spread, rng, least=-np.inf, most=np.inf) -> np.ndarray:
    """Return a random curve between two bounds that turns every `every_s` seconds."""
    knots_s = np.arange(-every_s, time_s[-1] + 2 * every_s, every_s)
    knots = mean + spread * rng.standard_normal(len(knots_s))
    return np.interp(time_s, knots_s, np.clip(knots, least, most))


def _turning(cycles: np.ndarray) -> np.ndarray:
    """Return exp(2 pi i cycles) as complex64; whole cycles are taken off before the rounding."""
    angle = (2 * np.pi * (cycles - np.rint(cycles))).astype(np.float32)
    turning = np.empty(angle.shape, dtype=np.complex64)
    np.cos(angle, out=turning.real)
    np.sin(angle, out=turning.imag)
    return turning


def fibrillatory_waves(time_s, matrix, rng) -> np.ndarray:
    """Draw f waves of 4 to 9 Hz with wandering rate, largest in V1 and II.

    Parameters
    ----------
    time_s : ndarray, shape (samples,)
        Even grid of times from 0.
    matrix : ndarray, shape (8, 3)
        The patient's lead matrix.
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    ndarray, shape (samples, 8), float32
        Independent leads in mV.
    """
    step_s = time_s[1] - time_s[0]
    rate_hz = np.clip(rng.normal(6.2, 1.0), 4.3, 8.7)
    size_mv = np.clip(0.042 * np.exp(0.5 * rng.standard_normal()), 0.012, 0.13)
    second, third = 0.35 * cmath.exp(0.6j), 0.12 * cmath.exp(1.2j)  # harmonics
    shapes, axes = np.empty((3, len(time_s)), dtype=np.float32), np.empty((3, 3))
    for k, share in enumerate((1.0, 0.5, 0.35)):  # wavelets that drift against each other
        axes[k] = size_mv * share * _direction(rng, (0.05, 0.55, -0.75), 0.8 if k else 0.3)
        hz = _wandering(time_s, 0.6, rate_hz * rng.normal(1, 0.06), 0.5, rng, 4, 9)
        turn = _turning(np.cumsum(hz) * step_s + rng.random())
        shape = (turn * (1 + turn * (second + third * turn))).imag
        swell = _wandering(time_s, 0.5, 1, 0.4, rng, 0.1, 2)
        np.multiply(swell, shape, out=shapes[k], casting="same_kind")
    return shapes.T @ (axes @ matrix.T).astype(np.float32)


def flutter_waves(time_s, rate_hz, matrix, rng) -> np.ndarray:
    """Draw flutter waves: a sawtooth, negative in the inferior leads and positive in V1.

    Parameters
    ----------
    time_s : ndarray, shape (samples,)
        Times in seconds.
    rate_hz : float
        Atrial rate in Hz.
    matrix : ndarray, shape (8, 3)
        The patient's lead matrix.
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    ndarray, shape (samples, 8), float32
        Independent leads in mV.
    """
    size_mv = np.clip(0.085 * np.exp(0.4 * rng.standard_normal()), 0.035, 0.20)
    turn = _turning(rate_hz * time_s + rng.random())
    k = np.array([6, 5, 4, 3, 2, 1, np.inf], dtype=np.float32)  # harmonics, and no constant
    saw = np.polyval(k**-1.25, turn).imag  # slow fall, quick rise
    hump = np.polyval(k**-1.6, turn * cmath.exp(-1j * rng.uniform(0.4, 1.4))).real
    way = 1.0 if rng.random() < 0.85 else -1.0  # some run the other way round
    inferior = size_mv * way * _direction(rng, (0.05, 1.0, 0.0), 0.15)
    front = size_mv * rng.uniform(0.4, 0.9) * way * _direction(rng, (-0.3, 0.0, -0.8), 0.25)
    swell = _wandering(time_s, 0.7, 1, 0.05, rng)
    shapes = np.array([swell * saw, swell * hump], dtype=np.float32)
    return shapes.T @ (np.array([inferior, front]) @ matrix.T).astype(np.float32)
