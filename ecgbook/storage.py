"""Files that are either whole or not there, and folders that one program at a time writes to."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import json
import math
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
from filelock import FileLock, Timeout
from torch import Tensor


@contextlib.contextmanager
def folder_lock(folder: str | Path, name: str = ".lock") -> Iterator[None]:
    """Keep a folder to one writer at a time.

    The operating system holds the lock: it ends with the process, however that ends, even where
    the lock's file stays. A disk that knows no locks gives none.

    Parameters
    ----------
    folder : str or Path
        Made, if it is not there.
    name : str
        Of the lock's file. What writes other files to the same folder may have another one.

    Raises
    ------
    BlockingIOError
        If another writer holds the lock: an OSError that names the folder and the process.
    """
    folder = Path(folder)
    lock = FileLock(folder / name, timeout=0)
    owner = folder / f"{name}.owner"  # a file of its own: Windows reads none that is locked
    try:
        with contextlib.suppress(NotImplementedError):
            lock.acquire()
    except Timeout as error:
        who = owner.read_text(encoding="utf-8") if owner.is_file() else "unknown"
        raise BlockingIOError(
            f"{folder}: another process ({who}) is writing here; wait until it has ended, or use "
            "another folder"
        ) from error
    try:
        owner.write_text(f"pid {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give a name to write a file under; it gets its own in one step, once it is whole.

    Parameters
    ----------
    path : str or Path
        Its folder is made, if it is not there; an old file stays until the end.

    Yields
    ------
    Path
        Where to write. Nothing is left there if the block does not end.

    Raises
    ------
    OSError
        If it could not be written, as on a full disk.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        os.replace(part, path)
    except (OSError, safetensors.SafetensorError) as error:
        raise OSError(
            f"{path}: the file could not be written ({error}); make room on the disk, or write to "
            "another folder"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def write_safetensors(path: str | Path, tensors: dict[str, Tensor], header: dict) -> Path:
    """Write tensors and a JSON header to one file that is either whole or not there.

    Parameters
    ----------
    path : str or Path
    tensors : dict of str to Tensor
    header : dict
        Anything that JSON can hold.

    Returns
    -------
    Path

    Raises
    ------
    OSError
        If it could not be written, as on a full disk; an old file is as it was.
    """
    tensors = {name: t.detach().contiguous().cpu() for name, t in tensors.items()}
    with whole_file(path) as part:
        safetensors.torch.save_file(tensors, part, metadata={"json": to_json(header)})
        with part.open("r+b") as file:  # Windows syncs no file that is open for reading only
            os.fsync(file.fileno())
    return Path(path)


def check_room(folder: Path, n_bytes: int) -> None:
    """Make sure that a folder can be written and has room.

    Parameters
    ----------
    folder : Path
        It is there.
    n_bytes : int
        What will be written; as much is written now, and deleted.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    part = folder / "room.part"
    try:
        with part.open("wb") as file:
            for start in range(0, n_bytes, 1 << 20):
                file.write(bytes(min(1 << 20, n_bytes - start)))
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(
            f"{folder}: {error.strerror} found, room for {n_bytes / 1e6:.1f} MB of checkpoints "
            "wanted; make room, or write to another folder"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Read what `write_safetensors` wrote.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    tensors : dict of str to Tensor
    header : dict

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged or has no JSON header.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, a .safetensors file of ecgbook wanted")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["json"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: not a .safetensors file of ecgbook ({error})") from error
    return tensors, header


def write_json(path: str | Path, content: dict) -> Path:
    """Write a dict as JSON to a file that is either whole or not there.

    NaN, which JSON does not know, becomes null; NumPy numbers and arrays become plain ones.

    Parameters
    ----------
    path : str or Path
    content : dict

    Returns
    -------
    Path

    Raises
    ------
    OSError
        If it could not be written, as on a full disk; an old file is as it was.
    """
    text = json.dumps(_plain(content), indent=1, allow_nan=False)
    with whole_file(path) as part:
        part.write_text(text + "\n", encoding="utf-8")
    return Path(path)


def version() -> str:
    """Return the version of this package, which the files that it writes name."""
    return importlib.import_module(__package__).__version__


def to_json(content: object) -> str:
    """Write plain values as JSON: NaN becomes null, NumPy numbers and arrays plain ones.

    Parameters
    ----------
    content : object

    Raises
    ------
    TypeError, ValueError
        If it holds what JSON cannot, such as a date or an infinite number.
    """
    return json.dumps(_plain(content), allow_nan=False)


def _plain(value):
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value


def book_file(name: str) -> Path:
    """Return the path of a file that comes with the book: a result, or trained weights.

    Parameters
    ----------
    name : str
        Such as ``"weights/tutorial.safetensors"``; found in a clone of the book and in an
        installed package alike.

    Raises
    ------
    FileNotFoundError
        If there is no such file; the message says how it is made.
    """
    here = Path(__file__).resolve().parent
    for folder in (here.parent, here):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"{name}: no such file beside or in {here}; results are written by the scripts in "
        "experiments/, each named for its result"
    )


@functools.cache
def _parsed(path: Path, changed: int) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def results(name: str) -> dict:
    """Read what an experiment of the book measured.

    Parameters
    ----------
    name : str
        Such as ``"ladder"``, for ``experiments/results/ladder.json``.

    Returns
    -------
    dict
        With the ``provenance`` of the numbers; a copy, which may be changed.

    Raises
    ------
    FileNotFoundError
        If the experiment has not been run.
    """
    path = book_file(f"experiments/results/{name}.json")
    return copy.deepcopy(_parsed(path, path.stat().st_mtime_ns))
