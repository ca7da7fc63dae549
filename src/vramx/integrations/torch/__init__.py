"""vramx for torch: allocations in a scope, managed modules, tensors in a session's memory."""

from vramx.integrations.torch.allocator import make_torch_allocator
from vramx.integrations.torch.bridge import TorchBridge

__all__ = ["TorchBridge", "make_torch_allocator"]
