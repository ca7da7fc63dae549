"""Checks of a file of weights."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

from vramx.checkpoints import checkpoints_of, is_torch_checkpoint, read_model
from vramx.doctor.findings import Finding, Severity
from vramx.doctor.hostmemory import HOST_A_BYTE
from vramx.doctor.machine import Machine
from vramx.errors import ConfigError
from vramx.units import format_size

_CHUNK = 2**22


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def check_model(machine: Machine, path: Path, sha256: str | None) -> Iterator[Finding]:
    """Look whether a model's file is whole, and whether the host can hold it.

    Parameters
    ----------
    machine : Machine
        Whose memory it must fit.
    path : Path
        A file or folder that `read_model` reads.
    sha256 : str, optional
        The digest that the file should have.

    Yields
    ------
    Finding
        What was found.
    """
    damaged = "A damaged file fails as it is loaded, or gives wrong weights."
    try:
        tensors = read_model(path)
        for file in filter(is_torch_checkpoint, checkpoints_of(path)):
            broken = zipfile.ZipFile(file).testzip() if zipfile.is_zipfile(file) else None
            if broken is not None:
                raise ConfigError(f"{file} is damaged: the checksum of {broken} is wrong")
    except ConfigError as error:
        yield Finding("model", Severity.ERROR, str(error), damaged, "Download or save it again.")
        return
    nbytes = sum(tensor.nbytes for tensor in tensors)
    said = f"{path}: {len(tensors)} tensors, {format_size(nbytes)}"
    yield Finding("model", Severity.OK, said)
    if sha256 is not None and path.is_dir():
        yield Finding(
            "model",
            Severity.ERROR,
            f"{path} is a folder, which has no SHA-256",
            "A digest is of one file.",
            "Give the file that it is of.",
        )
    elif sha256 is not None:
        digest = _sha256(path)
        if digest == sha256.strip().lower():
            yield Finding("model", Severity.OK, f"SHA-256 {digest}")
        else:
            yield Finding(
                "model",
                Severity.ERROR,
                f"SHA-256 is {digest}, not {sha256}",
                "The file is not the one that was meant.",
                "Download it again from a source that you trust.",
            )
    room = machine.host_memory().usable
    if nbytes * HOST_A_BYTE > room:
        yield Finding(
            "model",
            Severity.ERROR,
            f"managing it takes {format_size(nbytes * HOST_A_BYTE)} of host memory, and "
            f"{format_size(room)} can be had",
            "All managed bytes have their host copies in RAM.",
            "Free or add RAM, or use a smaller precision.",
        )
