"""Draw the model: book/figures/model.svg, the whole, and model_row0.svg to model_row5.svg.

All are one drawing. A row of the ladder colors what is new in it, draws what the row before had as
the whole does, and leaves what is not there faint and dashed.

usage: draw_model.py [FOLDER]
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

FIGURES = Path(__file__).resolve().parents[1] / "book" / "figures"
FONTS = "system-ui, -apple-system, Segoe UI, Roboto, Noto Sans, Helvetica, Arial, sans-serif"
WIDTH, CENTER = 480, 240
COLUMNS = (52, 146, 240, 334, 428)
COLUMN_WIDTH = 88
INK = "#1f2328"
GROUPS = {"limb": "I II III", "augm.": "aVR–aVF", "anterior": "V1–V3", "lateral": "V4–V6"}
RHYTHMS = ("SR", "AF", "AFL", "PAC", "PVC")


@dataclass(frozen=True)
class Style:
    """How a box and the arrow into it look."""

    fill: str
    stroke: str
    ink: str
    wire: str
    dash: str = ""


THERE = Style("#fff", "#b9aaa6", INK, "#a08f8b")
INPUT = Style("#faf4f2", "#b9aaa6", INK, "#a08f8b")
MAMBA = Style("#fbe9ea", "#d9a3ab", INK, "#a08f8b")
ATTENTION = Style("#eaf1f7", "#a9bfd2", INK, "#a08f8b")
OUTPUT = Style("#9c1c33", "#9c1c33", "#fff", "#a08f8b")
NEW = Style("#9c1c33", "#9c1c33", "#fff", "#9c1c33")
ABSENT = Style("#fff", "#cfd2d6", "#8b9097", "#cfd2d6", ' stroke-dasharray="4 3"')


@dataclass(frozen=True)
class Row:
    """What a row of the ladder consists of: text by place in the drawing, and number of blocks."""

    title: str
    blocks: int
    parts: dict[str, str]


BASE = {
    "stem": "conv stem",
    "mean": "mean over tokens that saw signal",
    "outputs": " ".join(RHYTHMS),
}
MAMBA2 = BASE | {"forward": "Mamba-2 →", "feed-forward": "feed-forward"}
BOTH = MAMBA2 | {"backward": "← Mamba-2"}
BRANCHED = BOTH | {"branches": "Mamba-2", "fusion": "concatenate, mix channels"}
FULL = BRANCHED | {"attention": "self-attention, 4 heads"}

ROWS = (
    Row("CNN baseline", 4, BASE | {"convolutions": "residual convolutions"}),
    Row("Vision Mamba", 1, BASE | {"forward": "Mamba-1 →", "backward": "← Mamba-1"}),
    Row("Mamba-2, one direction", 1, MAMBA2),
    Row("both directions", 1, BOTH),
    Row("lead branches", 1, BRANCHED),
    Row("self-attention", 1, FULL),
)
WHOLE = Row(
    "The model that the book builds", 4, FULL | {"fusion": "concatenate, mix to 384 channels"}
)


def box(x: int, y: int, width: int, height: int, style: Style, *lines: str) -> list[str]:
    """Draw a box around `x` from `y` down, with a bold line of text and plain ones under it."""
    bold = 13.5 if width == COLUMN_WIDTH else 14.5
    drawn = [
        f'<rect x="{x - width // 2}" y="{y}" width="{width}" height="{height}" rx="7" '
        f'fill="{style.fill}" stroke="{style.stroke}" stroke-width="1.3"{style.dash}/>'
    ]
    for place, line in enumerate(lines):
        middle = y + height / 2 + 18 * (place - (len(lines) - 1) / 2)
        size, weight = (bold, 600) if place == 0 else (13, 400)
        drawn.append(text(x, middle + 5, line, size, weight, style.ink))
    return drawn


def text(x: int, y: float, line: str, size: float, weight: int, ink: str, at="middle") -> str:
    """Write a line of text with its base line at `y`."""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" font-weight="{weight}" fill="{ink}" '
        f'text-anchor="{at}">{line}</text>'
    )


def arrow(style: Style, *way: tuple[int, int]) -> list[str]:
    """Draw an arrow along points; its head points down."""
    x, y = way[-1]
    return wire(style, *way[:-1], (x, y - 4)) + [
        f'<path d="M{x - 4.5:g} {y - 7}L{x} {y}L{x + 4.5:g} {y - 7}z" fill="{style.wire}"/>'
    ]


def wire(style: Style, *way: tuple[int, int]) -> list[str]:
    """Draw a line through points."""
    points = "L".join(f"{x} {y}" for x, y in way)
    return [
        f'<path d="M{points}" fill="none" stroke="{style.wire}" stroke-width="1.6" '
        f'stroke-linejoin="round"{style.dash}/>'
    ]


class Drawing:
    """The drawing of row `number` of the ladder, or of the whole if there is no number."""

    def __init__(self, number: int | None = None):
        self.number, self.ladder = number, number is not None
        self.row = ROWS[number] if self.ladder else WHOLE
        self.old = ROWS[number - 1].parts if number else {}
        self.layers: dict[str, list[str]] = {"input": [], "absent": [], "there": [], "new": []}

    def state(self, place: str) -> str:
        """Say whether what stands in a place of the drawing is new, there before, or absent."""
        if place not in self.row.parts:
            return "absent"
        changed = self.old.get(place) != self.row.parts[place]
        return "new" if self.ladder and changed else "there"

    def style(self, place: str, normal: Style) -> Style:
        """Choose the style of a place; `normal` if what stands there was there before."""
        return {"new": NEW, "there": normal, "absent": ABSENT}[self.state(place)]

    def label(self, place: str) -> str:
        """Return the text of a place, that of the last row where this one has nothing there."""
        return self.row.parts.get(place) or FULL[place]

    def add(self, place: str, drawn: list[str]) -> None:
        """Put a part into the layer of its state, so that what is new lies on top."""
        state = self.state(place)
        self.layers[state] += [f'<g id="{place}" class="{state}">', *drawn, "</g>"]

    def add_input(self) -> None:
        """Draw what is not part of the model: the ECG, all of its leads, the frame of blocks."""
        samples = "samples × 12 leads" if self.ladder else "8192 samples × 12 leads"
        frame = Style("#fdf7f6", "#d9c4c2", INK, "")
        count, noun = self.row.blocks, "block" if self.row.blocks == 1 else "blocks"
        drawn = [
            *box(CENTER, 10, 360, 48, INPUT, "12-lead ECG", f"{samples}, in millivolts"),
            *arrow(INPUT, (CENTER, 58), (CENTER, 73), (COLUMNS[0], 73), (COLUMNS[0], 88)),
            *box(COLUMNS[0], 88, COLUMN_WIDTH, 44, INPUT, "all 12"),
            *box(CENTER, 324, 300, 96, frame),
            text(COLUMNS[0], 372, str(count), 22, 600, INK),
            text(COLUMNS[0], 390, noun, 13.5, 400, INK),
        ]
        self.layers["input"] += ['<g id="input">', *drawn, "</g>"]

    def add_front(self) -> None:
        """Draw the stem of all leads, the lead branches and what joins them."""
        x, style = COLUMNS[0], self.style("stem", THERE)
        drawn = arrow(style, (x, 132), (x, 150))
        drawn += box(x, 150, COLUMN_WIDTH, 30, style, self.label("stem"))
        if self.state("fusion") == "absent":
            drawn += arrow(style, (x, 180), (x, 311), (CENTER, 311), (CENTER, 324))
        self.add("stem", drawn)

        first = (
            COLUMNS[1] if self.state("branches") == "new" else CENTER
        )  # the input's line does it
        drawn = wire(self.style("branches", THERE), (first, 73), (COLUMNS[-1], 73))
        for x, (group, leads) in zip(COLUMNS[1:], GROUPS.items(), strict=True):
            style = self.style("branches", THERE)
            drawn += arrow(style, (x, 73), (x, 88))
            drawn += box(x, 88, COLUMN_WIDTH, 44, self.style("branches", INPUT), group, leads)
            drawn += arrow(style, (x, 132), (x, 150))
            drawn += box(x, 150, COLUMN_WIDTH, 30, style, self.label("stem"))
            drawn += arrow(style, (x, 180), (x, 198))
            mamba = self.style("branches", MAMBA)
            drawn += box(x, 198, COLUMN_WIDTH, 44, mamba, self.label("branches"), "both ways")
        self.add("branches", drawn)

        style = self.style("fusion", THERE)
        ends = [(x, 180 if x == COLUMNS[0] else 242) for x in COLUMNS]
        if style is ABSENT:  # the stem's arrow goes to the blocks
            del ends[0]
        drawn = wire(style, (ends[0][0], 257), (COLUMNS[-1], 257))
        for x, y in ends:
            drawn += wire(style, (x, 257), (x, y))
        drawn += arrow(style, (CENTER, 257), (CENTER, 270))
        drawn += box(CENTER, 270, 300, 30, style, self.label("fusion"))
        drawn += arrow(style, (CENTER, 300), (CENTER, 324))
        self.add("fusion", drawn)

    def add_blocks(self) -> None:
        """Draw what a block over time consists of."""
        if "convolutions" in self.row.parts:
            style = self.style("convolutions", MAMBA)
            self.add("convolutions", box(CENTER, 334, 280, 30, style, self.label("convolutions")))
        else:
            for place, x in (("forward", CENTER - 72), ("backward", CENTER + 72)):
                style = self.style(place, MAMBA)
                drawn = box(x, 334, 136, 30, style, self.label(place))
                if "feed-forward" in self.row.parts:
                    drawn += arrow(style, (x, 364), (x, 380))
                self.add(place, drawn)
        style = self.style("feed-forward", THERE)
        self.add("feed-forward", box(CENTER, 380, 280, 30, style, self.label("feed-forward")))

    def add_back(self) -> None:
        """Draw the attention, the mean and the outputs."""
        style = self.style("attention", ATTENTION)
        drawn = arrow(style, (CENTER, 420), (CENTER, 442))
        drawn += box(CENTER, 442, 300, 48, style, self.label("attention"), "then feed-forward")
        self.add("attention", drawn)

        style = self.style("mean", THERE)
        drawn = arrow(style, (CENTER, 490), (CENTER, 512))
        if self.state("attention") == "absent":  # the way around it
            way = (CENTER, 420), (CENTER, 431), (COLUMNS[0], 431), (COLUMNS[0], 501), (CENTER, 501)
            drawn = arrow(style, *way, (CENTER, 512))
        self.add("mean", drawn + box(CENTER, 512, 300, 30, style, self.label("mean")))

        style = self.style("outputs", INPUT if self.ladder else OUTPUT)
        drawn = wire(style, (CENTER, 542), (CENTER, 557))
        drawn += wire(style, (COLUMNS[0], 557), (COLUMNS[-1], 557))
        for x, rhythm in zip(COLUMNS, self.label("outputs").split(), strict=True):
            drawn += arrow(style, (x, 557), (x, 572))
            drawn += box(x, 572, COLUMN_WIDTH, 34, style, rhythm)
        self.add("outputs", drawn)

    def svg(self) -> str:
        """Return the file's text."""
        self.add_input()
        self.add_front()
        self.add_blocks()
        self.add_back()
        title, height = self.row.title, 616
        if self.ladder:
            title, height = f"Row {self.number} of the ladder: {self.row.title}", 648
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
                f'width="{WIDTH}" height="{height}" font-family="{FONTS}" role="img">',
                f"<title>{title}</title>",
                f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
                *(line for layer in self.layers.values() for line in layer),
                *(legend() if self.ladder else []),
                "</svg>\n",
            ]
        )


def legend() -> list[str]:
    """Draw what the colors of a row mean."""
    drawn = ['<g id="legend">']
    for x, style, line in (
        (40, NEW, "new in this row"),
        (196, THERE, "there before"),
        (334, ABSENT, "not there"),
    ):
        drawn += box(x, 622, 28, 15, style)
        drawn.append(text(x + 22, 634, line, 13.5, 400, INK, "start"))
    return [*drawn, "</g>"]


def drawings() -> dict[str, str]:
    """Return the text of every file by its name."""
    rows = {f"model_row{number}.svg": Drawing(number).svg() for number in range(len(ROWS))}
    return {"model.svg": Drawing().svg()} | rows


def main() -> None:
    """Write the files."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FIGURES
    for name, svg in drawings().items():
        (folder / name).write_text(svg, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
