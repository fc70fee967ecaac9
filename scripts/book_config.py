"""What the scripts and tests know about the book, read from `_config.yml` and `_toc.yml`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jupytext
import yaml

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Book:
    """The book's addresses and pages.

    `pages` holds the page names in reading order, such as ``"book/ch01_ecg_is_a_tensor"``,
    `missing` the names in `_toc.yml` that have no file,
    `numbers` the chapter number of each numbered page, `macros` the TeX macros.
    """

    root: Path
    repository: str
    branch: str
    site: str
    pages: tuple[str, ...]
    missing: tuple[str, ...]
    numbers: dict[str, int]
    macros: dict[str, str]

    def source(self, page: str) -> Path:
        """Return the Markdown file of a page."""
        return self.root / f"{page}.md"

    def notebook_pages(self) -> list[str]:
        """Return the pages that hold code cells, in reading order."""
        return [p for p in self.pages if "```{code-cell}" in self.source(p).read_text("utf8")]

    def chapters(self) -> list[str]:
        """Return the numbered pages, in reading order."""
        return list(self.numbers)

    def fill(self, text: str) -> str:
        """Put the addresses of the repository and the site in place of their marks."""
        return text.replace("%REPOSITORY%", self.repository).replace("%SITE%", self.site)


def read_book(root: Path = ROOT) -> Book:
    """Read the addresses and the table of contents of the book in folder `root`."""
    config = yaml.safe_load((root / "_config.yml").read_text("utf8"))
    toc = yaml.safe_load((root / "_toc.yml").read_text("utf8"))
    pages, numbers = [toc["root"]], {}
    for part in toc["parts"]:
        for chapter in part["chapters"]:
            pages.append(chapter["file"])
            if part.get("numbered"):
                numbers[chapter["file"]] = len(numbers) + 1
    return Book(
        root=root,
        repository=config["repository"]["url"].rstrip("/"),
        branch=config["repository"]["branch"],
        site=config["html"]["baseurl"].rstrip("/"),
        pages=tuple(p for p in pages if (root / f"{p}.md").is_file()),
        missing=tuple(p for p in pages if not (root / f"{p}.md").is_file()),
        numbers=numbers,
        macros=config["sphinx"]["config"]["mathjax3_config"]["tex"]["macros"],
    )


def read_cells(source: Path):
    """Read a MyST Markdown page as a notebook (a `nbformat` node) without outputs."""
    return jupytext.read(source, fmt="md:myst")
