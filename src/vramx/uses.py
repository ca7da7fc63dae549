"""What a pass over a model does, use by use."""

from __future__ import annotations

from dataclasses import dataclass

#: What is left of weights once they are packed, by type as safetensors names it: measured on normal
#: weights.
PACKED_SHARES = {"BF16": 0.683, "F16": 0.87, "F32": 0.84}


@dataclass(frozen=True)
class ModuleUse:
    """One use of a module in a pass.

    Attributes
    ----------
    name : str
        The module's name: the same for each use of it.
    nbytes : int
        Bytes of its weights.
    elements : int
        How many of them are numbers of which another precision could be taken.
    element_bytes : int
        What they take now.
    half : bool
        Whether 16-bit arithmetic does its operations.
    operations : float
        Floating-point operations of the use.
    packed : int, optional
        Bytes of its weights once those that packing makes smaller are packed; None if none are.
    """

    name: str
    nbytes: int
    elements: int
    element_bytes: int
    half: bool
    operations: float = 0.0
    packed: int | None = None
