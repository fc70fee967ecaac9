"""The page of an explanation: bars hold the sums they name, and text says what the model used."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest

from ecgbook.explain import Explanation, explanation_page
from ecgbook.leads import LEADS
from ecgbook.plots import AGAINST, FOR

FS_HZ, SAMPLES = 100.0, 1200
PEAKS_S = [0.4, 1.2, 2.4, 3.1, 4.6, 5.5, 6.4, 7.2, 8.1, 9.0, 10.3]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def explanation(**changes):
    """Twelve seconds, the last half of one padding, cut from 0.2 s on."""
    rng = np.random.default_rng(0)
    mask = np.arange(SAMPLES) < 1150
    relevance = rng.normal(size=(SAMPLES, 12)) * mask[:, None] / 30
    bias = 0.8
    fields = {
        "target": "PVC",
        "logit": float(relevance.sum()) + bias,
        "relevance": relevance,
        "bias": bias,
        "error": 3.2e-8,
        "signal_mv": rng.normal(size=(SAMPLES, 12)) * 0.1,
        "mask": mask,
        "fs_hz": FS_HZ,
        "start_s": 0.2,
    }
    return Explanation(**{**fields, **changes})


def bars(ax, kind):
    """Bars by name, in drawing order."""
    found = [p for p in ax.patches if (p.get_gid() or "").startswith(f"{kind} ")]
    return {p.get_gid().removeprefix(f"{kind} "): p for p in found}


def words(ax):
    return [text.get_text().replace("\N{MINUS SIGN}", "-") for text in ax.texts]


def test_bars_of_leads_and_biases_sum_to_the_logit():
    result = explanation()
    ax = explanation_page(result)
    found = bars(ax, "lead")
    assert list(found) == [*LEADS, "biases"]
    values = np.array([*result.per_lead(), result.bias])
    widths = np.array([bar.get_width() for bar in found.values()])
    unit = np.abs(widths).max() / np.abs(values).max()
    np.testing.assert_allclose(widths, unit * values, rtol=1e-9)
    assert widths.sum() / unit == pytest.approx(result.logit)
    assert len({bar.get_x() for bar in found.values()}) == 1, "bars start at one zero line"
    for bar, value in zip(found.values(), values, strict=True):
        assert bar.get_facecolor() == (FOR if value > 0 else AGAINST)
        assert f"{value:+.2f}" in words(ax)


def test_bars_of_beats_sum_to_the_relevance_and_stand_under_their_beats():
    result = explanation(relevance=explanation().relevance + 0.001)
    ax = explanation_page(result, PEAKS_S)
    found, values = bars(ax, "beat"), result.per_beat(PEAKS_S)
    assert list(found) == [str(i) for i in range(len(PEAKS_S))]
    heights = np.array([bar.get_height() for bar in found.values()])
    unit = np.abs(heights).max() / np.abs(values).max()
    np.testing.assert_allclose(heights, unit * values, rtol=1e-9)
    assert heights.sum() / unit == pytest.approx(result.relevance.sum())
    borders = [0.2, *(np.array(PEAKS_S[1:]) + PEAKS_S[:-1]) / 2, 10.2]  # of the page
    for number, bar in enumerate(found.values()):
        start, width = bar.get_x(), bar.get_width()
        assert (start - 0.5) / 25 + 0.2 == pytest.approx(borders[number])
        assert (start + width + 0.5) / 25 + 0.2 == pytest.approx(borders[number + 1])
        assert bar.get_facecolor() == (FOR if values[number] > 0 else AGAINST)
    assert f"{values[4]:+.2f}" in words(ax)


def test_beats_beside_the_page_are_not_drawn():
    ax = explanation_page(explanation(), PEAKS_S, start_s=3.0)
    assert list(bars(ax, "beat")) == [str(i) for i in range(3, 11)]  # to 2.75 s, from 2.75 s
    assert not bars(explanation_page(explanation()), "beat")


def test_signal_and_color_are_those_of_the_page():
    result = explanation()
    ax = explanation_page(result, start_s=1.2, limit=0.5, title="T")
    strip = max(ax.lines, key=lambda line: len(line.get_xdata())).get_ydata()
    wanted = 10 * result.signal_mv[100:1100, 1]
    np.testing.assert_allclose(strip, wanted)
    (mesh,) = [m for m in ax.collections if getattr(m.get_array(), "size", 0) == 250]
    sums = result.relevance[100:1100, 1].reshape(250, 4).sum(1)
    np.testing.assert_allclose(mesh.get_array().ravel(), sums, atol=1e-12)
    assert (mesh.norm.vmin, mesh.norm.vmax) == (-0.5, 0.5)
    assert "T" in words(ax)
    strip = max(
        explanation_page(result, start_s=5).lines, key=lambda line: len(line.get_xdata())
    ).get_ydata()
    assert np.isnan(strip[670:]).all() and not np.isnan(strip[:670]).any(), "padding is no trace"


def test_a_millimeter_is_a_millimeter_beside_the_bars():
    ax = explanation_page(explanation(), PEAKS_S)
    ax.figure.canvas.draw()
    (x0, y0), (x1, y1) = ax.transData.transform([(0, 0), (100, 50)])
    assert (x1 - x0) / ax.figure.dpi * 25.4 == pytest.approx(100, rel=1e-3)
    assert (y1 - y0) / ax.figure.dpi * 25.4 == pytest.approx(50, rel=1e-3)


@pytest.mark.parametrize("target", ["PVC", "PVC - SR"])
def test_nothing_printed_is_cut_off_and_titles_do_not_touch(target):
    large = explanation(target=target, logit=-104.26, bias=-102.94)
    ax = explanation_page(large, PEAKS_S)
    draw = ax.figure.canvas.get_renderer()
    boxes = [text.get_window_extent(draw) for text in ax.texts if text.get_text()]
    page = ax.figure.bbox
    for box, text in zip(boxes, words(ax), strict=True):
        inside = page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 < box.y1 <= page.y1
        assert inside, text
    for i, a in enumerate(boxes):
        for j in range(i):
            assert not a.overlaps(boxes[j]), (words(ax)[i], words(ax)[j])


def test_text_says_what_the_model_used_and_not_why_someone_has_it():
    text = " ".join(words(explanation_page(explanation(), PEAKS_S)))
    assert "What the model used for PVC" in text and "for teaching, not for diagnosis" in text
    assert explanation().balance() in text
    assert "logit units, sum of all 11.5 s" in text
    for word in ("patient", "because", "why", "caus", "has PVC"):
        assert word not in text


def test_no_relevance_is_drawn_without_bars():
    empty = explanation(relevance=np.zeros((SAMPLES, 12)), bias=0.0, logit=0.0, error=0.0)
    ax = explanation_page(empty, PEAKS_S)
    assert not any(bar.get_width() for bar in bars(ax, "lead").values())
    assert not any(bar.get_height() for bar in bars(ax, "beat").values())


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"fs_hz": None}, {}, "fs_hz=None found; give explain"),
        ({}, {"start_s": 0.1}, r"start_s=0.1 found, 0.2 to 12.2 s \(the model's window\) wanted"),
        ({}, {"start_s": 12.2}, "start_s=12.2 found, 0.2 to 12.2 s"),
        ({}, {"r_peaks_s": [2.0, 1.0]}, "one or more rising times in s wanted"),
        ({"relevance": np.zeros((SAMPLES, 3))}, {}, r"relevance of shape \(1200, 3\) found"),
        ({}, {"limit": -1.0}, "limit=-1.0 found"),
    ],
)
def test_what_does_not_fit_is_refused(change, options, message):
    with pytest.raises(ValueError, match=message):
        explanation_page(explanation(**change), **options)
