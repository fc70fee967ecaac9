"""Figures: ECG paper is true to scale, and every curve shows the numbers it was given."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import QuadMesh

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


def random_relevance(samples, seed=0):
    return np.random.default_rng(seed).normal(size=(samples, 12))


def color_bands(ax):
    """The colored meshes by cell, and the color bar."""
    meshes = [c for c in ax.collections if isinstance(c, QuadMesh)]
    return meshes[:-1], meshes[-1]


CELLS = ["I", "aVR", "V1", "V4", "II", "aVL", "V2", "V5", "III", "aVF", "V3", "V6", "II"]


def edges_of(mesh):
    return mesh.get_coordinates()[0, :, 0]


@pytest.mark.parametrize("fs_hz", [500, 360, 125])
def test_the_color_of_a_millimeter_is_the_relevance_of_its_samples(fs_hz):
    samples = 12 * fs_hz
    relevance = random_relevance(samples)
    ax = plots.ecg_paper(np.zeros((samples, 12)), fs_hz, start_s=1.0, relevance=relevance)
    bands, _ = color_bands(ax)
    assert len(bands) == 13
    wanted = np.zeros((250, 12))
    for i in range(10 * fs_hz):
        wanted[25 * i // fs_hz] += relevance[fs_hz + i]
    for number, (mesh, name) in enumerate(zip(bands, CELLS, strict=True)):
        start, end = (0, 250) if number == 12 else (62.5 * (number % 4), 62.5 * (number % 4 + 1))
        edges, height = edges_of(mesh), mesh.get_coordinates()[:, 0, 1]
        assert (edges[0], edges[-1]) == (start, end)
        np.testing.assert_allclose(edges[1:-1], np.arange(np.floor(start) + 1, np.ceil(end)))
        first = int(start)
        found = mesh.get_array().ravel()
        np.testing.assert_allclose(
            found, wanted[first : first + len(found), LEADS.index(name)], atol=1e-9
        )
        assert height.mean() == (3 - number // 4) * 27


def test_one_symmetric_scale_holds_for_all_leads():
    relevance = random_relevance(5000) / 100
    relevance[4500:4520, LEADS.index("I")] -= 1  # drawn nowhere: lead I ends at 2.5 s
    ax = plots.ecg_paper(np.zeros((5000, 12)), 500, relevance=relevance)
    bands, bar = color_bands(ax)
    limit = -relevance[4500:4520, 0].sum()
    for mesh in (*bands, bar):
        assert (mesh.norm.vmin, mesh.norm.vmax) == pytest.approx((-limit, limit))
        shades = mesh.norm([-limit, -limit / 2, 0, limit / 4])
        np.testing.assert_allclose(shades, [0, 0.25, 0.5, 0.625], atol=1e-12)
        assert mesh.cmap is bar.cmap
    np.testing.assert_allclose(bar.get_array().ravel(), np.linspace(-limit, limit, 201))
    texts = [text.get_text() for text in ax.texts]
    assert any(f"+{limit:.2g} for" == text for text in texts)
    assert any(
        "40 ms of a lead" in t and "logit units" in t and f"\N{MINUS SIGN}{limit:.2g}" in t
        for t in texts
    )


def test_color_grows_with_relevance_and_says_its_sign_to_color_blind_eyes():
    _, bar = color_bands(plots.ecg_paper(np.zeros((9, 12)), 9, relevance=np.ones((9, 12))))
    rgb = bar.cmap(np.linspace(0, 1, 65))[:, :3]
    light = rgb @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light[:33]) > 0).all() and (np.diff(light[32:]) < 0).all()
    assert light[0] == pytest.approx(light[-1], abs=0.15) and light[32] > 0.95
    blue_less_red = rgb[:, 2] - rgb[:, 0]
    assert (blue_less_red[:28] > 0).all() and (blue_less_red[-28:] < 0).all()


def test_color_does_not_depend_on_the_sampling_rate():
    coarse = random_relevance(1250)
    fine = np.repeat(coarse / 4, 4, axis=0)
    pages = [
        color_bands(plots.ecg_paper(np.zeros(r.shape), fs, relevance=r))[0]
        for r, fs in ((coarse, 125), (fine, 500))
    ]
    for a, b in zip(*pages, strict=True):
        np.testing.assert_allclose(a.get_array(), b.get_array(), atol=1e-12)
        assert a.norm.vmax == pytest.approx(b.norm.vmax)


def test_a_given_limit_makes_pages_comparable():
    relevance = random_relevance(1250)
    ax = plots.ecg_paper(np.zeros((1250, 12)), 125, relevance=relevance, limit=2.5)
    assert {(m.norm.vmin, m.norm.vmax) for m in color_bands(ax)[0]} == {(-2.5, 2.5)}


def test_no_relevance_has_no_color():
    ax = plots.ecg_paper(np.zeros((1250, 12)), 125, relevance=np.zeros((1250, 12)))
    for mesh in color_bands(ax)[0]:
        assert not mesh.get_array().any() and mesh.norm(0) == 0.5
    assert not any(
        isinstance(c, QuadMesh) for c in plots.ecg_paper(np.zeros((9, 12)), 9).collections
    )


def test_color_ends_with_a_short_record():
    bands, _ = color_bands(plots.ecg_paper(np.zeros((375, 12)), 125, relevance=np.ones((375, 12))))
    assert [edges_of(mesh)[-1] for mesh in bands] == [62.5, 75] * 3 + [75]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"relevance": np.zeros((500, 1))},
            r"relevance of shape \(500, 1\) found, that of the signal \(500, 12\) wanted; give one",
        ),
        ({"relevance": np.full((500, 12), np.nan)}, "not finite found, numbers wanted"),
        ({"relevance": np.ones((500, 12)), "limit": 0.0}, "limit=0.0 found, a positive"),
        ({"relevance": np.ones((500, 12)), "limit": np.nan}, "limit=nan found, a positive"),
    ],
)
def test_relevance_that_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        plots.ecg_paper(np.zeros((500, 12)), 500, **options)


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


def test_the_last_half_sample_is_still_a_page():
    signal = np.zeros((1000, 12))
    ax = plots.ecg_paper(signal, 100, 9.996, relevance=np.ones((1000, 12)))
    assert ax.get_xlim()[0] < 0
