"""Layers with quantised weights, and what bytes they hold."""

from collections.abc import Callable, Iterator

import torch
from torch import nn


def torchao_int8(block: nn.Module) -> nn.Module:
    """Quantise a block's linear layers to torchao's int8, weight only."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(block, Int8WeightOnlyConfig())
    return block


def bitsandbytes_nf4(block: nn.Module) -> nn.Module:
    """Quantise a block's linear layers to bitsandbytes' NF4."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for name, layer in list(block.named_children()):
        if isinstance(layer, nn.Linear):
            sizes, plain = (layer.in_features, layer.out_features), layer.weight.data
            how = {"compute_dtype": plain.dtype, "quant_type": "nf4"}
            kept = Linear4bit(*sizes, bias=False, device="meta", **how)
            weight = Params4bit(plain, requires_grad=False, quant_type="nf4", module=kept)
            kept.weight = weight.to(plain.device)  # it is moving that quantises
            setattr(block, name, kept)
    return block


KINDS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "torchao": torchao_int8,
    "bitsandbytes": bitsandbytes_nf4,
}


def tensors_in(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Go through the plain tensors that a tensor is made of, and its quantisation's tables."""
    if hasattr(tensor, "__tensor_flatten__"):
        for name in tensor.__tensor_flatten__()[0]:
            yield from tensors_in(getattr(tensor, name))
        return
    yield tensor
    state = getattr(tensor, "quant_state", None)
    while state is not None:
        yield from (each for each in vars(state).values() if isinstance(each, torch.Tensor))
        state = state.state2


def bytes_held(module: nn.Module) -> int:
    """Sum the bytes of a module's parameters and buffers, however they are made."""
    held = {
        (each.data_ptr(), each.shape): each.numel() * each.element_size()
        for tensor in (*module.parameters(), *module.buffers())
        for each in tensors_in(tensor)
    }
    return sum(held.values())
