"""Figures: ECG paper is true to scale, and every curve shows the numbers it was given."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest

from ecgbook import plots
from ecgbook.leads import LEADS


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def traces(ax):
    return [line for line in ax.lines if len(line.get_xdata()) > 10]


def test_a_millimeter_is_a_millimeter():
    ax = plots.ecg_paper(np.zeros((5000, 12)), 500)
    figure = ax.figure
    figure.canvas.draw()
    (x0, y0), (x1, y1) = ax.transData.transform([(0, 0), (100, 50)])
    assert (x1 - x0) / figure.dpi * 25.4 == pytest.approx(100, rel=1e-3)
    assert (y1 - y0) / figure.dpi * 25.4 == pytest.approx(50, rel=1e-3)


def test_each_lead_is_drawn_at_its_time_and_height():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(6000, 12)) * 0.2
    ax = plots.ecg_paper(signal, 500, start_s=1.0, title="T")
    lines = traces(ax)
    assert len(lines) == 13
    order = ["I", "aVR", "V1", "V4", "II", "aVL", "V2", "V5", "III", "aVF", "V3", "V6", "II"]
    for number, (line, name) in enumerate(zip(lines, order, strict=True)):
        row = number // 4
        x, y = line.get_xdata(), line.get_ydata()
        start = 500 + round(x[0] / 25 * 500)
        lead = LEADS.index(name)
        wanted = (3 - row) * 27 + 10 * signal[start : start + len(x), lead]
        np.testing.assert_allclose(y, wanted)
        np.testing.assert_allclose(np.diff(x), 25 / 500)
        assert len(x) == (5000 if row == 3 else 1250)
    shown = {text.get_text() for text in ax.texts}
    assert set(LEADS) <= shown and "T" in shown
    assert any("for teaching, not for diagnosis" in text for text in shown)


def test_the_calibration_pulse_is_one_millivolt_and_a_fifth_of_a_second():
    ax = plots.ecg_paper(np.zeros((5000, 12)), 500)
    pulses = [line for line in ax.lines if len(line.get_xdata()) == 6]
    assert len(pulses) == 4
    for line in pulses:
        x, y = line.get_xdata(), line.get_ydata()
        assert y.max() - y.min() == pytest.approx(10)
        high = x[np.isclose(y, y.max())]
        assert np.ptp(high) == pytest.approx(5)


def test_the_ruling_is_every_millimeter_bold_every_five():
    ax = plots.ecg_paper(np.zeros((5000, 12)), 500)
    for collection, step in zip(ax.collections, (1, 5), strict=True):
        x = sorted({p[0, 0] for p in collection.get_segments() if p[0, 0] == p[1, 0]})
        np.testing.assert_allclose(np.diff(x), step)
        assert any(np.isclose(v % 5, 0) for v in x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((12, 5000)), 500), r"\(12, 5000\) found"),
        ((np.zeros((5000, 12)), 0), "fs_hz=0 found"),
        ((np.zeros((5000, 12)), 500, 10.0), "start_s=10.0 found, 0 to 10 s"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        plots.ecg_paper(*arguments)


def test_a_short_record_leaves_paper_empty():
    lines = traces(plots.ecg_paper(np.zeros((1000, 12)), 500))
    assert max(line.get_xdata().max() for line in lines) < 50


def test_learning_curve_and_intervals_show_their_numbers():
    rows = [
        {"train_loss": 0.6, "valid_loss": 0.7, "valid_auroc": 0.6},
        {"train_loss": 0.4, "valid_loss": 0.5, "valid_auroc": 0.9},
        {"train_loss": 0.2, "valid_loss": 0.6, "valid_auroc": 0.8},
    ]
    ax = plots.learning_curve(rows)
    assert ax.lines[0].get_ydata().tolist() == [0.6, 0.4, 0.2]
    assert ax.lines[1].get_ydata().tolist() == [0.7, 0.5, 0.6]
    assert ax.lines[2].get_xdata()[0] == 2
    ax = plots.intervals({"a": (0.5, 0.4, 0.6), "b": (float("nan"),) * 3}, "AUROC")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b (not defined)"]
    assert ax.lines[0].get_xdata().tolist() == [0.4, 0.6]
    assert len(ax.lines) == 2
