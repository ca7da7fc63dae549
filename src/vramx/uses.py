"""What a pass over a model does, use by use."""

from __future__ import annotations

from dataclasses import dataclass


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
    """

    name: str
    nbytes: int
    elements: int
    element_bytes: int
    half: bool
    operations: float = 0.0
