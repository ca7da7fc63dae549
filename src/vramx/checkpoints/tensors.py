"""The tensors that are in a file of weights, read from its header."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vramx.checkpoints.files import checked_shards, is_torch_checkpoint, opened
from vramx.checkpoints.pickles import leaves, unpickle
from vramx.errors import ConfigError

#: Bits an element, by the names that safetensors gives to types.
BITS = {
    "F64": 64,
    "I64": 64,
    "U64": 64,
    "C64": 64,
    "F32": 32,
    "I32": 32,
    "U32": 32,
    "F16": 16,
    "BF16": 16,
    "I16": 16,
    "U16": 16,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "I8": 8,
    "U8": 8,
    "BOOL": 8,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F4": 4,
    "I4": 4,
    "U4": 4,
}
#: Elements and bytes of a block, by the names that ggml gives to quantised types.
BLOCKS = {
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q8_0": (32, 34),
    "Q8_1": (32, 40),
    "Q2_K": (256, 84),
    "Q3_K": (256, 110),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
    "Q8_K": (256, 292),
    "IQ2_XXS": (256, 66),
    "IQ2_XS": (256, 74),
    "IQ3_XXS": (256, 98),
    "IQ1_S": (256, 50),
    "IQ4_NL": (32, 18),
    "IQ3_S": (256, 110),
    "IQ2_S": (256, 82),
    "IQ4_XS": (256, 136),
    "IQ1_M": (256, 56),
    "TQ1_0": (256, 54),
    "TQ2_0": (256, 66),
    "MXFP4": (32, 17),
}
_TORCH_NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
    "complex64": "C64",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes
    ----------
    name : str
        Its name, dotted as in a state dict.
    shape : tuple of int
        The shape.
    dtype : str
        The type, as safetensors names it: ``"F32"``, ``"BF16"``; or ggml, where it is quantised.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def count(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes."""
        if self.dtype in BLOCKS:
            elements, nbytes = BLOCKS[self.dtype]
            return -(-self.count // elements) * nbytes
        return (self.count * BITS[self.dtype] + 7) // 8

    @property
    def is_floating(self) -> bool:
        """Whether another precision could hold it."""
        return self.dtype.startswith(("F", "BF"))


def read_checkpoint(path: str | Path) -> list[StoredTensor]:
    """List the tensors of a file of weights.

    Parameters
    ----------
    path : str or Path
        A safetensors file, the index of several, or a torch checkpoint, which is read with
        ``weights_only`` and without its weights. Their content tells which.

    Returns
    -------
    list of StoredTensor
        Tensors that share bytes appear once.

    Raises
    ------
    ConfigError
        If there is no such file, it is of another kind, damaged, or holds no tensors.
    """
    path = Path(path)
    tensors: list[StoredTensor] = []
    try:
        for file in checked_shards(path):
            tensors += _torch(file) if is_torch_checkpoint(file) else _safetensors(file)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not tensors:
        raise ConfigError(f"{path} holds no tensors")
    unknown = sorted({tensor.dtype for tensor in tensors} - BITS.keys())
    if unknown:
        raise ConfigError(f"{path} holds types that are not known: {', '.join(unknown)}")
    return tensors


def _safetensors(path: Path) -> Iterator[StoredTensor]:
    with opened(path, "np") as file:
        for name in file.keys():  # noqa: SIM118
            found = file.get_slice(name)
            yield StoredTensor(name, tuple(found.get_shape()), found.get_dtype())


def _torch(path: Path) -> Iterator[StoredTensor]:
    content = unpickle(path, "meta")
    seen: set[object] = set()
    for name, tensor in leaves(content, path):
        place = (tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape)
        if place not in seen:
            seen.add(place)
            dtype = str(tensor.dtype).removeprefix("torch.")
            yield StoredTensor(name, tuple(tensor.shape), _TORCH_NAMES.get(dtype, dtype))
