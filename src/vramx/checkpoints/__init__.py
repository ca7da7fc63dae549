"""What is in a file of weights, told by its content: names, shapes and types, not the weights."""

from vramx.checkpoints.files import (
    checked_shards,
    is_named_as_weights,
    is_torch_checkpoint,
    opened,
    shards,
)
from vramx.checkpoints.models import checkpoints_of, read_model
from vramx.checkpoints.pickles import Foreign, unpickle
from vramx.checkpoints.tensors import BITS, StoredTensor, read_checkpoint

__all__ = [
    "BITS",
    "Foreign",
    "StoredTensor",
    "checked_shards",
    "checkpoints_of",
    "is_named_as_weights",
    "is_torch_checkpoint",
    "opened",
    "read_checkpoint",
    "read_model",
    "shards",
    "unpickle",
]
