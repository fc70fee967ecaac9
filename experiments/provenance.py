"""With what a result was made: written into every file of experiments/results."""

from __future__ import annotations

import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent


def provenance(command: str, **facts) -> dict:
    """Say with what numbers are made; call it before they are.

    Parameters
    ----------
    command : str
        What to type to make them again.
    **facts
        Anything else: seeds, preprocessing, hashes of the data.

    Returns
    -------
    dict
        The facts after command, commit (with a plus where files differ from it), date, device,
        threads and versions.
    """
    return {
        "command": command,
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("numpy", "scipy", "scikit-learn", "torch")},
        **facts,
    }


def commit() -> str:
    """Return the commit, with a plus where the package or a script differs from it."""

    def git(*words: str) -> str:
        run = subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True, check=False)
        return run.stdout.strip()

    head = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--", "*.py", "../ecgbook")
    return head + ("+" if changed else "") if head else "unknown"
