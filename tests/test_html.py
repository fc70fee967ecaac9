"""The built book as a reader gets it: complete, self-contained, readable. Run `make book` first."""

import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from book_config import read_book
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
BOOK = read_book(ROOT)
BUILT = (HTML / "index.html").is_file()

pytestmark = pytest.mark.skipif(not BUILT, reason="the book is not built: run `make book`")

PAGES = sorted(set(HTML.rglob("*.html")) - set(HTML.glob("_static/**/*.html"))) if BUILT else []
NAMES = [page.relative_to(HTML).as_posix() for page in PAGES]
_HOST = re.compile(r"^(https?:)?//", re.I)
_CSS_URL = re.compile(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)", re.I)


@cache
def soup(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text("utf8"), "html.parser")


def article(page: str) -> BeautifulSoup:
    found = soup(HTML / f"{page}.html").find("article")
    assert found, f"{page} has no article"
    return found


def css_hosts(text: str) -> list[str]:
    found = [first or second for first, second in _CSS_URL.findall(text)]
    return [url for url in found if _HOST.match(url)]


def outside_loads(page: BeautifulSoup) -> list[str]:
    """Addresses on other hosts from which a page loads something, links that one clicks aside."""
    found = []
    for tag in page.find_all(True):
        if tag.name == "link" and set(tag.get("rel", [])) & {"canonical", "next", "prev"}:
            continue
        if tag.name not in ("a", "form"):
            urls = [tag.get(name, "") for name in ("src", "href", "data", "poster", "action")]
            urls += [part.split()[0] for part in tag.get("srcset", "").split(",") if part.strip()]
            found += [url for url in urls if _HOST.match(url)]
        found += css_hosts(tag.get("style", ""))
        if tag.name == "style":
            found += css_hosts(tag.get_text())
        if tag.name == "script" and not tag.get("src"):
            found += re.findall(r"(?:import|src\s*=|fetch)\W*[\"'](https?://[^\"']+)", tag.text)
    return found


def poor_alternatives(page: BeautifulSoup) -> list[str]:
    """Images whose alternative text is missing, a file name, or too short to mean anything."""
    poor = []
    for image in page.select("article img"):
        text = (image.get("alt") or "").strip()
        named = re.search(r"\.(png|svg|jpe?g|gif)$|^(\.\./)?_images", text)
        if named or len(text) < 12 or " " not in text:
            poor.append(f"{image.get('src')}: {text!r}")
    return poor


def dead_links(page: Path, root: Path) -> list[str]:
    dead = []
    for tag in soup(page).select("a[href]"):
        url = urlsplit(tag["href"])
        if url.scheme or url.netloc or tag["href"] in ("#", ""):
            continue
        target = (page.parent / unquote(url.path)).resolve() if url.path else page
        if not target.exists() or not target.is_relative_to(root.resolve()):
            dead.append(tag["href"])
        elif url.fragment and target.suffix == ".html":
            name = unquote(url.fragment)
            if not soup(target).find(id=name) and not soup(target).find(attrs={"name": name}):
                dead.append(tag["href"])
    return dead


def failed_outputs(page: BeautifulSoup) -> list[str]:
    found = [x.get_text() for x in page.select(".output.stderr, .output.traceback")]
    outputs = page.select(".cell_output")
    return found + [x.text for x in outputs if "Traceback (most recent call last)" in x.text]


def test_every_page_of_the_table_of_contents_is_built():
    assert [p for p in BOOK.pages if not (HTML / f"{p}.html").is_file()] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_page_loads_nothing_from_another_host(name):
    assert outside_loads(soup(HTML / name)) == []


def test_style_sheets_load_nothing_from_another_host():
    sheets = list(HTML.rglob("*.css"))
    assert sheets
    hosts = {str(f): css_hosts(f.read_text("utf8", errors="replace")) for f in sheets}
    assert {name: urls for name, urls in hosts.items() if urls} == {}


def test_formulas_are_set_by_a_copy_of_mathjax_in_the_site():
    with_math = [p for p in PAGES if soup(p).select("article .math")]
    assert with_math
    for page in with_math:
        [source] = [s["src"] for s in soup(page).select("script[src]") if "mathjax" in s["src"]]
        assert (page.parent / urlsplit(source).path).resolve().is_file(), source
    fonts = HTML / "_static/vendor/mathjax/output/chtml/fonts/woff-v2"
    assert len(list(fonts.glob("*.woff"))) > 20


@pytest.mark.parametrize("name", NAMES)
def test_a_page_names_its_language(name):
    if name != "index.html":  # a redirect
        assert soup(HTML / name).html.get("lang") == "en"


@pytest.mark.parametrize("page", BOOK.pages)
def test_every_image_says_in_words_what_it_shows(page):
    assert poor_alternatives(soup(HTML / f"{page}.html")) == []


@pytest.mark.parametrize("name", NAMES)
def test_links_within_the_site_lead_somewhere(name):
    assert dead_links(HTML / name, HTML) == []


@pytest.mark.parametrize("page", BOOK.notebook_pages())
def test_no_output_is_an_error_or_a_warning(page):
    assert failed_outputs(article(page)) == []


@pytest.mark.parametrize("page", BOOK.chapters())
def test_a_chapter_says_what_it_is_not_for(page):
    text = " ".join(article(page).get_text().lower().split())
    assert "for teaching, not for diagnosis" in text


@pytest.mark.parametrize("page", BOOK.notebook_pages())
def test_a_page_with_code_shows_its_measured_run_time(page):
    [line] = article(page).select(".run-time")
    assert re.match(r"Run time \d+\.?\d*\ss,", line.get_text()), line
    rows = soup(HTML / "book/run_times.html").select("article table tbody tr")
    assert any(page in row.get_text() for row in rows), "missing from the table of run times"


@pytest.mark.parametrize("page", BOOK.notebook_pages())
def test_the_colab_button_opens_the_generated_notebook(page):
    links = soup(HTML / f"{page}.html").select("a[href*='colab.research']")
    assert links
    for link in links:
        path = link["href"].split(f"/blob/{BOOK.branch}/")[1]
        assert path == f"{page}.ipynb" and (ROOT / path).is_file()


@pytest.mark.parametrize("page", BOOK.notebook_pages())
def test_the_notebook_to_download_is_the_generated_one(page):
    downloads = [a["href"] for a in soup(HTML / f"{page}.html").select("a[href$='.ipynb']")]
    local = [h for h in downloads if not _HOST.match(h)]
    assert local
    for href in local:
        file = (HTML / page).parent / href
        assert file.read_bytes() == (ROOT / f"{page}.ipynb").read_bytes()


@pytest.mark.parametrize("page", BOOK.notebook_pages())
def test_notebook_and_page_number_things_alike_and_links_into_the_site_exist(page):
    cells = nbformat.read(ROOT / f"{page}.ipynb", 4).cells
    text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    body = article(page)

    def numbers(selector):
        found = [x.get_text().strip() for x in body.select(selector)]
        return [n for x in found for n in re.findall(r"\d+(?:\.\d+)?", x)]

    assert re.findall(r"\\tag\{([\d.]+)\}", text) == numbers(".eqno")
    assert re.findall(r"^\*\*Fig\. (\d+(?:\.\d+)?)\.\*\*", text, re.M) == numbers(
        "figcaption .caption-number"
    )
    exercises = re.findall(r"^#### Exercise (\d+(?:\.\d+)?):", text, re.M)
    assert exercises == numbers(".exercise .caption-number")
    for url in set(re.findall(re.escape(BOOK.site) + r"/[^)\s]+", text)):
        path, _, anchor = url.removeprefix(f"{BOOK.site}/").partition("#")
        assert (HTML / path).is_file(), url
        assert not anchor or soup(HTML / path).find(id=anchor), url


# -- the checks above can fail ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<script src="//cdn.example/x.js"></script>',
        '<script>import("https://cdn.example/x.js")</script>',
        '<link rel="stylesheet" href="https://cdn.example/x.css">',
        '<img src="http://cdn.example/x.png">',
        '<img src="x.png" srcset="x.png 1x, https://cdn.example/x.png 2x">',
        "<style>@import 'https://cdn.example/x.css';</style>",
        "<style>@font-face{src: url(//cdn.example/f.woff)}</style>",
        '<p style="background: url(https://cdn.example/x.png)"></p>',
        '<iframe src="https://cdn.example"></iframe>',
    ],
)
def test_a_load_from_another_host_is_found(text):
    assert outside_loads(BeautifulSoup(text, "html.parser"))


def test_links_to_click_and_local_files_are_no_loads():
    text = '<a href="https://a.example"></a><link rel="canonical" href="https://b.example">'
    text += '<script src="_static/x.js"></script><style>p{background:url(data:image/png)}</style>'
    assert outside_loads(BeautifulSoup(text, "html.parser")) == []


@pytest.mark.parametrize("alt", ["", 'alt=""', 'alt="beat.svg"', 'alt="ECG"', 'alt="_images/a b"'])
def test_an_image_without_meaningful_words_is_found(alt):
    page = BeautifulSoup(f'<article><img src="a.png" {alt}></article>', "html.parser")
    assert poor_alternatives(page)


def test_dead_links_are_found(tmp_path):
    page = tmp_path / "page.html"
    links = ["page.html", "page.html#here", "#here", "https://x.example", "", "#"]
    dead = ["other.html", "page.html#there", "#there", "../../outside.html"]
    page.write_text('<p id="here">' + "".join(f'<a href="{x}"></a>' for x in links + dead))
    assert dead_links(page, tmp_path) == dead


def test_an_error_or_warning_in_an_output_is_found():
    for text in ('<div class="output stderr">w</div>', '<div class="output traceback">e</div>'):
        assert failed_outputs(BeautifulSoup(text, "html.parser"))
    text = '<div class="cell_output"><pre>Traceback (most recent call last):</pre></div>'
    assert failed_outputs(BeautifulSoup(text, "html.parser"))
