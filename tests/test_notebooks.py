"""The notebooks beside the chapters: in step with their source, plain, and they run anywhere."""

import os
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from book_config import read_book, read_cells
from build_book import fingerprints
from jupyter_cache import get_cache
from make_notebooks import write_copies, write_notebooks
from myst_nb.core.read import read_myst_markdown_notebook
from myst_to_notebook import Converter, PageError
from pages import HEADER
from run_pages import executed_file, run_page, run_pages, stored_fingerprint

ROOT = Path(__file__).resolve().parents[1]
BOOK = read_book(ROOT)
PAGES = BOOK.notebook_pages()
MAX_COLUMNS, MAX_LINES = 72, 12
TAGS = {"hide-input", "remove-cell", "skip-execution"}


def notebook(page):
    return nbformat.read(ROOT / f"{page}.ipynb", 4)


def test_every_page_of_the_table_of_contents_exists():
    assert BOOK.missing == ()


def test_notebooks_are_in_step_with_their_sources(tmp_path):
    fresh = {path.name: path.read_bytes() for path in write_notebooks(BOOK, tmp_path)}
    there = {path.name: path.read_bytes() for path in (ROOT / "book").glob("*.ipynb")}
    assert set(fresh) == set(there), "run `make notebooks`"
    assert [name for name in fresh if fresh[name] != there[name]] == [], "run `make notebooks`"


@pytest.mark.parametrize("page", PAGES)
def test_a_notebook_is_free_of_outputs_and_installs_first(page):
    cells = [c for c in notebook(page).cells if c.cell_type == "code"]
    assert all(c.outputs == [] and c.execution_count is None for c in cells)
    assert 'find_spec("ecgbook") is None' in cells[0].source
    assert f"git+{BOOK.repository}" in cells[0].source
    assert not any("pip install" in c.source for c in cells[1:])


@pytest.mark.parametrize("page", PAGES)
def test_a_notebook_holds_no_myst(page):
    text = "\n".join(c.source for c in notebook(page).cells if c.cell_type == "markdown")
    text = re.sub(r"```.*?```|`[^`\n]+`", "", text, flags=re.S)
    assert re.findall(r"\{[\w:]+\}`|^:::.*|^```\{.*|^\([\w-]+\)=|%[A-Z]+%", text, flags=re.M) == []
    local = re.findall(r"\]\((?!https://)[^)]*\)", text)
    assert local == [], "Colab has only the notebook: links and images need whole addresses"


@pytest.fixture(scope="module")
def current():
    return fingerprints(BOOK, os.environ.get("ECGBOOK_DATA"))


@pytest.mark.parametrize("page", PAGES)
def test_a_notebook_ran_from_an_empty_folder_and_asked_for_answers(page, current):
    if stored_fingerprint(ROOT / "_build", page) != current[page]:
        pytest.skip("this page was not run since it, or what it needs, changed: run `make book`")
    cells = nbformat.read(executed_file(ROOT / "_build", page), 4).cells
    check_run(cells, at_least=3 if page in BOOK.chapters() else 0)


def check_run(cells, at_least):
    """All code has run in order, and what waits for an answer has said that there is none."""
    code = [c for c in cells if c.cell_type == "code" and c.source.strip()]
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
    waiting = [c for c in code if "raises-exception" in c.metadata.get("tags", [])]
    for cell in code:
        errors = [o.ename for o in cell.outputs if o.output_type == "error"]
        if cell not in waiting:
            assert not errors, f"{errors}:\n{cell.source}"
            continue
        assert errors, f"the check of an unanswered exercise must raise:\n{cell.source}"
        assert not {"NameError", "SyntaxError"} & set(errors), f"{errors}:\n{cell.source}"
    assert len(waiting) >= at_least, "three exercises, each with a cell that waits for an answer"


PAGE = """# Two

```{code-cell} ipython3
from pathlib import Path
print(sorted(Path().iterdir()))
```

```{code-cell} ipython3
:tags: [skip-execution]
assert False, "no answer yet"
```

```{code-cell} ipython3
1 + 1
```
"""


def small_book(root, text):
    (root / "book").mkdir()
    shutil.copy(ROOT / "book/references.bib", root / "book")
    shutil.copy(ROOT / "_config.yml", root)
    (root / "_toc.yml").write_text(
        "root: book/intro\nparts:\n- numbered: true\n  chapters:\n  - file: book/two\n"
    )
    (root / "book/intro.md").write_text("# Intro\n")
    (root / "book/two.md").write_text(HEADER + text)
    book = read_book(root)
    write_notebooks(book, root / "book")
    return book


def test_a_page_runs_once_and_its_outputs_serve_page_and_notebook(tmp_path):
    book, build = small_book(tmp_path, PAGE), tmp_path / "_build"
    assert run_page(book, build, "book/two", "a fingerprint") > 0
    assert stored_fingerprint(build, "book/two") == "a fingerprint"
    cells = nbformat.read(executed_file(build, "book/two"), 4).cells
    check_run(cells, at_least=1)
    source = book.source("book/two")
    cache = get_cache(build / ".jupyter_cache")
    shown = read_myst_markdown_notebook(source.read_text(), path=source)
    _, merged = cache.merge_match_into_notebook(shown)  # as the site does
    first, waiting, last = (c.outputs for c in merged.cells if c.cell_type == "code")
    assert first[0].text == "[]\n" and last[0].data["text/plain"] == "2"
    assert waiting == [], "the page shows the question, not the error"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("1 + 1", "1 / 0", "ZeroDivisionError"),
        ("1 + 1", "2 + 2", "other code in the notebook found"),  # a page edited since
    ],
)
def test_a_page_that_fails_stops_the_build_and_leaves_no_output(tmp_path, before, after, message):
    book, build = small_book(tmp_path, PAGE), tmp_path / "_build"
    source = book.source("book/two")
    source.write_text(source.read_text().replace(before, after))
    if message == "ZeroDivisionError":
        write_notebooks(book, tmp_path / "book")
    with pytest.raises(SystemExit, match=message):
        run_pages(book, build, {"book/two": "a fingerprint"})
    assert stored_fingerprint(build, "book/two") is None


def test_an_answered_exercise_or_a_name_that_is_missing_is_found(tmp_path):
    for text, message in (("assert True", "must raise"), ("answer()", "NameError")):
        root = tmp_path / message.split()[0]
        root.mkdir()
        book = small_book(root, PAGE.replace('assert False, "no answer yet"', text))
        run_page(book, root / "_build", "book/two", "x")
        cells = nbformat.read(executed_file(root / "_build", "book/two"), 4).cells
        with pytest.raises(AssertionError, match=message):
            check_run(cells, at_least=1)


@pytest.mark.parametrize("page", PAGES)
def test_code_cells_fit_a_page(page):
    for cell in read_cells(BOOK.source(page)).cells:
        if cell.cell_type == "code":
            lines = cell.source.splitlines()
            assert len(lines) <= MAX_LINES, cell.source
            assert max(map(len, lines), default=0) <= MAX_COLUMNS, cell.source
            assert set(cell.metadata.get("tags", [])) <= TAGS, cell.metadata


@pytest.mark.parametrize("page", BOOK.chapters())
def test_a_chapter_says_what_it_is_not_for(page):
    text = " ".join(BOOK.source(page).read_text("utf8").lower().split())
    assert "for teaching, not for diagnosis" in text


@pytest.fixture
def convert(tmp_path):
    """Convert a page of chapter 2 with the given text, in a book of its own."""
    root = tmp_path
    (root / "book").mkdir()
    shutil.copy(ROOT / "book/references.bib", root / "book")
    shutil.copy(ROOT / "_config.yml", root)
    shutil.copy(ROOT / "book/references.bib", root / "book")
    (root / "_toc.yml").write_text(
        "format: jb-book\nroot: book/intro\nparts:\n- numbered: true\n  chapters:\n"
        "  - file: book/one\n  - file: book/two\n"
    )
    (root / "book/intro.md").write_text("(sec-intro)=\n# Welcome\n")
    (root / "book/one.md").write_text(
        HEADER + "(ch-one)=\n# One\n\n$$\na\n$$ (eq-a)\n\n```{code-cell} ipython3\n1\n```\n"
    )

    def run(text):
        (root / "book/two.md").write_text(HEADER + "# Two\n\n" + text + "\n")
        return Converter(read_book(root)).cells("book/two")

    return run


SITE = BOOK.site


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("{ref}`ch-one`", f"[One]({SITE}/book/one.html#ch-one)"),
        ("{ref}`first <ch-one>`", f"[first]({SITE}/book/one.html#ch-one)"),
        ("{doc}`one`", f"[One]({SITE}/book/one.html)"),
        ("{eq}`eq-a`", f"[Eq. 1.1]({SITE}/book/one.html#equation-eq-a)"),
        ("{term}`QRS complex`", f"[QRS complex]({SITE}/book/glossary.html#term-QRS-complex)"),
        ("{cite:p}`gu2023mamba`", rf"[\[Gu and Dao, 2023\]]({SITE}/book/references.html)"),
        ("{cite:t}`wagner2020ptbxl`", rf"[Wagner et al. \[2020\]]({SITE}/book/references.html)"),
        ("[next](one.md)", f"[next]({SITE}/book/one.html)"),
        ("[](#ch-one)", f"[One]({SITE}/book/one.html#ch-one)"),
        ("![A beat](figures/b.svg)", f"![A beat]({SITE}/_images/b.svg)"),
        ("%REPOSITORY%", BOOK.repository),
        ("`{ref}` and `[a](b.md)`", "`{ref}` and `[a](b.md)`"),
        ("```python\n[a](b.md)\n```", "```python\n[a](b.md)\n```"),
        ("(sec-x)=\n## X", "## X"),
        ("$$\nx\n= y\n$$ (eq-b)", r"$$x = y \tag{2.1}$$"),
        ("$x \\in \\R^2$, \\Re", "$x \\in \\mathbb{R}^2$, \\Re"),
        (":::{note}\nA\n\n$$\nb\n$$\n:::", "> **Note**\n>\n> A\n>\n> $$b$$"),
        (":::{admonition} My *title*\n:class: tip\nA\n:::", "> **My *title***\n>\n> A"),
        (":::{margin}\nA\n:::", "> A"),
        (
            ":::{tip}\n:class: dropdown\nA\n:::",
            "<details>\n<summary><b>Tip</b></summary>\n\nA\n\n</details>",
        ),
        (
            "```{figure} figures/b.svg\n:name: fig-b\n:alt: A beat\nThe caption.\n```",
            f"![A beat]({SITE}/_images/b.svg)\n\n**Fig. 2.1.** The caption.",
        ),
        (
            "```{exercise-start} Swap\n:label: ex-s\n```\nDo.\n\n```{exercise-end}\n```",
            "#### Exercise 2.1: Swap\n\nDo.",
        ),
        (
            "```{exercise-start} Swap\n:label: ex-s\n```\nDo.\n\n```{exercise-end}\n```\n\n"
            "```{solution-start} ex-s\n```\nSo.\n\n```{solution-end}\n```\n\nAfter.",
            [
                "#### Exercise 2.1: Swap\n\nDo.",
                "<details>\n<summary><b>Solution to Exercise 2.1</b></summary>\n\n"
                "So.\n\n</details>",
                "After.",
            ],
        ),
    ],
)
def test_myst_becomes_plain_markdown(convert, text, plain):
    plain = [plain] if isinstance(plain, str) else plain
    cells = [c.source.removeprefix("# 2. Two").strip() for c in convert(text)]
    assert cells == plain


def test_the_code_of_a_solution_is_folded_and_a_figure_keeps_its_caption(convert):
    cells = convert(
        "```{exercise-start} Swap\n:label: ex-s\n```\nDo.\n\n```{exercise-end}\n```\n\n"
        "```{solution-start} ex-s\n```\n\n```{code-cell} ipython3\n1\n```\n\n"
        "```{solution-end}\n```\n\n```{code-cell} ipython3\n---\nmystnb:\n  figure:\n"
        "    caption: A {eq}`eq-a`.\n    name: fig-x\n---\n2\n```\n"
    )
    solution, figure = [c for c in cells if c.cell_type == "code"]
    assert solution.metadata["jupyter"] == {"source_hidden": True}
    assert figure.metadata == {}
    assert cells[-1].source.startswith("**Fig. 2.1.** A [Eq. 1.1](https://")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{ref}`ch-three`", "ch-three"),
        ("{cite:p}`nobody1900`", "nobody1900"),
        ("{doc}`three`", "three"),
        ("[x](three.md)", "three.md"),
        ("{kbd}`x`", "kbd"),
        ("```{list-table}\n```", "list-table"),
        (":::{note}\nnever closed", "never closed"),
        ("(ch-one)=\n## Again", "twice"),
        ("```{figure} a.svg\n:name: fig-a\n```", "alt"),
        ("```{figure} a.svg\n:alt: A\n```", "name"),
    ],
)
def test_what_a_notebook_cannot_show_is_an_error(convert, text, message):
    with pytest.raises(PageError, match=message):
        convert(text)


def test_an_edit_changes_only_the_ids_of_edited_cells(tmp_path, convert):
    def ids(text):
        convert(text)
        [path] = [p for p in write_notebooks(read_book(tmp_path), tmp_path) if p.stem == "two"]
        return [c.id for c in nbformat.read(path, 4).cells]

    cell = "```{code-cell} ipython3\n1\n```\n\n"
    before, after = ids(cell + "A\n\n" + cell), ids("new\n\n" + cell + "A\n\n" + cell)
    assert len(before) == len(set(before)) and len(after) == len(set(after))
    assert len(set(before) - set(after)) == 1, "the title's cell, which the new text joined"


# -- nobody's work is lost -------------------------------------------------------------------------


def answer(path, text="my_answer = 42"):
    notebook = nbformat.read(path, 4)
    notebook.cells[-1].source = text
    notebook.cells[-1].outputs = [nbformat.v4.new_output("stream", text="42")]
    nbformat.write(notebook, path)
    return path.read_text("utf8")


def test_copies_to_work_in_are_made_once_and_then_left_alone(tmp_path):
    book, work = small_book(tmp_path, PAGE), tmp_path / "work"
    assert [path.name for path in write_copies(book, work)] == ["two.ipynb"]
    mine = answer(work / "two.ipynb")
    source = book.source("book/two")
    source.write_text(source.read_text().replace("1 + 1", "2 + 2"))
    write_notebooks(book, tmp_path / "book")
    assert write_copies(book, work) == []
    assert (work / "two.ipynb").read_text("utf8") == mine


def test_what_was_written_into_a_made_notebook_is_moved_and_not_lost(tmp_path, capsys):
    book = small_book(tmp_path, PAGE)
    made = tmp_path / "book" / "two.ipynb"
    fresh = made.read_text("utf8")
    for number, name in enumerate(["two.ipynb", "two-1.ipynb"]):
        mine = answer(made, f"answer {number}")
        write_notebooks(book, tmp_path / "book")
        assert (tmp_path / "work" / name).read_text("utf8") == mine
        assert made.read_text("utf8") == fresh
        assert "somebody's work found" in capsys.readouterr().out
    source = book.source("book/two")
    source.write_text(source.read_text().replace("1 + 1", "2 + 2"))
    write_notebooks(book, tmp_path / "book")  # an older notebook as it was made: just replaced
    assert len(list((tmp_path / "work").iterdir())) == 2 and "2 + 2" in made.read_text("utf8")


def test_work_is_ignored_by_git_and_opened_by_make_lab():
    assert "/work/" in (ROOT / ".gitignore").read_text().splitlines()
    lab = (ROOT / "Makefile").read_text().partition("\nlab: ")[2].partition("\n\n")[0]
    assert "make_notebooks.py --work" in lab and "/lab/tree/work" in lab
