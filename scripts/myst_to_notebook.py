"""Turn a MyST page of the book into cells that read well in Colab and plain Jupyter.

Colab knows neither MyST nor Sphinx: directives become plain Markdown, references become text with
links into the published book, labelled equations, figures and exercises carry the numbers that the
book gives them. Whatever this file does not know is an error, never left raw in a notebook.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import nbformat
from book_config import Book, read_cells
from myst_blocks import Directive, PageError, split_blocks
from pybtex.database import parse_file

ADMONITIONS = ("note", "tip", "hint", "important", "warning", "caution", "seealso", "danger")
_MATH = re.compile(r"\$\$(?P<tex>.+?)\$\$(?:[ \t]*\((?P<label>[\w:-]+)\))?", re.S)
_TARGET = re.compile(r"^\((?P<label>[\w:-]+)\)=\s*$")
_HEADING = re.compile(r"^(?P<level>#{1,6}) (?P<title>.+)$")
_ROLE = re.compile(r"\{(?P<name>[\w:]+)\}`(?P<text>[^`]+)`")
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")


@dataclass(frozen=True)
class Target:
    """Something to refer to: the title and number that the book shows, and its address."""

    title: str
    number: str
    url: str


@dataclass
class Numbering:
    """Counts the figures, equations and exercises of a page as Sphinx does."""

    chapter: int | None
    counts: dict[str, int] = field(default_factory=dict)

    def next(self, kind: str) -> str:
        """Return the next number of a kind, such as ``"2.1"`` in chapter 2."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        return f"{self.chapter}.{self.counts[kind]}" if self.chapter else str(self.counts[kind])


def _cite_names(book: Book) -> dict[str, tuple[str, str]]:
    """Return authors and year of each bibliography entry, as the book writes them."""
    entries = parse_file(str(book.root / "book" / "references.bib")).entries
    names = {}
    for key, entry in entries.items():
        last = [" ".join([*p.prelast_names, *p.last_names]) for p in entry.persons["author"]]
        last = [re.sub(r"[{}]", "", name) for name in last]
        who = " and ".join(last) if len(last) <= 2 else f"{last[0]} et al."
        names[key] = (who, entry.fields["year"])
    return names


def _code_figure(cell, page: str) -> dict | None:
    """Return name and caption of the figure that a code cell draws, if it draws one."""
    figure = cell.metadata.get("mystnb", {}).get("figure")
    if figure and (missing := {"name", "caption"} - set(figure)):
        raise PageError(f"{page}: the figure of a code cell has no {missing.pop()}")
    return figure


class Converter:
    """Knows all targets of the book and converts its pages one by one.

    Parameters
    ----------
    book : Book
        The book; all its pages are read for the targets of references.
    """

    def __init__(self, book: Book):
        self.book = book
        self.citations = _cite_names(book)
        self.targets: dict[str, Target] = {}
        self.titles: dict[str, str] = {}
        # As in the built book: pages outside of the numbered chapters share one count.
        appendix = Numbering(None)
        for page in book.pages:
            number = book.numbers.get(page)
            self._collect(page, Numbering(number) if number else appendix)

    # -- what can be referred to ---------------------------------------------------------------

    def _url(self, page: str, label: str = "") -> str:
        anchor = f"#{label.lower()}" if label else ""
        return f"{self.book.site}/{page}.html{anchor}"

    def _add(
        self, page: str, label: str, title: str, number: str = "", anchor: str | None = None
    ) -> None:
        if label in self.targets:
            raise PageError(f"{page}: label {label!r} is used twice in the book")
        self.targets[label] = Target(title, number, self._url(page, anchor or label))

    def _collect(self, page: str, count: Numbering) -> None:
        for cell in read_cells(self.book.source(page)).cells:
            if cell.cell_type == "code":
                if figure := _code_figure(cell, page):
                    self._add(page, figure["name"], figure["caption"], count.next("figure"))
                continue
            for block in split_blocks(cell.source):
                if isinstance(block, str):
                    self._collect_text(page, block, count)
                elif block.name == "figure":
                    if missing := {"name", "alt"} - set(block.options):
                        raise PageError(f"{page}: figure {block.argument} has no {missing.pop()}")
                    number = count.next("figure")
                    self._add(page, block.options["name"], " ".join(block.body), number)
                elif block.name == "exercise-start":
                    number = count.next("exercise")
                    self._add(page, block.options["label"], block.argument, number)

    def _collect_text(self, page: str, text: str, count: Numbering) -> None:
        waiting = []
        for line in text.split("\n"):
            if target := _TARGET.match(line):
                waiting.append(target["label"])
            elif heading := _HEADING.match(line):
                self.titles.setdefault(page, heading["title"])
                for label in waiting:
                    self._add(page, label, heading["title"])
                waiting = []
        for math in _MATH.finditer(text):
            if label := math["label"]:
                self._add(page, label, "", count.next("equation"), anchor=f"equation-{label}")

    def _find(self, label: str) -> Target:
        if label not in self.targets:
            raise PageError(f"reference to {label!r}: no such label in the book")
        return self.targets[label]

    # -- inline ----------------------------------------------------------------------------------

    def _cite(self, keys: str, textual: bool) -> str:
        parts = []
        for key in (k.strip() for k in keys.split(",")):
            if key not in self.citations:
                raise PageError(f"citation of {key!r}: no such entry in references.bib")
            who, year = self.citations[key]
            parts.append(f"{who} [{year}]" if textual else f"{who}, {year}")
        text = ", ".join(parts) if textual else f"[{'; '.join(parts)}]"
        url = self._url("book/references")
        return f"[{text.replace('[', chr(92) + '[').replace(']', chr(92) + ']')}]({url})"

    def _role(self, match: re.Match) -> str:
        name, text = match["name"], match["text"]
        explicit = re.match(r"^(?P<shown>.*?)\s*<(?P<target>[^>]+)>$", text, re.S)
        shown, label = (explicit["shown"], explicit["target"]) if explicit else ("", text)
        if name in ("cite:p", "cite:t", "cite"):
            return self._cite(text, textual=name == "cite:t")
        if name == "eq":
            target = self._find(label)
            return f"[Eq. {target.number}]({target.url})"
        if name in ("ref", "numref"):
            target = self._find(label)
            kind = {"fig": "Fig. ", "ex": "Exercise "}.get(label.split("-")[0], "")
            default = f"{kind}{target.number}" if target.number else target.title
            return f"[{shown or default}]({target.url})"
        if name == "doc":
            page = f"book/{PurePosixPath(label).name}"
            if page not in self.book.pages:
                raise PageError(f"reference to page {label!r}: not in _toc.yml")
            return f"[{shown or self.titles[page]}]({self._url(page)})"
        if name == "term":
            anchor = "term-" + re.sub(r"[^A-Za-z0-9._-]+", "-", label)  # as Sphinx names it
            return f"[{shown or text}]({self._url('book/glossary')}#{anchor})"
        raise PageError(
            f"role {{{name}}} found; the notebooks know cite, eq, ref, numref, doc, term"
        )

    def _link(self, match: re.Match) -> str:
        text, target = match["text"], match["target"]
        if match["image"]:
            if not target.startswith("http"):
                target = f"{self.book.site}/_images/{PurePosixPath(target).name}"
        elif target.startswith("#"):
            found = self._find(target[1:])
            text, target = text or found.title, found.url
        elif ".md" in target:
            path, _, anchor = target.partition("#")
            page = f"book/{PurePosixPath(path).stem}"
            if page not in self.book.pages:
                raise PageError(f"link to {target!r}: not a page of the book")
            text = text or self.titles[page]
            target = self._url(page) + (f"#{anchor}" if anchor else "")
        return f"{match['image']}[{text}]({target})"

    def _math(self, match: re.Match) -> str:
        tex = " ".join(match["tex"].split())
        tag = f" \\tag{{{self._find(match['label']).number}}}" if match["label"] else ""
        return f"$${tex}{tag}$$"

    def _text(self, text: str, page: str) -> str:
        lines = []
        for line in text.split("\n"):
            if _TARGET.match(line) or line.startswith("% "):
                continue
            number = self.book.numbers.get(page)
            if number and line.startswith("# "):
                line = f"# {number}. {line[2:]}"
            lines.append(line)
        text = _MATH.sub(self._math, "\n".join(lines))
        for macro, meaning in self.book.macros.items():
            text = re.sub(rf"\\{macro}(?![A-Za-z])", lambda _, tex=meaning: tex, text)
        # Code spans keep their text: split them off before links and roles are replaced.
        parts = re.split(r"(\{[\w:]+\}`[^`]+`|`+[^`]+`+)", text)
        shown = []
        for part in parts:
            if role := _ROLE.fullmatch(part):
                shown.append(self._role(role))
            else:
                shown.append(part if part.startswith("`") else _LINK.sub(self._link, part))
        return "".join(shown)

    # -- blocks ------------------------------------------------------------------------------------

    def _block(self, block: Directive, page: str) -> str:
        body = "\n".join(block.body)
        if block.name == "literal":
            return body
        if block.name == "code-block":
            return f"```{block.argument}\n{body}\n```"
        if block.name == "figure":
            inner = self.markdown(body, page)
            name = PurePosixPath(block.argument).name
            image = f"![{block.options['alt']}]({self.book.site}/_images/{name})"
            return f"{image}\n\n{self._caption(block.options['name'], inner)}"
        if block.name in (*ADMONITIONS, "admonition", "margin", "dropdown"):
            title = block.argument or ("" if block.name == "margin" else block.name.capitalize())
            inner = self.markdown(body, page)
            if block.name == "dropdown" or "dropdown" in block.options.get("class", ""):
                return fold(self.markdown(title, page), inner)
            head = f"**{self.markdown(title, page)}**\n\n" if title else ""
            return "\n".join(f"> {line}".rstrip() for line in (head + inner).split("\n"))
        if block.name == "exercise-start":
            number = self._find(block.options["label"]).number
            return f"#### Exercise {number}: {self.markdown(block.argument, page)}\n"
        if block.name in ("exercise-end", "solution-start", "solution-end"):
            return ""
        raise PageError(f"directive {{{block.name}}} found; the notebooks do not know it")

    def _caption(self, label: str, text: str) -> str:
        return f"**Fig. {self._find(label).number}.** {' '.join(text.split())}"

    def markdown(self, text: str, page: str) -> str:
        """Convert the MyST Markdown of a page to plain Markdown.

        Parameters
        ----------
        text : str
            MyST Markdown, without code cells.
        page : str
            The page it stands on.
        """
        return self._join(split_blocks(text), page)

    def _join(self, blocks: list[str | Directive], page: str) -> str:
        parts = [
            self._text(b, page) if isinstance(b, str) else self._block(b, page) for b in blocks
        ]
        return self.book.fill(re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).strip())

    def cells(self, page: str) -> list[nbformat.NotebookNode]:
        """Convert a page to notebook cells without ids, outputs and set-up.

        Parameters
        ----------
        page : str
            The page's name.

        Raises
        ------
        PageError
            If the page uses a role, directive or label that the notebooks cannot show.
        """
        cells, solution = [], None
        for cell in read_cells(self.book.source(page)).cells:
            if cell.cell_type == "code":
                cells += self._code(cell, page, folded=solution is not None)
                continue
            # Text inside a solution is folded, text around it is not.
            plain: list[str] = []
            for block in split_blocks(cell.source):
                gate = block.name if isinstance(block, Directive) else ""
                if gate in ("solution-start", "solution-end"):
                    cells += self._prose(plain, page, solution)
                    plain = []
                    starts = gate == "solution-start"
                    solution = self._find(block.argument).number if starts else None
                else:
                    plain.append(block)
            cells += self._prose(plain, page, solution)
        return cells

    def _prose(self, blocks: list, page: str, solution: str | None) -> list:
        text = self._join(blocks, page)
        if not text:
            return []
        if solution:
            text = fold(f"Solution to Exercise {solution}", text)
        return [nbformat.v4.new_markdown_cell(text)]

    def _code(self, cell, page: str, folded: bool) -> list:
        tags = cell.metadata.get("tags", [])
        metadata = {"tags": tags} if tags else {}
        if folded or {"hide-input", "remove-cell", "remove-input"} & set(tags):
            metadata |= {"cellView": "form", "jupyter": {"source_hidden": True}}
        cells = [nbformat.v4.new_code_cell(self.book.fill(cell.source), metadata=metadata)]
        if figure := _code_figure(cell, page):
            text = self._caption(figure["name"], self.markdown(figure["caption"], page))
            cells.append(nbformat.v4.new_markdown_cell(text))
        return cells


def fold(title: str, text: str) -> str:
    """Return Markdown that shows `title` and hides `text` until the reader opens it."""
    return f"<details>\n<summary><b>{title}</b></summary>\n\n{text}\n\n</details>"
