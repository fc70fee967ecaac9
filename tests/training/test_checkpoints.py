"""Checkpoints: no kill at any moment spoils one, and a foreign one is refused."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from waves import small, waves

from ecgbook import storage
from ecgbook.training import Recipe, fit

HERE = str(Path(__file__).parents[1])


def test_a_finished_run_is_not_overwritten(tmp_path):
    train, valid, recipe = waves(32), waves(16, 1000), Recipe(epochs=1)
    fit(small(), train, valid, recipe, tmp_path, progress=False)
    before = (tmp_path / "last.safetensors").read_bytes()
    with pytest.raises(ValueError, match="a run found, an empty folder wanted; resume"):
        fit(small(), train, valid, recipe, tmp_path, progress=False)
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_resume_refuses_another_recipe_and_other_records(tmp_path):
    train, valid = waves(32), waves(16, 1000)
    fit(small(), train, valid, Recipe(epochs=1), tmp_path, progress=False)
    with pytest.raises(ValueError, match="seed=0 found, seed=1 wanted"):
        fit(small(), train, valid, Recipe(epochs=1, seed=1), tmp_path, resume=True, progress=False)
    with pytest.raises(ValueError, match="other records"):
        fit(small(), waves(33), valid, Recipe(epochs=1), tmp_path, resume=True, progress=False)


KILLED = textwrap.dedent(
    """
    import torch
    from waves import small, waves
    import os, sys
    from ecgbook.training import Recipe, fit
    torch.set_num_threads(1)
    train, valid, recipe = waves(32), waves(16, 1000), Recipe(epochs=100_000, patience=100_000)
    say = lambda *words: print(*words, flush=True)
    say("ready")
    for line in sys.stdin:  # one child for every line: fork is quick, importing torch is not
        child = os.fork()
        if not child:
            done = lambda row: say("epoch", row["epoch"])
            fit(small(), train, valid, recipe, line.strip(), True, progress=False, on_epoch=done)
            os._exit(1)
        say(child)
        say(os.waitpid(child, 0)[1])
    """
)


def test_a_kill_at_any_moment_leaves_a_readable_checkpoint(tmp_path):
    rng = np.random.default_rng(0)
    script = tmp_path / "train.py"
    script.write_text(KILLED)
    folder = tmp_path / "run"
    checkpoint = folder / "last.safetensors"
    parent = subprocess.Popen(
        [sys.executable, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": HERE},
    )
    epochs = []
    try:
        assert parent.stdout.readline() == "ready\n"
        for _ in range(10):
            parent.stdin.write(f"{folder}\n")
            parent.stdin.flush()
            child = int(parent.stdout.readline())
            said = parent.stdout.readline()  # waits for an epoch, however busy the machine is
            assert said.startswith("epoch "), f"{said}: the training ended by itself"
            time.sleep(rng.uniform(0, 0.2))  # somewhere in the epochs that follow
            os.kill(child, signal.SIGKILL)
            while said.startswith("epoch "):
                said = parent.stdout.readline()
            assert int(said) == signal.SIGKILL
            epochs.append(_epochs(checkpoint))
    finally:
        parent.stdin.close()
        parent.wait()
    assert all(a < b for a, b in zip(epochs, epochs[1:], strict=False)), epochs
    left = {p.name for p in folder.iterdir() if p.suffix != ".part"}
    assert left <= {"last.safetensors", ".lock", ".lock.owner"}, (
        "what is half-written has its own name"
    )


def _epochs(checkpoint):
    if not checkpoint.exists():
        return 0
    tensors, header = storage.read_safetensors(checkpoint)
    small().load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    return len(header["rows"])
