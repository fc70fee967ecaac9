"""Scripts of a folder as modules, for the tests of experiments and benchmarks."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = ROOT / "experiments"


@contextmanager
def imported(folder: Path, *names: str) -> Iterator[SimpleNamespace]:
    """Import scripts; their folder is searched, and they are known, only meanwhile."""
    sys.path.insert(0, str(folder))
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(str(folder))
        for name in names:
            sys.modules.pop(name, None)
