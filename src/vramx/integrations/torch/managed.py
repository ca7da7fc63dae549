"""A managed module: its bytes in a session's memory, its calls leased, and all put back."""

from __future__ import annotations

import contextlib
import threading
import warnings
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vramx.errors import ConfigError, InUseError
from vramx.integrations.torch.digests import Digests
from vramx.integrations.torch.internals.layout import tensors_on
from vramx.integrations.torch.leases import Leases
from vramx.integrations.torch.memory import storage_range
from vramx.integrations.torch.places import Places, rebuild_wrappers
from vramx.integrations.torch.storages import Placement, storage_key
from vramx.integrations.torch.tensors import each_once, refusal, registered_tensors, tensors_of
from vramx.seeing.usage import ModuleStats
from vramx.units import format_size

if TYPE_CHECKING:
    from vramx.integrations.torch.bridge import TorchBridge
    from vramx.integrations.torch.loading import Incoming
    from vramx.integrations.torch.units import Unit

#: What is replaced in so many passes in a row is left where it is.
RESTLESS = 3

#: How many reasons a message gives.
_LISTED = 5

_owners: weakref.WeakKeyDictionary[nn.Module, TorchBridge] = weakref.WeakKeyDictionary()


def managing_session_of(module: nn.Module) -> TorchBridge | None:
    """Return the bridge of the session that manages a module, if one does."""
    return _owners.get(module)


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
    refused = [
        f"{place} {why}"
        for place, tensor in registered_tensors(module).items()
        if (why := refusal(tensor, device, meta=meta)) is not None
    ]
    if refused:
        raise ConfigError(f"{name} cannot be managed: {_listed(refused)}")


def _listed(reasons: list[str]) -> str:
    more = len(reasons) - _LISTED
    return "; ".join(reasons[:_LISTED]) + (f"; and {more} more" if more > 0 else "")


def _nothing(*_: Any) -> None:
    """Stand in for a hook in a copy of a managed module, which is not managed."""


def _return_nothing() -> Any:
    return _nothing


class _BeforeLoad:
    """Takes a module off the card before it is loaded: written in place, the host is faster."""

    def __init__(self, managed: ManagedModule) -> None:
        self._managed = weakref.ref(managed)

    def __call__(self, *_: Any) -> None:
        if (managed := self._managed()) is not None:
            managed.evict()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return _nothing

    def __reduce__(self) -> Any:
        return (_return_nothing, ())


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    """Handle tensors as plain bytes: no gradients, no inference mode, no class of their own."""
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch._C.DisableTorchFunctionSubclass(),
    ):
        yield


class ManagedModule:
    """A module in a session's charge.

    It does not hold the module: the calls in the module's parts hold it, so that what a program
    lets go of goes.

    Parameters
    ----------
    bridge : TorchBridge
        The session's torch side.
    module : torch.nn.Module
        The module.
    name : str
        How reports call it.
    incoming : Incoming, optional
        Bytes to take in place of the module's own.

    Attributes
    ----------
    places : Places
        Where its bytes lie.
    callers : list of int
        The threads of its calls that are under way.
    left_out : dict of str to str
        By a tensor's name: why it is not in the session's memory.

    Raises
    ------
    ConfigError
        If a tensor cannot be managed; nothing has changed.
    OutOfMemoryError
        If its memory cannot be had; nothing has changed.
    """

    def __init__(
        self,
        bridge: TorchBridge,
        module: nn.Module,
        name: str,
        incoming: Incoming | None = None,
    ) -> None:
        self._module = weakref.ref(module)
        self.name = name
        self.bridge = bridge
        self.callers: list[int] = []
        self.left_out: dict[str, str] = {}
        self.units: weakref.WeakSet[Unit] = weakref.WeakSet()
        self._core = bridge.core
        self.places = Places(bridge)
        self._leases: Any = lambda: None
        self._hook: Any = None
        self._digests: Digests | None = None
        self._following = threading.Lock()
        self._known: set[int] = set()  # the tensors as of the last look, by identity
        self._look_again = False
        self._passes = 0
        self._looked_in = 0  # the pass in which all was looked at
        refuse(module, name, bridge.device, meta=incoming is not None)
        placement = Placement(module, revocable=incoming is not None)
        try:
            with _plainly():
                self.places.take_in(module, tensors_of(module), placement, incoming)
                if bridge.keep_digests:
                    self._digests = Digests(bridge)
                    self._digests.follow(self._weights(module))
                leases = Leases(self)  # which the module's call holds in the end
                self._leases = weakref.ref(leases)
                leases.make(module)
            self._known = {id(each) for each in tensors_of(module).values()}
            if not isinstance(module, torch.jit.ScriptModule):  # which has no such hooks
                self._hook = module.register_load_state_dict_pre_hook(_BeforeLoad(self))
            for each in module.modules():
                _owners[each] = bridge
            bridge.add(self)
        except BaseException:
            placement.revoke()
            self.put_back()
            raise
        placement.settle()

    @property
    def module(self) -> nn.Module | None:
        """The module; None where the program has let go of it."""
        return self._module()

    @property
    def nbytes(self) -> int:
        """Bytes in the session's charge."""
        return sum(self.places.ranges_of(self._tensors()).values())

    def usage(self) -> list[ModuleStats]:
        """Count what was done with the leased modules, in the order of registration."""
        leases = self._leases()
        return [] if leases is None else leases.usage()

    def describe(self) -> list[str]:
        """Describe it in a line, and in others what of it is not in the session's memory."""
        leases = self._leases()
        units = len(self.units) if leases is None else len(leases.units)
        left_out = (f"{name} {why}" for name, why in self.left_out.items())
        return [
            f"{self.name}: {format_size(self.nbytes)} in {units} units",
            *(f"{self.name}, not in the session's memory: {each}" for each in left_out),
        ]

    def _tensors(self) -> list[torch.Tensor]:
        """List the module's tensors, and those of parts that outlive it, each once."""
        module = self.module
        tensors = [] if module is None else list(tensors_of(module).values())
        tensors += [tensor for unit in [*self.units] for tensor in unit.tensors]
        return each_once(tensors)

    def _weights(self, module: nn.Module) -> dict[str, torch.Tensor]:
        return {
            name: each for name, each in tensors_of(module).items() if self.places.is_weight(each)
        }

    # What the program does to the module meanwhile

    def begin_pass(self) -> None:
        """See whether there are other modules now, and take in what they hold."""
        self._passes += 1
        leases = self._leases()
        if leases is not None and (self._look_again or leases.changed()):
            self._look(leases)

    def look_at(self, unit: Unit) -> None:
        """See what a module holds now that is about to be called, and what the others do.

        All are looked at once in a pass. What changes in each pass is left where it is.
        """
        if unit.restless_in != self._passes:
            follows = unit.restless_in == self._passes - 1
            unit.restless = unit.restless + 1 if follows else 1
            unit.restless_in = self._passes
        leases = self._leases()
        settles = unit.restless < RESTLESS
        if leases is not None and settles and self._looked_in != self._passes:
            self._looked_in = self._passes
            self._look(leases)
        if unit.call.changed:
            self._look_again |= settles
            with self._following, _plainly(), contextlib.suppress(InUseError):
                unit.lease_again()

    def look(self) -> None:
        """See what the module holds now, and take that in, also what could not be before."""
        leases = self._leases()
        if leases is None:
            return
        if self._look_again or self.left_out or leases.changed() or leases.changed_within():
            self._look(leases)

    def _look(self, leases: Leases) -> None:
        """Follow the module, unless another thread runs it: what that uses stays as it is."""
        with self._following:
            module = self.module
            if module is None or any(each != threading.get_ident() for each in self.callers):
                return
            with _plainly(), contextlib.suppress(InUseError):
                self._follow(module, leases)

    def _follow(self, module: nn.Module, leases: Leases) -> None:
        tensors = tensors_of(module)
        refused = self._refused(module)
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
            here = tensor.device == self.bridge.device
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
        leases.follow(module)
        leases.note_contents(module)
        self._known = {id(each) for each in tensors_of(module).values()}
        self._look_again = pending
        if self._digests is not None:
            self._digests.follow(self._weights(module))
        for each in module.modules():
            _owners[each] = self.bridge
        self._tell(left_out)

    def _refused(self, module: nn.Module) -> dict[str, str]:
        device = self.bridge.device
        told = {
            name: refusal(each, device, meta=False)
            for name, each in registered_tensors(module).items()
        }
        return {name: why for name, why in told.items() if why is not None}

    def _tell(self, left_out: dict[str, str]) -> None:
        """Warn of tensors that are not in the session's memory, once."""
        new = [f"{name} {why}" for name, why in left_out.items() if name not in self.left_out]
        self.left_out = left_out
        if new:
            warnings.warn(
                f"vramx does not manage what {self.name} holds now in {_listed(new)}. It is used "
                "where it is",
                RuntimeWarning,
                stacklevel=2,
            )

    def replace(self, tensor: torch.Tensor, known: torch.UntypedStorage) -> None:
        """Put what a call gave a tensor in the place of its bytes; see `Places.replace`."""
        with _plainly():
            self.places.replace(tensor, known)

    def count_buffer_as_written(self, address: int) -> None:
        """Take a buffer at an address for written at each call that uses it."""
        leases = self._leases()
        if leases is not None and self.places.is_buffer(address):
            leases.count_as_written(address)

    def note_writes(self) -> None:
        """Report weights that were changed in place since the last look."""
        if (leases := self._leases()) is not None:
            leases.note_writes()

    def note_writes_that_leave(self) -> None:
        """Report those that would be lost where something leaves the card."""
        if (leases := self._leases()) is not None:
            leases.note_writes_that_leave()

    def verify(self) -> None:
        """Look for writes that nobody was told of, in checking mode."""
        if self._digests is not None:
            self.look()  # what lies elsewhere now has no digest
            self._digests.verify()

    def forget_digests(self, ranges: list[tuple[int, int]]) -> None:
        """Accept the present bytes of written ranges; see `Digests`."""
        if self._digests is not None:
            self._digests.accept(ranges)

    # Back

    def evict(self) -> None:
        """Take everything off the card."""
        self.note_writes()
        self._core.evict([*self.places.ranges_of(self._tensors()).items()])

    def check_idle(self) -> None:
        """Raise where it is running.

        Raises
        ------
        InUseError
            If a call of it is under way.
        """
        if self.callers:
            raise InUseError(
                f"{self.name} is running: {len(self.callers)} calls of it are under way; let them "
                "end first"
            )

    def put_back(self) -> None:
        """Move everything back where it came from and restore the calls.

        Raises
        ------
        InUseError
            If it is running, or a lease or a pin holds some of it; nothing has changed.
        """
        self.check_idle()
        self.note_writes()
        module = self.module
        with _plainly():
            self.places.put_back(self._tensors())
            if module is not None:
                rebuild_wrappers(module, None)
        leases = self._leases()
        if leases is not None:
            if module is not None and managing_session_of(module) is self.bridge:
                leases.remember()
            leases.undo()
        for unit in [*self.units]:  # of parts that outlive the module
            unit.end()
        if self._hook is not None:
            self._hook.remove()
        if module is not None:
            for each in module.modules():
                _owners.pop(each, None)
