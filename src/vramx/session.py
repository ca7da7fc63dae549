"""Sessions: a budget on a card, and what is kept inside it."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from vramx import _core, config
from vramx.advice import Advice, native_advice
from vramx.card import card_memory, free_bytes, open_card
from vramx.errors import ConfigError, Error, SessionClosedError
from vramx.stats import Stats
from vramx.units import LARGEST, Size, format_size, parse_size

if TYPE_CHECKING:
    from vramx.integrations.torch import TorchBridge

T = TypeVar("T")

#: The open sessions, the one opened or entered last at the end.
open_sessions: list[Session] = []

_POLICY_METHODS = ("arrived", "touched", "left", "victim")

#: Start address and bytes.
Range = tuple[int, int]


def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def _ordinal(device: Any) -> int:
    if device is None:
        return 0
    kind, _, index = str(device).partition(":")
    if isinstance(device, int) and not isinstance(device, bool):
        kind, index = "cuda", str(device)
    if kind == "cuda" and (not index or (index.isdecimal() and len(index) < 6)):
        return int(index or 0)
    raise ConfigError(f'device {device!r} is not a card: give a number from 0, or text as "cuda:0"')


def _policy(policy: Any) -> tuple[Any, bool]:
    """Tell the native policy and whether what comes next is brought ahead."""
    known = ("adaptive", *_core.policy_names())
    if isinstance(policy, str):
        if policy not in known:
            raise ConfigError(
                f"unknown policy {policy!r}; give one of {', '.join(known)}, or an object with "
                "the methods arrived, touched, left and victim"
            )
        return ("lru", True) if policy == "adaptive" else (policy, False)
    lacking = [name for name in _POLICY_METHODS if not callable(getattr(policy, name, None))]
    if lacking:
        raise ConfigError(
            f"policy {policy!r} has no {', '.join(lacking)}; give one of {', '.join(known)}, or an "
            "object with the methods arrived, touched, left and victim"
        )
    return policy, False


class Session:
    """A budget of a card's memory and everything kept inside it. Made by `oversubscribe`.

    Inside ``with session:`` the torch CUDA allocations of the entering thread are vramx's. Leaving
    the scope closes the session: managed modules go back where they came from, and tensors made in
    it stay readable. On an exception the same happens.

    Attributes
    ----------
    device : _core.Device
        The card; for the simulated one also its clock and fault injection.
    """

    def __init__(
        self,
        budget: Size | None,
        *,
        device: Any,
        backend: str,
        policy: Any,
        block: Size,
        reserve: Size,
        host_limit: Size | None,
    ) -> None:
        settings = config.from_environment()
        block_bytes = parse_size(block, "block")
        reserve_bytes = parse_size(reserve, "reserve") if reserve != 0 else 0
        limit = LARGEST if host_limit is None else parse_size(host_limit, "host_limit")
        native_policy, adaptive = _policy(policy)
        asked = None if budget is None else parse_size(budget, "budget")
        self.device = open_card(backend, _ordinal(device), block_bytes, settings)
        if asked is None:
            asked = free_bytes(self.device) - reserve_bytes
            if asked < block_bytes:
                raise ConfigError(
                    f"{self.device.name} has {format_size(max(asked + reserve_bytes, 0))} free, "
                    f"less than the reserve of {format_size(reserve_bytes)} and one block of "
                    f"{format_size(block_bytes)}: free some, or pass budget, reserve or block"
                )
            asked -= asked % block_bytes
        self._core = _core.Core(
            device=self.device,
            budget=asked,
            block=block_bytes,
            policy=native_policy,
            adaptive=adaptive,
            threaded=self.device.asynchronous,
            host_limit=limit,
        )
        self._check = settings.check
        self._torch_bridge: TorchBridge | None = None
        self._scopes = contextlib.ExitStack()
        self._depth = 0
        self._keep = False
        self._closed = False
        open_sessions.append(self)

    # Scope

    def __enter__(self) -> Session:
        self._usable()
        if self._depth == 0:
            if self in open_sessions:
                open_sessions.remove(self)
            open_sessions.append(self)
            if _has_torch():
                self._scopes.enter_context(self._torch.route())
        self._depth += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._depth == 0:
            return
        self._depth -= 1
        if self._depth > 0:
            return
        if error is not None and self._torch_bridge is not None:
            self._torch_bridge.explain(error)
        self._scopes.close()
        if not self._keep:
            self.close()

    def keep(self) -> None:
        """Let the session outlive its scope: managed modules stay managed until `close`."""
        self._keep = True

    def close(self) -> None:
        """Put managed modules back where they came from and take no more work. Twice is fine.

        Raises
        ------
        InUseError
            If a managed module is running in another thread; the session stays open.
        """
        if self._closed:
            return
        if self._torch_bridge is not None:
            self._torch_bridge.close()
        self._core.close()
        self._closed = True
        if self in open_sessions:
            open_sessions.remove(self)

    @contextlib.contextmanager
    def route(self) -> Iterator[None]:
        """Give another thread's torch CUDA allocations to this session, for a scope.

        Torch routes allocations a thread at a time: entering the session covers the entering
        thread only. Autograd's and other worker threads need this call of their own.
        """
        self._usable()
        with self._torch.route():
            yield

    def _usable(self) -> None:
        """Raise if closed; and see what was written, before anything that may evict it."""
        if self._closed:
            raise SessionClosedError(
                "this session is closed; open another with vramx.oversubscribe()"
            )
        if self._torch_bridge is not None:
            self._torch_bridge.note_writes()

    @property
    def _torch(self) -> TorchBridge:
        if self._torch_bridge is None:
            from vramx.integrations.torch import TorchBridge

            self._torch_bridge = TorchBridge(self._core, self.device, check=self._check)
        return self._torch_bridge

    # What is managed

    def manage(self, module: T, *, name: str | None = None) -> T:
        """Take charge of the weights and buffers of a torch module, or of a pipeline's modules.

        Their bytes move to host copies that vramx brings to the card when the module that owns them
        runs. Parameters keep their identity, names, ties and hooks. Compile before managing: a
        compiled module is brought as one.

        Parameters
        ----------
        module : torch.nn.Module or pipeline
            On the CPU or on the session's card. A pipeline is an object whose ``components`` map
            names to parts, as diffusers has it; those that are modules are managed, each by itself.
        name : str, optional
            How reports call it; its class's name unless given.

        Returns
        -------
        torch.nn.Module
            The same object.

        Raises
        ------
        ConfigError
            If it is no module, is managed already, or has tensors that cannot be managed (meta,
            sparse, quantised, subclassed, on another device); each is named. Nothing has changed.
        OutOfMemoryError
            If the host, ``host_limit`` or ``VRAMX_MANAGED_LIMIT`` cannot hold it.
        """
        self._usable()
        self._torch.manage(module, name)
        return module

    def unmanage(self, module: T) -> T:
        """Put a managed module back on the device it came from.

        Parameters
        ----------
        module : torch.nn.Module
            What `manage` was given.

        Returns
        -------
        torch.nn.Module
            The same object.

        Raises
        ------
        ConfigError
            If this session does not manage it.
        InUseError
            If it is running or pinned.
        """
        self._usable()
        self._torch.unmanage(module)
        return module

    def empty(self, shape: int | Iterable[int], dtype: Any = None) -> Any:
        """Make an uninitialised array in the session's memory.

        It is tracked and evicted like any activation. On the simulated device read or write a numpy
        view inside ``with session.pin(x)``: what is evicted is poisoned.

        Parameters
        ----------
        shape : int or iterable of int
            The shape.
        dtype : torch.dtype or numpy dtype, optional
            A torch dtype, the default, gives a tensor; a numpy one gives an array, on the simulated
            device only.

        Returns
        -------
        torch.Tensor or numpy.ndarray
            An array that keeps its memory alive, also beyond the session.

        Raises
        ------
        ConfigError
            If the shape or the dtype is not allowed.
        OutOfMemoryError
            If it cannot be had.
        """
        self._usable()
        from vramx.arrays import checked_shape, numpy_array, numpy_dtype

        sizes = checked_shape(shape)
        numpy_type = numpy_dtype(dtype)
        if numpy_type is None:
            return self._torch.empty(sizes, dtype)
        if self.device.kind != "simulated":
            raise ConfigError(
                f"numpy arrays live in host memory; on {self.device.name} give a torch dtype"
            )
        return numpy_array(self._core, sizes, numpy_type)

    # Moves

    def prefetch(self, x: Any) -> None:
        """Start bringing `x` to the card, as far as room can be made. Returns at once.

        Parameters
        ----------
        x : tensor, module, array, or iterable of them
            What is about to be used.
        """
        self._core.prefetch(self._ranges(x))

    def evict(self, x: Any) -> None:
        """Take `x` off the card: clean weights without a copy, the rest by writing back.

        Parameters
        ----------
        x : tensor, module, array, or iterable of them
            What is not needed for a while.

        Raises
        ------
        InUseError
            If a running module or a pin holds some of it; nothing has moved then.
        """
        self._core.evict(self._ranges(x))

    @contextlib.contextmanager
    def pin(self, x: T) -> Iterator[T]:
        """Keep `x` on the card for a scope.

        Parameters
        ----------
        x : tensor, module, array, or iterable of them
            What must stay; it is given back by ``with``.

        Raises
        ------
        OutOfMemoryError
            If it does not fit the budget and the card cannot use host memory in place.
        """
        ranges = self._ranges(x)
        self._core.take(ranges, self._stream(), False)
        try:
            yield x
        finally:
            self._core.give(ranges, self._stream(), False)

    def advise(self, x: Any, advice: Advice) -> None:
        """Say how `x` is used.

        Parameters
        ----------
        x : tensor, module, array, or iterable of them
            Whose blocks the advice is for; small tensors share blocks.
        advice : Advice
            The advice.

        Raises
        ------
        ConfigError
            If the advice is unknown or the card cannot follow it.
        """
        self._core.advise(self._ranges(x), native_advice(advice))

    def written(self, x: Any) -> None:
        """Report a write that vramx cannot see, such as one through ``p.data`` or raw pointers.

        In-place operations on parameters are seen by themselves, and buffers and activations always
        count as written.

        Parameters
        ----------
        x : tensor, module, array, or iterable of them
            What was written.
        """
        ranges = self._ranges(x)
        self._core.written(ranges)
        if self._torch_bridge is not None:
            self._torch_bridge.forget_digests(ranges)

    def set_budget(self, budget: Size) -> int:
        """Change the budget; on return it is kept.

        Parameters
        ----------
        budget : int, float or str
            Bytes or text.

        Returns
        -------
        int
            The previous budget in bytes.

        Raises
        ------
        ConfigError
            If it is not a size between one block and the card's memory.
        OutOfMemoryError
            If leases and pins hold more; the budget is unchanged.
        """
        self._usable()
        return self._core.set_budget(parse_size(budget, "budget"))

    # Seeing it

    def stats(self) -> Stats:
        """Count what was done since the session was opened.

        Returns
        -------
        Stats
            The counts now.
        """
        native = self._core.stats()
        counts = {
            name: getattr(native, name)
            for name in Stats.__dataclass_fields__
            if hasattr(native, name)
        }
        if isinstance(self.device, _core.SimulatedDevice):
            counts["stall_seconds"] = self.device.stalled
        if self._torch_bridge is not None:
            counts["passes"] = self._torch_bridge.passes
            counts["unleased_touches"] = self._torch_bridge.unleased_touches
        return Stats(**counts)

    def report(self) -> str:
        """Describe the session for people.

        Returns
        -------
        str
            The card, who else holds its memory, the managed modules and the counts.
        """
        lines = [f"vramx on {self.device.name} ({self.device.kind})"]
        if self.device.uuid:
            with contextlib.suppress(Exception):  # NVML is a courtesy here
                memory = card_memory(self.device.uuid)
                lines.append(
                    f"  card: {format_size(memory.free)} of {format_size(memory.total)} free, "
                    f"{format_size(sum(memory.others.values()))} in {len(memory.others)} others"
                )
        if self._torch_bridge is not None:
            lines += [f"  module {line}" for line in self._torch_bridge.describe()]
        lines.append(self.stats().table())
        return "\n".join(lines)

    def _stream(self) -> int:
        return self._torch_bridge.stream() if self._torch_bridge is not None else 0

    def _ranges(self, x: Any) -> list[Range]:
        self._usable()
        from vramx.arrays import array_ranges

        ranges = array_ranges(x)
        if ranges is None and _has_torch():
            ranges = self._torch.ranges(x)
        if ranges is not None:
            return ranges
        if isinstance(x, Iterable) and not isinstance(x, (str, bytes)):
            return [each for item in x for each in self._ranges(item)]
        raise ConfigError(
            f"{type(x).__name__} is not a tensor, a module, an array or an iterable of them"
        )


def current_session() -> Session:
    """Return the innermost open session.

    Returns
    -------
    Session
        The one opened or entered last.

    Raises
    ------
    Error
        If none is open.
    """
    if not open_sessions:
        raise Error("no session is open; open one with vramx.oversubscribe()")
    return open_sessions[-1]
