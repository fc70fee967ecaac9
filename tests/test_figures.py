"""The drawings of the model are what the script draws, and show what the ladder's rows hold."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
from draw_model import GROUPS, NEW, RHYTHMS, drawings

from ecgbook import labels, leads, models
from ecgbook.ladder import RUNGS
from ecgbook.models import Bidirectional, FeedForward, Mamba2, VisionMamba

FIGURES = Path(__file__).resolve().parents[1] / "book" / "figures"
SVG = "{http://www.w3.org/2000/svg}"
ROWS = [f"model_row{number}.svg" for number in range(6)]  # further rows change the training only
NEW_PARTS = (
    {"stem", "convolutions", "mean", "outputs"},
    {"forward", "backward"},
    {"forward", "feed-forward"},
    {"backward"},
    {"branches", "fusion"},
    {"attention"},
)


def read(name):
    return ElementTree.parse(FIGURES / name).getroot()


def parts(svg, *classes):
    return {g.get("id"): g for g in svg.iter(f"{SVG}g") if g.get("class") in classes}


def words(element):
    return [text.text for text in element.iter(f"{SVG}text")]


def has_color(element, color):
    return any(color in (e.get("fill"), e.get("stroke")) for e in element.iter())


def test_committed_drawings_are_what_the_script_draws():
    committed = {path.name: path.read_text("utf8") for path in FIGURES.glob("model*.svg")}
    drawn = drawings()
    assert set(committed) == set(drawn) == {"model.svg", *ROWS}
    stale = [name for name in drawn if committed[name] != drawn[name]]
    assert not stale, f"{stale} differ: run python scripts/draw_model.py"


@pytest.mark.parametrize("name", ["model.svg", *ROWS])
def test_drawing_has_a_title_a_role_and_white_paper_under_all_of_it(name):
    svg = read(name)
    title, paper = list(svg)[:2]
    assert title.tag == f"{SVG}title"
    assert len(title.text) > 12
    assert svg.get("role") == "img"
    size = svg.get("width"), svg.get("height")
    assert (paper.tag, paper.get("fill")) == (f"{SVG}rect", "#fff")
    assert (paper.get("width"), paper.get("height")) == size
    assert svg.get("viewBox").split() == ["0", "0", *size]


@pytest.mark.parametrize(("number", "name"), enumerate(ROWS))
def test_exactly_what_is_new_in_a_row_is_colored(number, name):
    svg = read(name)
    colored = {g.get("id") for g in svg.iter(f"{SVG}g") if has_color(g, NEW.fill)}
    assert colored - {"legend"} == NEW_PARTS[number]
    assert set(parts(svg, "new")) == NEW_PARTS[number]
    assert all(
        (box.get("fill") == NEW.fill)
        for part in parts(svg, "new").values()
        for box in part.iter(f"{SVG}rect")
    )


@pytest.mark.parametrize("name", ROWS)
def test_exactly_what_is_not_there_is_dashed(name):
    svg = read(name)
    for part in parts(svg, "new", "there", "absent").values():
        lines = [e for e in part.iter() if e.get("stroke")]
        dashed = [e.get("stroke-dasharray") is not None for e in lines]
        assert set(dashed) == {part.get("class") == "absent"}, part.get("id")


@pytest.mark.parametrize(("number", "rung"), enumerate(RUNGS[:6]))
def test_row_shows_the_parts_and_the_number_of_blocks_of_the_ladders_model(number, rung):
    svg, model = read(ROWS[number]), rung.build()
    shown = parts(svg, "new", "there")
    kinds = {type(m) for m in model.blocks.modules()} | {
        type(m) for m in getattr(model, "feed_forwards", [])
    }
    wanted = {
        "stem": True,
        "mean": True,
        "outputs": True,
        "convolutions": models.ConvBlock in kinds,
        "forward": Mamba2 in kinds or VisionMamba in kinds,
        "backward": Bidirectional in kinds or VisionMamba in kinds,
        "feed-forward": FeedForward in kinds,
        "branches": getattr(model, "branches", None) is not None,
        "fusion": getattr(model, "fusion", None) is not None,
        "attention": getattr(model, "attention", None) is not None,
    }
    assert set(shown) == {part for part, there in wanted.items() if there}
    mamba = " ".join(words(shown["forward"])) if wanted["forward"] else ""
    assert ("Mamba-2" in mamba, "Mamba-1" in mamba) == (Mamba2 in kinds, VisionMamba in kinds)
    (blocks,) = (word for word in words(parts(svg, None)["input"]) if word.isdecimal())
    assert int(blocks) == len(model.blocks)
    assert svg.find(f"{SVG}title").text == f"Row {number} of the ladder: {rung.name}"


def test_whole_has_every_part_of_the_full_size_and_nothing_highlighted():
    svg = read("model.svg")
    assert not parts(svg, "new", "absent")
    assert set(parts(svg, "there")) == set.union(*NEW_PARTS) - {"convolutions"}
    full = models.EnhancedECGMamba2(**models.MAMBA2_PRESETS["full"]).config
    samples = models.PREPROCESSING["full"].n_samples
    text = words(svg)
    assert f"{samples} samples × 12 leads, in millivolts" in text
    assert f"concatenate, mix to {full['embed_dim']} channels" in text
    assert f"self-attention, {full['n_heads']} heads" in text
    assert str(full["n_layers"]) in text


def test_groups_and_rhythms_are_those_of_the_package():
    assert RHYTHMS == labels.RHYTHMS
    for (short, shown), (name, group) in zip(
        GROUPS.items(), leads.LEAD_GROUPS.items(), strict=True
    ):
        assert name.startswith(short.rstrip("."))
        assert shown in (" ".join(group), f"{group[0]}–{group[-1]}")
    for name in ("model.svg", ROWS[4]):
        shown = words(parts(read(name), "new", "there")["branches"])
        assert [word for word in shown if word in GROUPS] == list(GROUPS)
