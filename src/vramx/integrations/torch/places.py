"""Where a managed module's bytes lie in a session's memory, and where they came from."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase as _Norm

from vramx import _core
from vramx.errors import ConfigError
from vramx.integrations.torch.core import TorchCore
from vramx.integrations.torch.internals.layout import (
    COUNTS_USES,
    FOUND_LAYOUT,
    has_version,
    storage_address,
    tensors_on,
)
from vramx.integrations.torch.memory import as_bytes, bytes_of, storage_range, view_like
from vramx.integrations.torch.moving import moved_in
from vramx.integrations.torch.storages import (
    Placement,
    Storage,
    empty_twin,
    set_data,
    shared_storages,
    split,
)
from vramx.integrations.torch.tensors import (
    each_once,
    is_wrapper,
    parts_of,
    rebuild,
    registered_tensors,
    tensors_of,
)

if TYPE_CHECKING:
    from vramx.integrations.torch.loading import Incoming


#: How many tensors a message names.
LISTED = 5


#: What the core calls the types that it packs.
_PACKED_TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


def _type_of(tensors: list[torch.Tensor]) -> str:
    """Name the type of tensors that lie in the same bytes; nothing where it is not one."""
    types = {tensor.dtype for tensor in tensors}
    return _PACKED_TYPES.get(types.pop(), "") if len(types) == 1 else ""


@dataclass(frozen=True)
class _Place:
    """Where bytes of a module lie in the session's memory, and where they came from."""

    memory: weakref.ref[_core.Memory]
    address: int
    nbytes: int
    purpose: _core.Purpose
    home: torch.device
    origin: object  # the same for all parts of one storage
    start: int  # where in that they were
    has_parameter: bool
    type: str
    name: str  # for errors

    @property
    def range(self) -> tuple[int, int]:
        return self.address, self.nbytes


def _written_unseen(module: nn.Module) -> set[int]:
    """Identify the tensors that torch writes to without counting it: running statistics."""
    return {
        id(buffer)
        for each in module.modules()
        if isinstance(each, _Norm)
        for buffer in each._buffers.values()
    }


class Places:
    """The pieces of a session's memory in which a managed module's bytes lie.

    Parameters
    ----------
    torch_core : TorchCore
        What the session's torch side stands on.
    name : str
        How reports call the module.
    """

    def __init__(self, torch_core: TorchCore, name: str) -> None:
        self._torch_core = torch_core
        self._name = name
        self._core = torch_core.core
        self._device = torch_core.device
        self._two_copies = torch_core.two_copies
        # Storages are pointed at one of two copies, so it must be known where they say it.
        self._takes_weights = FOUND_LAYOUT or not torch_core.points_elsewhere
        self._places: dict[int, _Place] = {}
        self._absent: set[int] = set()
        self._packed: set[int] = set()
        #: Where something may be written unseen while it is used.
        self.written_unseen: set[int] = set()

    def __contains__(self, address: int) -> bool:
        return address in self._places

    def ranges_of(self, tensors: Iterable[torch.Tensor]) -> dict[int, int]:
        """Tell where those of some tensors lie that are in places: addresses and bytes."""
        found = (storage_range(tensor) for tensor in tensors)
        return {each[0]: each[1] for each in found if each is not None and each[0] in self}

    def is_weight(self, tensor: torch.Tensor) -> bool:
        """Tell whether a tensor lies in memory for weights."""
        found = storage_range(tensor)
        return found is not None and self.weight_at(found[0]) is not None

    def weight_at(self, address: int) -> tuple[int, int] | None:
        """Tell which weights begin at an address: it and their bytes, or None."""
        place = self._places.get(address)
        return place.range if place is not None and place.purpose is _core.Purpose.WEIGHTS else None

    def weights(self) -> list[tuple[int, int]]:
        """List where weights lie: addresses and bytes."""
        return [
            place.range for place in self._places.values() if place.purpose is _core.Purpose.WEIGHTS
        ]

    def _unpacked(self) -> list[_Place]:
        return [
            place
            for place in self._places.values()
            if place.purpose is _core.Purpose.WEIGHTS and place.address not in self._packed
        ]

    @property
    def unpacked_bytes(self) -> int:
        """Bytes of weights of which no packed copy was tried yet."""
        return sum(place.nbytes for place in self._unpacked())

    def pack(self) -> None:
        """Give weights packed copies, each once; not yet where the card has no room for that."""
        new = self._unpacked()
        weights = [(*place.range, place.type, place.name) for place in new]
        if weights and self._torch_core.packing.make(weights):
            self._packed |= {place.address for place in new}

    def is_buffer(self, address: int) -> bool:
        """Tell whether no parameter lies in the place at an address."""
        return address in self and not self._places[address].has_parameter

    def _storages(
        self, module: nn.Module, tensors: dict[str, torch.Tensor], incoming: Incoming | None
    ) -> dict[_core.Purpose, list[Storage]]:
        """Collect what lies in these tensors' storages, each once, by what it is for."""
        parameters = {id(part) for p in module.parameters() for _, part in parts_of(p)}
        unseen = _written_unseen(module)
        by_purpose: dict[_core.Purpose, list[Storage]] = {
            _core.Purpose.WEIGHTS: [],
            _core.Purpose.SCRATCH: [],
        }
        for key, held in shared_storages(list(tensors.values())).items():
            if key is None:
                continue
            if incoming is not None:
                storages = [incoming.storage(held[0])]
                parts = [held]
            else:
                spans = split(held)
                storages = [Storage(each[0], start, size) for start, size, each in spans]
                parts = [each for _, _, each in spans]
            for storage, inside in zip(storages, parts):
                storage.origin = storages[0].origin
                for tensor in inside:
                    storage.add(tensor, is_weight=id(tensor) in parameters)
                # Of weights with two copies it must be known which one was written last.
                seen = storage.counts_writes or (storage.is_weight and not self._two_copies)
                is_weight = (
                    seen
                    and self._takes_weights
                    and not any(id(tensor) in unseen for tensor in inside)
                )
                by_purpose[_core.Purpose.WEIGHTS if is_weight else _core.Purpose.SCRATCH].append(
                    storage
                )
        return by_purpose

    def _refuse_weights(self, storages: list[Storage], tensors: dict[str, torch.Tensor]) -> None:
        """Refuse those that would never leave the card."""
        found = {id(each) for storage in storages if storage.is_weight for each in storage.tensors}
        names = [name for name, tensor in tensors.items() if id(tensor) in found]
        if not names:
            return
        why = (
            "were made in inference mode, so that torch does not count their changes: make them "
            "outside of it"
            if self._takes_weights
            else f"lie where vramx does not find them in torch {torch.__version__}: use a release "
            "that it knows"
        )
        raise ConfigError(
            f"weights that only unified memory can hold cannot be managed on this card, which has "
            f"no concurrent managed access: {', '.join(names[:LISTED])}"
            f"{' and more' if len(names) > LISTED else ''} {why}"
        )

    def take_in(
        self,
        module: nn.Module,
        tensors: dict[str, torch.Tensor],
        placement: Placement,
        incoming: Incoming | None,
    ) -> None:
        """Move tensors' bytes to the session's memory.

        Parameters
        ----------
        module : torch.nn.Module
            Whose tensors they are.
        tensors : dict of str to torch.Tensor
            Plain tensors by name, which lie elsewhere.
        placement : Placement
            Gives tensors other bytes.
        incoming : Incoming, optional
            Bytes to take in place of the tensors' own.

        Raises
        ------
        OutOfMemoryError
            If the host, ``host_limit`` or ``VRAMX_MANAGED_LIMIT`` cannot hold it.
        ConfigError
            If there are weights that only unified memory can hold, and the card has none.
        """
        by_purpose = self._storages(module, tensors, incoming)
        names = {id(tensor): name for name, tensor in tensors.items()}
        if not self._torch_core.managed_access:
            self._refuse_weights(by_purpose[_core.Purpose.SCRATCH], tensors)
        for purpose, storages in by_purpose.items():
            for batch in moved_in(self._core, storages, purpose):
                self._put(batch, purpose, placement, names)
                if not self._torch_core.keeps_raw:
                    self.pack()  # so that the host never holds all of them raw
        device = self._device
        for tensor in tensors_of(module).values():
            if tensor.numel() == 0 and tensor.device != device:
                placement.put(tensor, empty_twin(tensor, device))
        rebuild_wrappers(module, device)

    def _put(
        self,
        moved: list[tuple[Storage, _core.Memory]],
        purpose: _core.Purpose,
        placement: Placement,
        names: dict[int, str],
    ) -> None:
        """Have tensors lie where their storages were moved."""
        for storage, memory in moved:
            raw = as_bytes(memory)
            self._places[memory.address] = _Place(
                memory=weakref.ref(memory),
                address=memory.address,
                nbytes=memory.nbytes,
                purpose=purpose,
                home=storage.home,
                origin=storage.origin,
                start=storage.start,
                has_parameter=storage.is_weight,
                type=_type_of(storage.tensors),
                name=".".join(filter(None, (self._name, names[id(storage.tensors[0])]))),
            )
            if purpose is _core.Purpose.WEIGHTS:
                self._core.point(raw.untyped_storage()._cdata, memory.address, memory.nbytes)
            for tensor in storage.tensors:
                placement.put(tensor, storage.view(tensor, raw))

    def forget_all_but(self, held: set[int]) -> None:
        """Let go of places in which nothing lies, now and when last looked at."""
        gone = [
            address
            for address, place in self._places.items()
            if place.memory() is None or (address not in held and address in self._absent)
        ]
        for address in gone:
            self._packed.discard(address)
            if self._places.pop(address).memory() is not None and self._torch_core.keeps_raw:
                self._core.unpoint(address, 1)
        self._absent = self._places.keys() - held

    def replace(self, tensor: torch.Tensor, known: torch.UntypedStorage) -> None:
        """Put what a call gave a tensor, in the place of its bytes, where those were.

        Parameters
        ----------
        tensor : torch.Tensor
            A tensor that is leased now.
        known : torch.UntypedStorage
            The storage that it had, of the session's memory.
        """
        place = self._places.get(_core.card_address(storage_address(known)))
        storage = tensor.untyped_storage()
        if place is None or storage.nbytes() != place.nbytes:
            return
        is_alone = COUNTS_USES and tensors_on(storage) == 1 and tensors_on(known) == 0
        if not is_alone or tensor.device != self._device or not has_version(tensor):
            return
        raw: Any = torch.empty(0, dtype=torch.uint8, device=self._device)
        raw.set_(known)
        raw.copy_(bytes_of(tensor))
        self._core.written([place.range])
        set_data(tensor, view_like(tensor, raw))

    def put_back(self, tensors: Iterable[torch.Tensor]) -> None:
        """Move the bytes of tensors back where they came from; nothing lies in places any more.

        Parameters
        ----------
        tensors : iterable of torch.Tensor
            Each once.

        Raises
        ------
        InUseError
            If a lease or a pin holds some of them; nothing has changed.
        """
        inside: dict[int, list[torch.Tensor]] = {}
        for tensor in tensors:
            found = storage_range(tensor)
            if found is not None and found[0] in self:
                inside.setdefault(found[0], []).append(tensor)
        self._core.evict([self._places[address].range for address in inside])
        self._torch_core.finish()  # what the program wrote to host copies
        by_origin: dict[int, list[_Place]] = {}
        for address in inside:
            place = self._places[address]
            by_origin.setdefault(id(place.origin), []).append(place)
        for together in by_origin.values():
            self._put_back_together(together, inside)
        if self._torch_core.keeps_raw:  # else aliases that are left go on being leased
            for address in self._places:
                self._core.unpoint(address, 1)

    def _put_back_together(
        self, places: list[_Place], inside: dict[int, list[torch.Tensor]]
    ) -> None:
        """Put parts of one storage back into one."""
        first = min(place.start for place in places)
        size = max(place.start - first + place.nbytes for place in places)
        raw = torch.empty(size, dtype=torch.uint8, device="cpu")
        self._core.load(
            [
                (place.address, raw.data_ptr() + place.start - first, place.nbytes)
                for place in places
            ]
        )
        raw = raw.to(places[0].home)
        for place in places:
            for tensor in inside[place.address]:
                set_data(tensor, view_like(tensor, raw, first - place.start))


def rebuild_wrappers(module: nn.Module, device: torch.device | None) -> None:
    """Have wrappers say the device of their parts, which is this one if given."""
    for tensor in each_once(registered_tensors(module).values()):
        if not is_wrapper(tensor):
            continue
        there = device or next((part.device for _, part in parts_of(tensor)), tensor.device)
        if tensor.device != there:
            rebuild(tensor)
