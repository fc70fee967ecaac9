"""The ways to set the book up agree with each other and with what is installed."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from book_config import read_book
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
CONDA_NAMES = {"pytorch": "torch"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins() -> dict[str, Version]:
    found = {}
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        text = line.split("#")[0].strip()
        if not text:
            continue
        name, equal, number = text.partition("==")
        assert equal, f"requirements.txt: {text!r} is not an exact pin"
        name = canonicalize_name(name)
        assert name not in found, f"requirements.txt pins {name} twice"
        found[name] = Version(number)
    return found


def declared() -> dict[str, Requirement]:
    extras = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *extras["book"], *extras["dev"]]
    return {canonicalize_name(Requirement(x).name): Requirement(x) for x in lines}


def conda() -> tuple[dict[str, SpecifierSet], list[str]]:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] and environment["channels"] == ["conda-forge"]
    packages, pip = {}, []
    for item in environment["dependencies"]:
        if isinstance(item, dict):
            pip = item["pip"]
            continue
        name, text = re.fullmatch(r"([\w-]+)(.*)", item).groups()
        text = f"=={text[1:]}.*" if re.match(r"=\d", text) else text
        packages[CONDA_NAMES.get(name, name)] = SpecifierSet(text)
    return packages, pip


@pytest.mark.parametrize("name", sorted(declared()))
def test_each_dependency_is_pinned_within_its_bounds(name):
    requirement, pin = declared()[name], pins().get(name)
    assert pin is not None, f"{requirement} is in pyproject.toml but not in requirements.txt"
    assert requirement.specifier.contains(pin), f"pin {pin} is outside of {requirement}"
    operators = {s.operator for s in requirement.specifier}
    assert ">=" in operators, f"{requirement}: a lower bound is wanted"
    assert operators <= {">=", "<"}, f"{requirement}: bounds only, exact pins go elsewhere"


@pytest.mark.parametrize("name", sorted(pins()))
def test_what_is_installed_is_what_is_pinned(name):
    installed = Version(version(name))
    assert installed.public == str(pins()[name]), "run `make setup`"


def test_conda_covers_every_dependency_with_the_same_lower_bounds():
    packages, pip = conda()
    assert "pip" in packages
    [line] = pip
    match = re.fullmatch(r"-e \.\[([\w,]+)\]", line)
    assert set(match[1].split(",")) == {"book", "dev"}, "pip brings in what conda does not"
    for name, specifier in packages.items():
        if name not in ("python", "pip"):
            assert name in declared(), f"{name}: in environment.yml, not in pyproject.toml"
            assert specifier == declared()[name].specifier, name
    for line in PROJECT["dependencies"]:
        name = Requirement(line).name
        assert name in packages or name == "wfdb", f"{name} would come from pip instead of conda"


def test_conda_python_is_one_that_the_package_supports():
    [python] = conda()[0]["python"]
    release = Version(python.version.removesuffix(".*"))
    assert SpecifierSet(PROJECT["requires-python"]).contains(release)
    assert PROJECT["requires-python"] == ">=3.10"


def test_no_file_names_a_package_index():
    files = ["requirements.txt", "pyproject.toml", "environment.yml", "Makefile", ".ci/run"]
    files += [f.relative_to(ROOT) for f in (ROOT / ".github/workflows").iterdir()]
    for name in files:
        text = (ROOT / name).read_text()
        assert not re.search(r"https?://(?!github\.com/)", text), f"{name} names a host"
        assert not re.search(r"--(extra-)?index-url|--find-links|(?<!\w)-[if] +http", text), name


def test_continuous_integration_covers_every_supported_python():
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
    job = workflow["jobs"]["test"]
    assert {"3.10", "3.11", "3.12", "3.13"} <= set(job["strategy"]["matrix"]["python-version"])
    assert "make test" in [step.get("run") for step in job["steps"]]


def test_continuous_integration_runs_the_lowest_versions_that_are_allowed():
    job = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"]["lowest"]
    runs = [step.get("run", "") for step in job["steps"]]
    assert any("--resolution lowest-direct -e" in run for run in runs)
    assert any("pytest" in run for run in runs)
    [setup] = [step["with"] for step in job["steps"] if "setup-python" in step.get("uses", "")]
    assert PROJECT["requires-python"] == f">={setup['python-version']}"
    assert not declared()["scipy"].specifier.contains("1.11.1"), "it joins all records"


def test_every_room_is_packaged():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    rooms = {f"ecgbook.{f.parent.name}" for f in (ROOT / "ecgbook").glob("*/__init__.py")}
    others = {"ecgbook", "ecgbook.experiments", "ecgbook.weights"}
    assert set(setuptools["packages"]) == rooms | others
    assert "py.typed" in setuptools["package-data"]["ecgbook"]


@pytest.mark.parametrize("name", ["test", "book", "linkcheck"])
def test_workflows_are_complete(name):
    workflow = yaml.safe_load((ROOT / f".github/workflows/{name}.yml").read_text())
    assert workflow[True], "YAML reads the key `on` as true"
    for job in workflow["jobs"].values():
        assert job["runs-on"] and job["steps"]
        assert all(("uses" in step) != ("run" in step) for step in job["steps"])


def test_the_repository_has_one_address():
    repository = read_book(ROOT).repository
    assert PROJECT["urls"]["Repository"] == repository, "pyproject.toml and _config.yml differ"


def test_versions_and_licenses_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    package = re.search(
        r'^__version__ = "(.+)"$', (ROOT / "ecgbook/__init__.py").read_text(), flags=re.M
    )
    assert citation["version"] == PROJECT["version"] == package[1]
    assert (ROOT / "LICENSE").read_text().startswith(f"{citation['license']} License")
