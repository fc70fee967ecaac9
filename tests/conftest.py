"""Fixtures shared by the tests."""

import os
from pathlib import Path

import pytest

# One thread a test: on a busy machine, threads that wait for each other take minutes for seconds.
# Set before anything loads torch, and for the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def ecgdata() -> Path:
    """Folder of real ECGs; tests that need it are skipped, with the reason, where it is absent."""
    folder = os.environ.get("ECGBOOK_DATA")
    if not folder:
        pytest.skip("ECGBOOK_DATA is not set: no real ECGs here (python -m ecgbook download)")
    path = Path(folder)
    if not (path / "manifest.csv").is_file():
        pytest.fail(f"ECGBOOK_DATA={folder} has no manifest.csv")
    return path
