"""Where a managed module's bytes live: moved in, looked at again when a pass begins, put back."""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from vramx.errors import ConfigError
from vramx.integrations.torch.core import TorchCore
from vramx.integrations.torch.digests import Digests
from vramx.integrations.torch.internals.layout import tensors_on
from vramx.integrations.torch.memory import storage_range
from vramx.integrations.torch.places import LISTED, Places, rebuild_wrappers
from vramx.integrations.torch.storages import Placement, storage_key
from vramx.integrations.torch.tensors import each_once, refusal, registered_tensors, tensors_of

if TYPE_CHECKING:
    from vramx.integrations.torch.loading import Incoming


def _refused(module: nn.Module, device: torch.device, *, meta: bool) -> dict[str, str]:
    told = {
        name: refusal(each, device, meta=meta) for name, each in registered_tensors(module).items()
    }
    return {name: why for name, why in told.items() if why is not None}


def _listed(reasons: dict[str, str]) -> str:
    told = [f"{name} {why}" for name, why in reasons.items()]
    more = len(told) - LISTED
    return "; ".join(told[:LISTED]) + (f"; and {more} more" if more > 0 else "")


def refuse(module: nn.Module, name: str, device: torch.device, *, meta: bool) -> None:
    """Refuse a module with tensors that cannot be managed.

    Parameters
    ----------
    module : torch.nn.Module
        The module.
    name : str
        How errors call it.
    device : torch.device
        The card as torch calls it.
    meta : bool
        Whether meta tensors are welcome, since their bytes come from elsewhere.

    Raises
    ------
    ConfigError
        Which names them.
    """
    if refused := _refused(module, device, meta=meta):
        raise ConfigError(f"{name} cannot be managed: {_listed(refused)}")


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """Handle tensors as plain bytes: no gradients, no inference mode, no class of their own."""
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch._C.DisableTorchFunctionSubclass(),
    ):
        yield


class Look(NamedTuple):
    """What was found when a module was looked at again."""

    left_out: dict[str, str]
    pending: bool


class ModuleMemory:
    """The memory of a session's in which a managed module's bytes lie.

    It does not hold the module.

    Parameters
    ----------
    torch_core : TorchCore
        What the session's torch side stands on.
    module : torch.nn.Module
        The module.
    name : str
        How reports call it.

    Attributes
    ----------
    places : Places
        Where its bytes lie.
    digests : Digests or None
        What its weights are compared with, in checking mode.
    left_out : dict of str to str
        By a tensor's name: why it is not in the session's memory.
    look_again : bool
        Whether there was something, at the last look, that may be taken in at the next one.
    """

    def __init__(self, torch_core: TorchCore, module: nn.Module, name: str) -> None:
        self.name = name
        self.places = Places(torch_core, name)
        self.digests = Digests(torch_core) if torch_core.keep_digests else None
        self.left_out: dict[str, str] = {}
        self.look_again = False
        self._module = weakref.ref(module)
        self._core = torch_core.core
        self._device = torch_core.device
        self._known: set[int] = set()  # the tensors as of the last look, by identity

    @property
    def module(self) -> nn.Module | None:
        """The module; None where the program has let go of it."""
        return self._module()

    def take_in(self, module: nn.Module, placement: Placement, incoming: Incoming | None) -> None:
        """Move all of the module's bytes in; see `Places.take_in`."""
        self.places.take_in(module, tensors_of(module), placement, incoming)
        self._follow_digests(module)

    def note_known(self, module: nn.Module) -> None:
        """Take the tensors that there are now for known."""
        self._known = {id(each) for each in tensors_of(module).values()}

    def take_in_new(self, module: nn.Module) -> Look:
        """Move in what the module holds now that is elsewhere and can be had."""
        tensors = tensors_of(module)
        refused = _refused(module, self._device, meta=False)
        shared = Counter(map(storage_key, each_once(tensors.values())))
        new, left_out, pending = {}, dict(refused), False
        held = set()
        for name, tensor in tensors.items():
            found = storage_range(tensor)
            if found is None or any(
                name == each or name.startswith(f"{each}.") for each in refused
            ):
                continue
            if found[0] in self.places:
                held.add(found[0])
                continue
            here = tensor.device == self._device
            if here and tensors_on(tensor.untyped_storage()) > shared[found[0]]:
                left_out[name] = "shares its bytes with a tensor outside of the module"
            elif here and id(tensor) not in self._known:
                pending = True  # it may be there for one call alone
            else:
                new[name] = tensor
        self.places.forget_all_but(held)
        placement = Placement(module, revocable=True)
        try:
            self.places.take_in(module, new, placement, None)
        except BaseException:
            placement.revoke()
            raise
        placement.settle()
        return Look(left_out, pending)

    def note(self, look: Look, module: nn.Module) -> None:
        """Take what a look found for known, once it is leased, and warn of what is left out."""
        self.note_known(module)
        self.look_again = look.pending
        self._follow_digests(module)
        self._tell(look.left_out)

    def _follow_digests(self, module: nn.Module) -> None:
        if self.digests is not None:
            self.digests.follow(
                {
                    name: each
                    for name, each in tensors_of(module).items()
                    if self.places.is_weight(each)
                }
            )

    def _tell(self, left_out: dict[str, str]) -> None:
        """Warn of tensors that are not in the session's memory, once."""
        new = {name: why for name, why in left_out.items() if name not in self.left_out}
        self.left_out = left_out
        if new:
            warnings.warn(
                f"vramx does not manage what {self.name} holds now in {_listed(new)}. It is used "
                "where it is",
                RuntimeWarning,
                stacklevel=2,
            )

    def evict(self, tensors: list[torch.Tensor]) -> None:
        """Take what some tensors of its module lie in off the card."""
        self._core.evict([*self.places.ranges_of(tensors).items()])

    def put_back(self, tensors: list[torch.Tensor]) -> None:
        """Move the bytes of tensors, each once, back where they came from.

        Raises
        ------
        InUseError
            If a lease or a pin holds some of them; nothing has changed.
        """
        with plainly():
            self.places.put_back(tensors)
            if (module := self.module) is not None:
                rebuild_wrappers(module, None)

    def replace(self, tensor: torch.Tensor, known: torch.UntypedStorage) -> None:
        """Put what a call gave a tensor in the place of its bytes; see `Places.replace`."""
        with plainly():
            self.places.replace(tensor, known)
