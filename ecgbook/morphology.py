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

from dataclasses import dataclass

import numpy as np

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
    """Evaluate skewed Gaussians of height 1: times (..., n) and parts (k,) give (..., n, k)."""
    away = np.asarray(time_s)[..., None] - center_s
    if before_s is after_s:  # one array for both: not skewed, as the QRS
        away /= before_s
    else:
        away /= np.where(away < 0, before_s, after_s)
    away *= away
    away *= -0.5
    return np.exp(away, out=away)


def _wave(center_s, before_s, after_s, dipole_mv, matrix, rng, residual=0.2) -> Wave:
    """Project dipoles (parts, 3) onto the leads, add what no dipole explains, put the peak at 0."""
    size = np.linalg.norm(dipole_mv, axis=1, keepdims=True)
    leads_mv = dipole_mv @ matrix.T + residual * size * rng.standard_normal((len(size), 8))
    first_s, last_s = (center_s - 3.8 * before_s).min(), (center_s + 3.8 * after_s).max()
    grid_s = np.arange(first_s, last_s, 0.001)
    power = ((gaussians(grid_s, center_s, before_s, after_s) @ leads_mv) ** 2).sum(1)
    peak_s = grid_s[power.argmax()]
    seen = grid_s[power >= EDGE**2 * power.max()]
    before = before_s.astype(np.float32)
    return Wave(
        center_s=(center_s - peak_s).astype(np.float32),
        before_s=before,
        after_s=before if after_s is before_s else after_s.astype(np.float32),
        leads_mv=leads_mv.astype(np.float32),
        onset_s=seen[0] - peak_s,
        offset_s=seen[-1] - peak_s,
        span_s=(first_s - peak_s, last_s - peak_s),
    )


def _rotation(angles: np.ndarray) -> np.ndarray:
    """Rotation by three angles in radians around X, Y and Z."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def _direction(rng: np.random.Generator, mean, spread: float) -> np.ndarray:
    """Draw a unit vector around a mean direction."""
    vector = np.asarray(mean) + spread * rng.standard_normal(3)
    return vector / np.linalg.norm(vector)


def draw_patient(rng: np.random.Generator) -> Patient:
    """Draw a patient: size and position of the heart, conduction, shapes of all waves.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    Patient
        See there.
    """
    spread = rng.uniform(0.15, 0.25)
    matrix = _ROW_GAIN * DOWER * (1 + spread * rng.standard_normal((8, 3)))
    matrix += 0.05 * rng.standard_normal((8, 3))
    matrix = matrix @ _rotation(np.radians(8) * rng.standard_normal(3)).T
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
    dipole = size_mv * np.stack([axis - back, (0.9 * axis + back) * rng.uniform(0.7, 1.1)])
    return _wave(
        np.array([-apart, apart]),
        np.full(2, 0.016),
        rng.uniform(0.014, 0.018, 2),
        dipole,
        matrix,
        rng,
    )


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
    peak = np.linalg.norm(gaussians(center, center, width, width) @ dipole, axis=1).max()
    dipole = dipole / peak
    if conduction == "right":  # the right ventricle follows late: to the right and front
        late = rng.uniform(0.25, 0.55) * _direction(rng, (-0.6, 0.05, -0.7), 0.2)
        center = np.append(center, [0.046, 0.066])
        width = np.append(width, [0.012, 0.014])
        dipole = np.vstack([dipole, late, 0.6 * late])
        t_dipole = t_dipole - 0.35 * late
    elif conduction == "left":
        t_dipole = 0.3 * t_dipole - 0.25 * _direction(rng, dipole[2] + dipole[3], 0.15)
    notches = rng.uniform(center[0], center[-1] + 0.01, 3)  # fine structure of the patient's own
    center, width = np.append(center, notches), np.append(width, rng.uniform(0.004, 0.007, 3))
    dipole = np.vstack([dipole, 0.06 * rng.standard_normal((3, 3))])
    qrs = _wave(center, width, width, size_mv * dipole, matrix, rng)
    return _with_recovery(qrs, size_mv, t_dipole, rng, matrix)


def _with_recovery(qrs, size_mv, t_dipole, rng, matrix, slow=1.0) -> Ventricles:
    """Add the ST segment and T wave to a QRS."""
    st_dipole = _ST_MEAN + 0.15 * (t_dipole - _T_MEAN) + _ST_SPREAD * rng.standard_normal(3)
    st = _wave(
        np.array([0.0, 0.06]),
        np.full(2, 0.030),
        np.full(2, 0.045),
        size_mv * np.stack([0.6 * st_dipole, st_dipole]),
        matrix,
        rng,
    )
    before, after = rng.uniform(0.040, 0.061), rng.uniform(0.025, 0.037)
    turned = 0.15 * np.linalg.norm(t_dipole) * rng.standard_normal(3)
    t = _wave(
        np.array([-0.045, 0.0]) * slow,
        np.array([before, before]) * slow,
        np.array([0.035, after]) * slow,
        size_mv * np.stack([0.35 * t_dipole + turned, 0.85 * t_dipole - 0.5 * turned]),
        matrix,
        rng,
    )
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
    peak = np.linalg.norm(gaussians(center, center, width, width) @ dipole, axis=1).max()
    qrs = _wave(center, width, width, size_mv * dipole / peak, matrix, rng)
    t_dipole = -rng.uniform(0.25, 0.45) * _direction(rng, axis, 0.25)
    return _with_recovery(qrs, size_mv, t_dipole, rng, matrix, slow=1.2)


def _wandering(time_s, every_s, rng) -> np.ndarray:
    """Return smooth noise of about unit size that changes every `every_s` seconds."""
    knots_s = np.arange(-every_s, time_s[-1] + 2 * every_s, every_s)
    return np.interp(time_s, knots_s, rng.standard_normal(len(knots_s)))


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
    ndarray, shape (samples, 8), float64
        Independent leads in mV.
    """
    step_s = time_s[1] - time_s[0]
    rate_hz = float(np.clip(rng.normal(6.2, 1.0), 4.3, 8.7))
    size_mv = float(np.clip(0.042 * np.exp(0.5 * rng.standard_normal()), 0.012, 0.13))
    dipole = np.zeros((len(time_s), 3))
    for share in (1.0, 0.5, 0.35):  # wavelets that drift against each other
        axis = _direction(rng, (0.05, 0.55, -0.75), 0.3 if share == 1 else 0.8)
        hz = np.clip(rate_hz * rng.normal(1, 0.06) + 0.5 * _wandering(time_s, 0.6, rng), 4, 9)
        phase = 2 * np.pi * (np.cumsum(hz) * step_s + rng.random())
        turn = np.exp(1j * phase)
        shape = (turn * (1 + turn * (0.35 * np.exp(0.6j) + 0.12 * np.exp(1.2j) * turn))).imag
        swell = np.clip(1 + 0.4 * _wandering(time_s, 0.5, rng), 0.1, 2)
        dipole += share * size_mv * (swell * shape)[:, None] * axis
    return dipole @ matrix.T


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
    ndarray, shape (samples, 8), float64
        Independent leads in mV.
    """
    size_mv = float(np.clip(0.085 * np.exp(0.4 * rng.standard_normal()), 0.035, 0.20))
    turn = np.exp(2j * np.pi * (rate_hz * time_s + rng.random()))
    k = np.arange(6, -1, -1.0)  # highest harmonic first, no constant
    k[-1] = np.inf
    saw = np.polyval(k**-1.25, turn).imag  # slow fall, quick rise
    hump = np.polyval(k**-1.6, turn * np.exp(-1j * rng.uniform(0.4, 1.4))).real
    way = 1.0 if rng.random() < 0.85 else -1.0  # some run the other way round
    inferior = size_mv * way * _direction(rng, (0.05, 1.0, 0.0), 0.15)
    front = size_mv * rng.uniform(0.4, 0.9) * way * _direction(rng, (-0.3, 0.0, -0.8), 0.25)
    swell = 1 + 0.05 * _wandering(time_s, 0.7, rng)
    return ((swell * saw)[:, None] * inferior + (swell * hump)[:, None] * front) @ matrix.T
