"""Sphinx extension: addresses, measured run times, MathJax and notebooks in the built site."""

from __future__ import annotations

import shutil
from html import escape
from importlib.metadata import files
from pathlib import Path

from book_config import read_book
from myst_nb.sphinx_ import NbMetadataCollector

MATHJAX = ("tex-chtml.js", "output/chtml/fonts", "input/tex/extensions")
"""The parts of MathJax that a page loads: the program, its fonts, TeX packages on demand."""


def fill_addresses(app, docname, source):
    """Replace %REPOSITORY% and %SITE% in the text of a page."""
    source[0] = read_book(Path(app.srcdir)).fill(source[0])


def show_run_time(app, pagename, templatename, context, doctree):
    """Write the measured run time of a page with code under its title."""
    data = NbMetadataCollector.get_doc_data(app.env).get(pagename, {}).get("exec_data")
    if not data or not context.get("body"):
        return
    line = (
        f'</h1>\n<p class="run-time">Run time {data["runtime"]:.0f}&nbsp;s, measured when this '
        f'page was built (<a href="{escape(context["pathto"]("book/run_times"))}">all pages</a>)'
        "</p>"
    )
    context["body"] = context["body"].replace("</h1>", line, 1)


def mathjax_folder() -> Path:
    """Return the folder of MathJax in the installed package sphinx-mathjax-offline."""
    entry = next(f for f in files("sphinx-mathjax-offline") if f.name == "tex-chtml.js")
    return Path(entry.locate()).parent


def copy_assets(app, exception):
    """Copy the used part of MathJax and the generated notebooks into the built site."""
    if exception or app.builder.format != "html":
        return
    source, target = mathjax_folder(), Path(app.outdir, "_static", "vendor", "mathjax")
    for name in MATHJAX:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, dirs_exist_ok=True)
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)
    book = read_book(Path(app.srcdir))
    for page in book.notebook_pages():
        shutil.copy2(book.root / f"{page}.ipynb", Path(app.outdir, "_sources", f"{page}.ipynb"))


def setup(app):
    """Register the handlers with Sphinx."""
    app.connect("source-read", fill_addresses)
    app.connect("html-page-context", show_run_time)
    app.connect("build-finished", copy_assets)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
