"""Sessions: a budget on a card, and what is kept inside it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from vramx import _core, config
from vramx.cards.nvml import NvmlCard
from vramx.cards.opening import unpinned
from vramx.cards.watcher import BudgetWatcher, FreeMemory, checked_rule
from vramx.errors import ConfigError, CorruptedError, Error, SessionClosedError
from vramx.seeing.notebooks import Report
from vramx.seeing.plans import Plan, plan_of
from vramx.seeing.stats import Stats
from vramx.seeing.trace import MOST_EVENTS, Trace
from vramx.seeing.usage import ModuleStats
from vramx.session.absent import NoCard, NoCore, NothingFree, NoTorch
from vramx.session.advice import Advice, native_advice
from vramx.session.cores import compress_of, open_core, open_device
from vramx.session.options import SessionOptions
from vramx.session.packing import Packing
from vramx.session.policy import Policy
from vramx.session.reporting import counted, reported
from vramx.session.torch_side import TorchSide
from vramx.units import LARGEST, Size, parse_size

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
    it stay readable. The same happens on an exception.

    Attributes
    ----------
    device : Device
        The card; the simulated one also has a clock and fault injection.
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
        compress = compress_of(options, settings)
        if device is None:
            device = open_device(options, settings)
        self.options = options
        self.device = cast(_core.Device, device)
        self._core = cast(_core.Core, NoCore())
        if not isinstance(device, NoCard):
            self._core = open_core(device, options, settings, policy)
        packs = self.active and self.device.packs
        self._packing = Packing(self._core, compress if packs else "never")
        self._watcher: BudgetWatcher | None = None
        self._told_unpinned = False
        self._last_plan: Plan | None = None
        self._check = settings.check
        self._torch_bridge: TorchBridge | None = None
        #: Return the counts of what other libraries have in this session.
        self._counters: list[Callable[[], list[ModuleStats]]] = []
        self._scopes = contextlib.ExitStack()
        self._depth = 0
        self._keep = False
        self._closed = False
        open_sessions.append(self)

    @property
    def active(self) -> bool:
        """Whether there is a card. Without one, calls only check their arguments."""
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
            told = f"vramx: {'' if self._closed else 'the session stays open: '}{failure}"
            if sys.version_info >= (3, 11):
                error.add_note(told)
            else:
                warnings.warn(told, RuntimeWarning, stacklevel=2)

    def keep(self) -> None:
        """Let the session outlive its scope: managed modules stay managed until `close`."""
        self._keep = True

    def close(self) -> None:
        """Put managed modules back where they came from, and accept no more work.

        Calling it again does nothing.

        Raises
        ------
        InUseError
            If a managed module is running in another thread; the session stays open.
        CorruptedError
            If packed weights arrived damaged and no call has told it yet; the session is closed.
        """
        if self._closed:
            return
        self._tell_unpinned()
        plan = self.plan()
        if self._torch_bridge is not None:
            self._torch_bridge.close()
        damage = None
        try:
            self._core.close()
        except CorruptedError as error:  # it is closed all the same
            damage = error
        self._last_plan = plan
        self._closed = True
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher = None
        if self in open_sessions:
            open_sessions.remove(self)
        if damage is not None:
            raise damage

    @property
    def closed(self) -> bool:
        """Whether the session accepts no more work."""
        return self._closed

    @contextlib.contextmanager
    def route(self) -> Iterator[None]:
        """Give another thread's torch CUDA allocations to this session, for a scope.

        Torch routes allocations per thread: entering the session covers the entering thread only.
        Autograd's and other worker threads each need a call of this.
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

    def _check_scope(self) -> None:
        """Raise where uses of weights outside leases would be neither right nor seen."""
        if self.active and not self.device.keeps_raw and self._depth == 0:
            raise ConfigError(
                'with host="packed" weights are managed inside the session\'s scope, where uses '
                "outside their modules' calls are seen: put `with session:` around it"
            )

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
    def _torch(self) -> TorchSide:
        if not self.active:
            return NoTorch()
        if self._torch_bridge is None:
            from vramx.integrations.torch import TorchBridge

            self._torch_bridge = TorchBridge(
                self._core, self.device, check=self._check, packing=self._packing
            )
        return self._torch_bridge

    # What is managed

    def manage(self, module: T, *, name: str | None = None) -> T:
        """Manage the weights and buffers of a torch module, or of a pipeline's modules.

        Their bytes move to host copies, which vramx fetches to the card when the module that owns
        them runs. Parameters keep their identity, names, ties and hooks. Compile before managing: a
        compiled module is fetched as one.

        Parameters
        ----------
        module : torch.nn.Module or pipeline
            On the CPU or on the session's card. A pipeline is an object whose ``components`` map
            names to parts, as in diffusers; those that are modules are managed, each by itself.
        name : str, optional
            Its name in reports; its class's name by default.

        Returns
        -------
        torch.nn.Module
            The same object.

        Raises
        ------
        ConfigError
            If it is not a module, is managed already, or has tensors that cannot be managed (meta,
            sparse, quantised, subclassed, on another device); each is named. With
            ``host="packed"`` also outside the session's scope. Nothing has changed.
        OutOfMemoryError
            If the host, ``host_limit`` or ``VRAMX_MANAGED_LIMIT`` cannot hold it.
        """
        self._usable()
        self._check_scope()
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
        """Manage a torch module, with its weights from a file.

        Bytes go from the mapped file straight to the session's host memory, without a copy in
        between unless their type changes. Build the module under ``torch.device("meta")``: then the
        process holds the weights once. A module with bytes of its own keeps them until everything
        is loaded, so that a failure leaves it unchanged.

        The module's own ``load_state_dict`` decides which tensor goes where; hooks that run after
        loading do not see the values yet. Tied tensors may be in the file once.

        Parameters
        ----------
        module : torch.nn.Module
            On the meta device, the CPU or the session's card; it is managed as by `manage`. Meta
            parameters are replaced by new ones that belong to the CPU.
        path : str or path
            A safetensors file, a torch checkpoint of plain weights, or the index of several files
            (``model.safetensors.index.json``) as Hugging Face writes it.
        strict : bool
            Whether the names must match exactly. If not, missing tensors keep their present values,
            which meta tensors do not have, and unexpected ones are ignored.
        dtype : str
            ``"module"`` converts to the module's types, as ``load_state_dict`` does; ``"file"``
            takes those of the file.
        name : str, optional
            As for `manage`.

        Returns
        -------
        torch.nn.Module
            The same object.

        Raises
        ------
        ConfigError
            If the file cannot be read, if it does not fit (the message names some tensors), or if
            the module cannot be managed. Nothing has changed.
        OutOfMemoryError
            As by `manage`. Nothing has changed.

        Examples
        --------
        >>> with torch.device("meta"):
        ...     model = Network()
        >>> session.load(model, "network.safetensors")
        """
        self._usable()
        self._check_scope()
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
        """Return whether this session manages a module, by itself or as a part of another.

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
        access, as activations do there. On the simulated device, read or write a numpy view only
        inside ``with session.pin(x)``: evicted bytes are overwritten.

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
            An array that keeps its memory alive, also after the session.

        Raises
        ------
        ConfigError
            If the shape or the dtype is not allowed.
        OutOfMemoryError
            If there is not enough memory.
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
        """Start fetching `x` to the card, as far as room can be made, and return at once.

        Parameters
        ----------
        x : tensor, module, array, or iterable of them
            What is about to be used.
        """
        self._core.prefetch(self._ranges(x))

    def evict(self, x: Any) -> None:
        """Evict `x` from the card: clean weights without a copy, the rest by writing back.

        Parameters
        ----------
        x : tensor, module, array, or iterable of them
            What is not needed for a while.

        Raises
        ------
        InUseError
            If a running module or a pin holds some of it; then nothing has moved.
        ConfigError
            If none of it can be evicted: activations stay on a card without concurrent managed
            access, and so do a managed module's buffers that torch writes to without counting it.
        """
        ranges = self._ranges(x)
        if ranges and self._core.confined(ranges):
            raise ConfigError(
                f"{self.device.name} has no concurrent managed access, so activations stay on it "
                "while they live: copy them to the CPU and let go of them instead"
            )
        self._core.evict(ranges)

    def empty_cache(self) -> None:
        """Give back the part of this session's memory that torch caches.

        Torch caches what the calling thread has freed in its scope, by the requested sizes. If
        other sizes come next, the cache only takes room, for which something else is evicted. This
        does what `torch.cuda.empty_cache` does for torch's own memory.
        """
        self._usable()
        if self._torch_bridge is not None:
            self._torch_bridge.cache.empty()

    @contextlib.contextmanager
    def keep_cache(self) -> Iterator[None]:
        """Let torch keep its cache of this session's memory, for a scope.

        Where not everything fits, a session asks torch to give back its cache once that is a large
        part of the budget. This does not help a program that has chosen how much memory it works
        in: it allocates the same again.
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
            What must stay; it is what ``with`` returns.

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
            if self._torch_bridge is not None:
                self._torch_bridge.passes.note_writes()  # before something else may evict it
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

        In-place operations on parameters are detected, and buffers and activations always count as
        written.

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
        """Change the budget; when this returns the new one holds.

        With ``compress="auto"``, a module that exceeds it now with the others gets its packed
        copies as its next call begins.

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
            self._torch_bridge.budget_changed()
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
        """Shrink the budget for other programs on the card, and grow it back when they end.

        A thread asks NVML how much memory is free. If that is less than `reserve`, the budget
        shrinks until that much is free. If it is more, by more than eight blocks and an eighth of
        the reserve, the budget grows into what is free beyond the reserve. NVML counts what this
        session holds as used, also in unified memory, and the calculation allows for that. A budget
        that running modules and pins do not allow is tried again at the next look; until then it
        shrinks as far as they allow.

        A budget that `set_budget` sets meanwhile lasts only within these bounds. Weights that are
        written in place outside a managed module's call are safe from the watcher inside
        ``with session.pin(x)``.

        Parameters
        ----------
        reserve : int, float or str, optional
            Bytes of the card to leave free for others; the session's own `reserve` by default.
        least : int, float or str, optional
            The budget never shrinks below this; one block by default. A module that needs more than
            the budget is slow, and fails where the card cannot use host memory in place.
        most : int, float or str, optional
            The budget never grows beyond this; the present one by default.
        every : float
            Seconds between two looks.
        card : object with ``free() -> int``, optional
            Returns the bytes that are free; NVML by default.

        Returns
        -------
        BudgetWatcher
            Already running. It ends with its ``stop()`` or its ``with`` block, with the session, or
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
        """Return the counts since the session was opened.

        Returns
        -------
        Stats
            The counts now.
        """
        return counted(self._core, self.device, self._torch_bridge)

    def modules(self) -> list[ModuleStats]:
        """Return for each leased module how often its memory moved, why, and what that cost.

        Returns
        -------
        list of ModuleStats
            The managed modules' parts in the order of registration, then those of modules that are
            no longer managed, then ONNX Runtime's models.
        """
        found = self._torch_bridge.usage() if self._torch_bridge is not None else []
        return [*found, *(row for count in self._counters for row in count())]

    def plan(self) -> Plan | None:
        """Return the plan in force, with the time and the bytes that it predicts for a pass.

        Returns
        -------
        Plan or None
            The plan, or after `close` the last one. None while there is none: because the policy is
            not adaptive, everything fits, or no cycle was seen yet.
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
            The most events to hold; older ones are lost, and the trace says how many.

        Returns
        -------
        Trace
            A recording that begins when its scope is entered, or with its ``start()``.

        Raises
        ------
        ConfigError
            If the path's suffix, its folder or the number of events is not allowed.
        """
        return Trace(self._core, self._stream, self.device.name, path, most_events=most_events)

    def report(self) -> Report:
        """Describe the session for people.

        Returns
        -------
        Report
            Text, which notebooks show as it is laid out: the card, who else holds its memory, the
            managed modules, the counts, the plan in force and, by module, how often its memory
            moved, why and what it cost.
        """
        if not self.active:
            return Report("vramx is inactive: there is no usable card, and on_missing is 'cpu'")
        if self._torch_bridge is not None and not self._closed:
            self._torch_bridge.follow()
        return reported(
            self._core,
            self.device,
            self._torch_bridge,
            self._watcher,
            self.plan(),
            self.modules(),
        )

    def _repr_html_(self) -> str:
        return self.report()._repr_html_()

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
