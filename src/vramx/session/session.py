"""Sessions: a budget on a card, and what is kept inside it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from vramx import _core, config
from vramx.cards.nvml import NvmlCard, card_memory
from vramx.cards.opening import (
    card_ordinal,
    confined,
    free_bytes,
    open_card,
    slowed,
    unpinned,
)
from vramx.cards.watcher import BudgetWatcher, FreeMemory, checked_rule
from vramx.errors import ConfigError, Error, SessionClosedError
from vramx.seeing.plans import Plan, plan_of
from vramx.seeing.report import module_table
from vramx.seeing.stats import Stats
from vramx.seeing.trace import MOST_EVENTS, Trace
from vramx.seeing.usage import ModuleStats, the_rest
from vramx.session.absent import NoCard, NoCore, NothingFree, NoTorch
from vramx.session.advice import Advice, native_advice
from vramx.session.options import SessionOptions
from vramx.session.policy import Policy
from vramx.units import LARGEST, Size, format_size, parse_size

if TYPE_CHECKING:
    from vramx.integrations.torch import TorchBridge

T = TypeVar("T")

#: The open sessions, the one opened or entered last at the end.
open_sessions: list[Session] = []

#: Start address and bytes.
Range = tuple[int, int]


def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


class Session:
    """A budget of a card's memory and everything kept inside it. Made by `oversubscribe`.

    Inside ``with session:`` the torch CUDA allocations of the entering thread are vramx's. Leaving
    the scope closes the session: managed modules go back where they came from, and tensors made in
    it stay readable. On an exception the same happens.

    Attributes
    ----------
    device : Device
        The card; for the simulated one also its clock and fault injection.
    options : SessionOptions
        How it was opened.
    """

    def __init__(
        self,
        options: SessionOptions,
        *,
        policy: Policy | None = None,
        device: _core.Device | NoCard | None = None,
    ) -> None:
        settings = config.from_environment()
        if device is None:
            device = open_card(
                options.backend,
                card_ordinal(options.device),
                options.block_bytes,
                settings,
                accept_unpinned=options.on_unpinned == "warn",
            )
        self.options = options
        self.device = cast(_core.Device, device)
        self._core = cast(_core.Core, NoCore())
        if not isinstance(device, NoCard):
            self._core = self._open(settings, policy)
        self._watcher: BudgetWatcher | None = None
        self._told_unpinned = False
        self._last_plan: Plan | None = None
        self._check = settings.check
        self._torch_bridge: TorchBridge | None = None
        self._scopes = contextlib.ExitStack()
        self._depth = 0
        self._keep = False
        self._closed = False
        open_sessions.append(self)

    def _open(self, settings: config.Config, policy: Policy | None) -> _core.Core:
        options, block = self.options, self.options.block_bytes
        budget = None if options.budget is None else parse_size(options.budget, "budget")
        if budget is None:
            budget = free_bytes(self.device) - options.reserve_bytes
            if budget < block:
                free = max(budget + options.reserve_bytes, 0)
                raise ConfigError(
                    f"{self.device.name} has {format_size(free)} free, less than the reserve of "
                    f"{format_size(options.reserve_bytes)} and one block of {format_size(block)}: "
                    "free some, or pass budget, reserve or block"
                )
            budget -= budget % block
        return _core.Core(
            device=self.device,
            budget=budget,
            block=block,
            policy=options.policy if policy is None else policy,
            threaded=self.device.slow_moves,
            host_limit=options.host_limit_bytes,
            profiled=settings.profiled,
        )

    @property
    def active(self) -> bool:
        """Whether there is a card. Where there is none, calls check their arguments alone."""
        return not isinstance(self.device, NoCard)

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
        try:
            self._scopes.close()
            if not self._keep:
                self.close()
        except Error as failure:
            if error is None:
                raise
            # The program's own error leaves the scope, whatever else that was the cause of.
            told = f"vramx: the session stays open: {failure}"
            if sys.version_info >= (3, 11):
                error.add_note(told)
            else:
                warnings.warn(told, RuntimeWarning, stacklevel=2)

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
        self._tell_unpinned()
        plan = self.plan()
        if self._torch_bridge is not None:
            self._torch_bridge.close()
        self._core.close()
        self._last_plan = plan
        self._closed = True
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher = None
        if self in open_sessions:
            open_sessions.remove(self)

    @property
    def closed(self) -> bool:
        """Whether the session takes no more work."""
        return self._closed

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
        """Raise if closed; and see what was changed, before anything that may evict it."""
        if self._closed:
            raise SessionClosedError(
                "this session is closed; open another with vramx.oversubscribe()"
            )
        if self._torch_bridge is not None:
            self._torch_bridge.follow()

    def _tell_unpinned(self) -> None:
        """Warn, once, of host memory that the system refused to pin."""
        if self._told_unpinned or not (told := unpinned(self.device)):
            return
        self._told_unpinned = True
        warnings.warn(
            f"vramx on {self.device.name}: {'; '.join(told)}. Manage less, free memory of other "
            'programs, or pass on_unpinned="error" to fail instead',
            RuntimeWarning,
            stacklevel=3,
        )

    @property
    def _torch(self) -> TorchBridge:
        if not self.active:
            return cast("TorchBridge", NoTorch())
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
        self._tell_unpinned()
        return module

    def load(
        self,
        module: T,
        path: str | os.PathLike[str],
        *,
        strict: bool = True,
        dtype: str = "module",
        name: str | None = None,
    ) -> T:
        """Take charge of a torch module, with the weights of a file.

        Bytes go from the mapped file straight to the session's host memory, without a copy in
        between unless their type changes. Build the module under ``torch.device("meta")``: then the
        process holds the weights once. A module with bytes of its own keeps them until all are
        loaded, so that a failure leaves it as it was.

        What goes where is found by the module's own ``load_state_dict``; hooks that run after
        loading do not see the values yet. Tensors that are tied may be in the file once.

        Parameters
        ----------
        module : torch.nn.Module
            On the meta device, the CPU or the session's card; it is managed as by `manage`. Meta
            parameters are replaced by new ones, whose home is the CPU.
        path : str or path
            A safetensors file, a torch checkpoint of plain weights, or the index of several files
            (``model.safetensors.index.json``) as Hugging Face writes it.
        strict : bool
            Whether the names must match exactly. If not, what is missing keeps its present values,
            which meta tensors do not have, and what is not expected is left out.
        dtype : str
            ``"module"`` converts to the module's types, as ``load_state_dict`` does; ``"file"``
            takes those of the file.
        name : str, optional
            How reports call it; its class's name unless given.

        Returns
        -------
        torch.nn.Module
            The same object.

        Raises
        ------
        ConfigError
            If the file cannot be read or does not fit, which names some tensors, or the module
            cannot be managed. Nothing has changed.
        OutOfMemoryError
            If the host, ``host_limit`` or ``VRAMX_MANAGED_LIMIT`` cannot hold it. Nothing has
            changed.

        Examples
        --------
        >>> with torch.device("meta"):
        ...     model = Network()
        >>> session.load(model, "network.safetensors")
        """
        self._usable()
        self._torch.load(module, path, name, strict=strict, dtype=dtype)
        self._tell_unpinned()
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

    def manages(self, module: Any) -> bool:
        """Tell whether this session has charge of a module, by itself or as a part of another.

        Parameters
        ----------
        module : torch.nn.Module
            Any module.

        Returns
        -------
        bool
            Whether it does now.
        """
        return self._torch_bridge is not None and self._torch_bridge.manages(module)

    def empty(self, shape: int | Iterable[int], dtype: Any = None) -> Any:
        """Make an uninitialised array in the session's memory.

        It is tracked and evicted like any activation, or stays on a card without concurrent managed
        access, as activations do there. On the simulated device read or write a numpy
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
            tensor = self._torch.empty(sizes, dtype)
            self._tell_unpinned()
            return tensor
        if not self.active:
            import numpy

            return numpy.empty(sizes, numpy_type)
        if not self.device.computes_on_host:
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
        ConfigError
            If nothing of it can leave: activations stay on a card without concurrent managed
            access, as do the buffers of a managed module that torch writes to uncounted.
        """
        ranges = self._ranges(x)
        if ranges and self._core.confined(ranges):
            raise ConfigError(
                f"{self.device.name} has no concurrent managed access, so activations stay on it "
                "while they live: copy them to the CPU and let go of them instead"
            )
        self._core.evict(ranges)

    def empty_cache(self) -> None:
        """Give back what torch keeps of this session's memory for later.

        Torch keeps what the calling thread has freed in its scope, by the sizes that were asked
        for. Where other sizes come next, that only takes room, which is made by sending something
        away. As `torch.cuda.empty_cache` does for memory that is torch's own.
        """
        self._usable()
        if self._torch_bridge is not None:
            self._torch_bridge.cache.empty()

    @contextlib.contextmanager
    def keep_cache(self) -> Iterator[None]:
        """Let torch keep for later what it has of this session's memory, for a scope.

        Where not everything fits, a session asks torch's cache back once it is much of the budget.
        For a program that has chosen how much it works in, that is of no use: it takes the same
        again.
        """
        self._usable()
        if self._torch_bridge is None:
            yield
            return
        with self._torch_bridge.cache.keep():
            yield

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
            self._torch_bridge.reported(ranges)

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
        previous = self._core.set_budget(parse_size(budget, "budget"))
        if self._torch_bridge is not None:
            self._torch_bridge.cache.watch()
        return previous

    def watch_budget(
        self,
        *,
        reserve: Size | None = None,
        least: Size | None = None,
        most: Size | None = None,
        every: float = 1.0,
        card: FreeMemory | None = None,
    ) -> BudgetWatcher:
        """Let the budget give way to other programs on the card, and come back when they end.

        A thread asks NVML what is free. Less than `reserve`: the budget shrinks to what leaves that
        much free. More, by more than eight blocks and an eighth of the reserve: it grows into what
        is free beyond the reserve. What this session holds counts as used for NVML, in unified
        memory too, and is reckoned with. A budget that running modules and pins do not allow is
        tried again at the next look, and meanwhile shrinks as far as they do.

        A budget that `set_budget` sets meanwhile is kept only within these bounds. Weights that are
        written in place outside a managed module's call are safe from the watcher inside
        ``with session.pin(x)``.

        Parameters
        ----------
        reserve : int, float or str, optional
            Bytes of the card to leave free for others; the session's own `reserve` unless given.
        least : int, float or str, optional
            The budget never shrinks below; one block unless given. A module that needs more than
            the budget is slow, and fails where the card cannot use host memory in place.
        most : int, float or str, optional
            The budget never grows beyond; the present one unless given.
        every : float
            Seconds between two looks.
        card : object with ``free() -> int``, optional
            What tells the bytes that nobody holds; NVML unless given.

        Returns
        -------
        BudgetWatcher
            At work already. It ends by its ``stop()`` or as a context manager, with the session, or
            with the interpreter; the budget stays as it was last set.

        Raises
        ------
        ConfigError
            If an argument is not allowed, the budget is watched already, nvidia-ml-py is not
            installed, or the card is simulated and no `card` is given.
        NoDeviceError
            If NVML does not know the card.
        """
        self._usable()
        if self._watcher is not None and self._watcher.watching:
            raise ConfigError("the budget is watched already; stop() that watcher first")
        rule = checked_rule(
            reserve=self.options.reserve if reserve is None else reserve,
            least=least,
            most=most,
            block=self.options.block_bytes,
            budget=self._core.stats().budget if self.active else LARGEST,
            capacity=self.device.capacity,
        )
        if not self.active:
            return BudgetWatcher(self, rule, card or NothingFree(), every)
        if card is None:
            if not self.device.uuid:
                raise ConfigError(
                    f"NVML does not know {self.device.name}: give card, an object whose free() "
                    "returns the bytes that nobody holds"
                )
            card = NvmlCard(self.device.uuid)
        watcher = BudgetWatcher(self, rule, card, every)
        watcher.start()
        self._watcher = watcher
        return watcher

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
        if self.device.virtual_clock:
            counts["stall_seconds"] = self.device.stalled
        if self._torch_bridge is not None:
            counts["passes"] = self._torch_bridge.passes.count
            counts["unleased_accesses"] = self._torch_bridge.unleased_accesses
        return Stats(**counts)

    def modules(self) -> list[ModuleStats]:
        """Count by leased module how often its memory moved, why, and what that cost.

        Returns
        -------
        list of ModuleStats
            The managed modules' parts in the order of registration, then those of modules that are
            managed no more.
        """
        return self._torch_bridge.usage() if self._torch_bridge is not None else []

    def plan(self) -> Plan | None:
        """Tell the plan in force, with the time and the bytes that it predicts a pass to take.

        Returns
        -------
        Plan or None
            The plan, after `close` the last one; None while there is none: the policy is not
            adaptive, everything fits, or no cycle was seen yet.
        """
        if self._closed:
            return self._last_plan
        native = self._core.plan()
        return None if native is None else plan_of(native)

    def trace(
        self, path: str | os.PathLike[str] | None = None, *, most_events: int = MOST_EVENTS
    ) -> Trace:
        """Record moves, leases, stalls, budgets and plans, for Perfetto or as a picture.

        ``with session.trace("out.json"): model(x)`` records the scope and saves it; without a path,
        save it later by `Trace.save` or `Trace.picture`. Recording adds events to the compute
        streams and begins by waiting once for the current one.

        Parameters
        ----------
        path : str or path, optional
            Where to save at the end: ``.json``, or ``.json.gz`` for a compressed file.
        most_events : int
            The most events to hold; older ones are lost, and how many is told in the trace.

        Returns
        -------
        Trace
            A recording that begins with its scope, or by its ``start()``.

        Raises
        ------
        ConfigError
            If the path's suffix, its folder or the number of events is not allowed.
        """
        return Trace(self._core, self._stream, self.device.name, path, most_events=most_events)

    def report(self) -> str:
        """Describe the session for people.

        Returns
        -------
        str
            The card, who else holds its memory, the managed modules, the counts, the plan in force
            and, by module, how often its memory moved, why and what it cost.
        """
        if not self.active:
            return "vramx is inactive: there is no usable card, and on_missing is 'cpu'"
        lines = [f"vramx on {self.device.name} ({self.device.kind})"]
        if self.device.uuid:
            with contextlib.suppress(Exception):  # NVML is a courtesy here
                memory = card_memory(self.device.uuid)
                lines.append(
                    f"  card: {format_size(memory.free)} of {format_size(memory.total)} free, "
                    f"{format_size(sum(memory.others.values()))} in {len(memory.others)} others"
                )
        if self._torch_bridge is not None:
            if not self._closed:
                self._torch_bridge.follow()
            lines += [f"  module {line}" for line in self._torch_bridge.describe()]
        costs = confined(self.device) + unpinned(self.device) + slowed(self.device)
        lines += [f"  {line}" for line in costs]
        if self._watcher is not None and self._watcher.watching:
            lines.append(f"  {self._watcher.describe()}")
        stats = self.stats()
        lines.append(stats.table())
        if (plan := self.plan()) is not None:
            lines += ["", *plan.lines()]
        if modules := self.modules():
            rest = the_rest(modules, stats, self._core.ungrouped())
            lines += ["", module_table(modules, rest)]
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
