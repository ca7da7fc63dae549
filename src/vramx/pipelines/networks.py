"""What pipelines ask of a user's network: where and in what it computes, and which one it is."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Iterator

import torch
from torch import nn

from vramx.errors import ConfigError
from vramx.session import Session


def device_of(session: Session) -> torch.device:
    """Return where the modules of a session compute: on the CPU where the card is simulated."""
    if session.device.computes_on_host:
        return torch.device("cpu")
    return torch.device("cuda", session.device.ordinal)


def dtype_of(*modules: nn.Module) -> torch.dtype:
    """Return in what modules compute: in the dtype of their first weight that is not whole."""
    tensors = itertools.chain.from_iterable(
        itertools.chain(module.parameters(), module.buffers()) for module in modules
    )
    return next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)


@contextlib.contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Put modules into evaluation mode for a scope; after it each is as it was."""
    modes = [(each, each.training) for module in modules for each in module.modules()]
    try:
        for module in modules:
            if any(each.training for each in module.modules()):  # exported ones refuse the call
                module.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def has_tensor_cores_for(dtype: torch.dtype) -> bool:
    """Return whether the present card convolves a dtype in kernels that want channels last.

    Halves everywhere; float32 from Ampere on, where torch may round its products to TF32.
    """
    if dtype.itemsize < 4:
        return True
    is_single = dtype == torch.float32 and torch.backends.cudnn.allow_tf32
    return is_single and torch.cuda.get_device_capability() >= (8, 0)


@contextlib.contextmanager
def channels_last(module: nn.Module, session: Session | None) -> Iterator[None]:
    """Keep the weights of convolutions with their channels last for a scope.

    So tensor cores compute with them; otherwise each call turns weights and pictures anew.

    Parameters
    ----------
    module : torch.nn.Module
        Whose convolutions.
    session : Session, optional
        An open session, which may manage the module already; it does so again. A part of what
        it manages stays as it is.

    Raises
    ------
    InUseError
        If the module is managed and running.
    """
    turned = [
        each.weight
        for each in module.modules()
        if isinstance(each, nn.Conv2d)
        and each.weight.is_contiguous()
        and not each.weight.is_contiguous(memory_format=torch.channels_last)
    ]
    _lay_out(module, session, turned, torch.channels_last)
    try:
        yield
    finally:
        _lay_out(module, session, turned, torch.contiguous_format)


def _lay_out(
    module: nn.Module,
    session: Session | None,
    weights: list[torch.Tensor],
    layout: torch.memory_format,
) -> None:
    if session is None or session.closed or not session.manages(module):
        _turn(weights, layout)
        return
    try:
        session.unmanage(module)
    except ConfigError:  # it is a part of what is managed; it stays as it is
        return
    try:
        _turn(weights, layout)
    finally:
        session.manage(module)


def _turn(weights: list[torch.Tensor], layout: torch.memory_format) -> None:
    for weight in weights:
        weight.data = weight.data.contiguous(memory_format=layout)


def digest(session: Session, *modules: nn.Module) -> str:
    """Hash the weights and buffers of modules.

    Parameters
    ----------
    session : Session
        Where they are managed.
    *modules : torch.nn.Module
        In an order that counts.

    Returns
    -------
    str
        Hexadecimal.
    """
    hashed = hashlib.sha256()
    for name, tensor in itertools.chain.from_iterable(m.state_dict().items() for m in modules):
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        with session.pin(tensor):
            raw = tensor.detach().contiguous().view(-1).view(torch.uint8).cpu()
        hashed.update(raw.numpy().tobytes())
    return hashed.hexdigest()
