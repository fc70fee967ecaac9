"""Break the package on purpose, one line at a time, and see the tests notice.

Each mutant of `mutants.txt` changes one piece of the package in a copy of it, where its tests must
then fail; they pass in the copy as it is, which is tried first. A mutant that survives is a
mistake that nobody would notice. The working tree is never touched.

usage: mutate.py [--only NAME_OR_FILE ...] [--jobs N]
"""

from __future__ import annotations

import argparse
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TABLE = Path(__file__).with_name("mutants.txt")
COPIED = ("ecgbook", "tests", "weights", "experiments", "pyproject.toml")
PASSED, FAILED = 0, 1  # what pytest returns; all else says that nothing was tested
LIMIT_S = 1800  # a mutant that runs for ever is no use: a busy machine would look the same


class Mutant(NamedTuple):
    """A mistake: in `file` of the package, `old`, which stands there once, becomes `new`.

    `tests` are the files below ``tests/``, or ``file::function``, that have to notice.
    """

    file: str
    tests: tuple[str, ...]
    name: str
    old: str
    new: str


def read(table: str) -> list[Mutant]:
    """Read a table of mutants, in the form that the head of ``mutants.txt`` explains."""
    mutants = []
    fields: dict[str, str] = {}
    lines = [*enumerate(table.splitlines(), start=1), ("the last", "* ")]
    for number, line in lines:
        mark, text = line[:1], line[2:]
        if not line or line.startswith("# "):
            continue
        if mark not in "=@*-+" or line[1:2] != " ":
            raise ValueError(f"line {number} {line!r} found, one of = @ * - + and a blank wanted")
        if mark in fields and mark in "*-":
            raise ValueError(f"line {number}: one without a + before it")
        fields[mark] = text
        if mark == "+":
            if missing := [key for key in "=@*-" if key not in fields]:
                raise ValueError(f"line {number}: no line with a {missing[0]} before it")
            file, tests, *change = (fields[key] for key in "=@*-+")
            mutants.append(Mutant(file, tuple(tests.split()), *change))
            del fields["*"], fields["-"]
    return mutants


def stale(root: Path, mutants: Sequence[Mutant]) -> list[str]:
    """Return what the table says and the tree does not hold, in sentences."""
    faults = []
    for mutant in mutants:
        path = root / "ecgbook" / mutant.file
        count = path.read_text("utf-8").count(mutant.old) if path.is_file() else 0
        if count != 1:
            faults.append(
                f"{mutant.name}: {mutant.old!r} found {count} times in {path.name}, 1 wanted"
            )
        if mutant.old == mutant.new:
            faults.append(f"{mutant.name}: a change that changes nothing")
        for test in mutant.tests:
            file, _, function = test.partition("::")
            path = root / "tests" / file
            wanted = f"def {function}(" if function else "def test_"
            if not path.is_file() or wanted not in path.read_text("utf-8"):
                faults.append(f"{mutant.name}: no test {test}")
        if not mutant.tests:
            faults.append(f"{mutant.name}: no tests")
    names = [mutant.name for mutant in mutants]
    return faults + [f"{name}: a name twice" for name in set(names) if names.count(name) > 1]


def survivors(root: Path, mutants: Sequence[Mutant], jobs: int = 1) -> list[str]:
    """Run every mutant, print a line for each, and return the names of those not noticed.

    Parameters
    ----------
    root : Path
        Has the package in ``ecgbook`` and the tests in ``tests``; both are copied.
    mutants : sequence of Mutant
    jobs : int
        Copies to work in at once.

    Raises
    ------
    ValueError
        If the table is stale, the tests fail without any change, or nothing could be tested.
    """
    if faults := stale(root, mutants):
        raise ValueError("the table of mutants is stale:\n  " + "\n  ".join(faults))
    with tempfile.TemporaryDirectory(prefix="mutants-") as place, ThreadPoolExecutor(jobs) as pool:
        free: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(jobs):
            free.put(_copy(root, Path(place) / str(number)))

        def unchanged(tests: tuple[str, ...]) -> None:
            folder = free.get()
            try:
                code, said = _pytest(folder, tests)
            finally:
                free.put(folder)
            if code != PASSED:
                raise ValueError(f"{' '.join(tests)} failed without any change:\n{said}")

        def changed(mutant: Mutant) -> bool:
            folder, started = free.get(), time.perf_counter()
            path = folder / "ecgbook" / mutant.file
            text = path.read_text("utf-8")
            try:
                path.write_text(text.replace(mutant.old, mutant.new), "utf-8")
                code, said = _pytest(folder, mutant.tests)
            finally:
                path.write_text(text, "utf-8")
                free.put(folder)
            if code not in (PASSED, FAILED):
                raise ValueError(f"{mutant.name}: pytest could not run (status {code}):\n{said}")
            verdict = "SURVIVED" if code == PASSED else "killed"
            took = time.perf_counter() - started
            print(f"{verdict:8} {took:5.1f} s  {mutant.file}: {mutant.name}", flush=True)
            return code == PASSED

        try:
            list(pool.map(unchanged, sorted({mutant.tests for mutant in mutants})))
            print("the tests pass without any change", flush=True)
            lived = list(pool.map(changed, mutants))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [mutant.name for mutant, alive in zip(mutants, lived, strict=True) if alive]


def _copy(root: Path, folder: Path) -> Path:
    folder.mkdir()
    for name in COPIED:
        if (root / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(root / name, folder / name, ignore=ignored)
        elif (root / name).is_file():
            shutil.copy(root / name, folder)
    return folder


def _pytest(folder: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Return pytest's status and the end of what it said."""
    # A changed file of the same size and second would be taken for its old bytecode.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("ECGBOOK_DATA", None)  # what is noticed must not depend on who has records
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    command += [f"tests/{test}" for test in tests]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return -1, f"no end after {LIMIT_S} s"
    return done.returncode, (done.stdout + done.stderr)[-2000:]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the table, or a part of it; return 1 if a mutant survives."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--only", nargs="+", metavar="NAME_OR_FILE", help="mutants whose name or file holds one"
    )
    parser.add_argument("--jobs", type=int, default=1, help="mutants at once (default: 1)")
    options = parser.parse_args(arguments)
    chosen = [
        mutant
        for mutant in read(TABLE.read_text("utf-8"))
        if not options.only
        or any(part in mutant.name or part in mutant.file for part in options.only)
    ]
    if not chosen:
        parser.error(f"no mutant whose name or file holds {' or '.join(options.only)}")
    try:
        lived = survivors(ROOT, chosen, options.jobs)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"killed {len(chosen) - len(lived)} of {len(chosen)}; survivors: ", end="")
    print(", ".join(lived) or "none")
    return 1 if lived else 0


if __name__ == "__main__":
    sys.exit(main())
