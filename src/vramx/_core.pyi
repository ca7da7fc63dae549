"""
vramx's native core. Use the vramx package; this module may change at any time.
"""

from collections.abc import Sequence
import enum
from typing import Any

class Purpose(enum.Enum):
    WEIGHTS = 0

    SCRATCH = 1

class Operation(enum.Enum):
    RESERVE = 0

    FETCH = 1

    EVICT = 2

    MAP_HOST = 3

    PACK = 4

class Device:
    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def ordinal(self) -> int: ...
    @property
    def uuid(self) -> str: ...
    @property
    def capacity(self) -> int: ...
    @property
    def granule(self) -> int: ...
    @property
    def link_up(self) -> float: ...
    @property
    def link_down(self) -> float: ...
    @property
    def unpack_rate(self) -> float:
        """
        Raw bytes a second that packed copies are unpacked to; 0 where it makes none.
        """

    @property
    def reads_over_link(self) -> bool: ...
    @property
    def packs(self) -> bool:
        """Whether it makes packed copies of weights."""

    @property
    def keeps_raw(self) -> bool:
        """Whether raw host copies of weights stay beside packed ones."""

    @property
    def given_back_bytes(self) -> int:
        """Raw bytes of weights that the host has in packed copies alone."""

    @property
    def host_addresses(self) -> bool: ...
    @property
    def managed_access(self) -> bool:
        """Whether what the program allocates may lie beyond the card."""

    @property
    def keeps_what_leaves(self) -> bool: ...
    @property
    def pageable_bytes(self) -> int:
        """Host memory of weights that could not be pinned."""

    @property
    def holds_up_launches(self) -> str:
        """Why launches wait for moves that need not; empty where they do not."""

    @property
    def computes_on_host(self) -> bool:
        """Whether its memory is the host's, and the processor computes on it."""

    @property
    def virtual_clock(self) -> bool:
        """Whether time passes by what is asked of the card alone."""

    @property
    def slow_moves(self) -> bool:
        """Whether asking for a move takes host time."""

    @property
    def stalled(self) -> float:
        """On a virtual clock: the seconds that streams have waited."""

    @property
    def free_bytes(self) -> int: ...
    @property
    def card_bytes(self) -> int: ...

class CudaDevice(Device):
    def set_rates(self, memory: Purpose, up: float, down: float) -> None:
        """
        Tells what moves of weights, or scratch, reach over the link, bytes a second.
        """

def open_managed(driver: str, ordinal: int, deny_managed: bool = False) -> CudaDevice:
    """A card with all in managed memory."""

def open_mapped(
    driver: str,
    ordinal: int,
    unit: int,
    accept_unpinned: bool = False,
    deny_managed: bool = False,
    checked: bool = False,
    keeps_raw: bool = True,
) -> CudaDevice:
    """
    Weights in mapped memory, moved a unit at once; scratch in managed memory, or on the card.
    """

def set_managed_limit(limit: int) -> int:
    """Caps the managed bytes of this process; returns the previous cap."""

def managed_bytes() -> int: ...
def pinned_bytes() -> int:
    """The host memory that mapped devices have pinned."""

class Check:
    """What a kernel that looked at bytes found."""

    @property
    def done(self) -> bool: ...
    @property
    def wrong(self) -> bool: ...

class SimulatedDevice(Device):
    def __init__(
        self,
        capacity: int,
        link_up: float,
        link_down: float,
        latency: float,
        lanes: int,
        granule: int,
        host_memory: int,
        reads_over_link: bool,
        check_drops: bool,
        host_addresses: bool = True,
        managed_access: bool = True,
        unpack_rate: float = 0.0,
        keeps_raw: bool = True,
    ) -> None: ...
    def compute(self, seconds: float, stream: int = 0) -> None: ...
    def launch_fill(self, to: int, content: bytes, stream: int = 0) -> None:
        """A kernel that writes these bytes."""

    def launch_check(self, at: int, content: bytes, stream: int = 0) -> Check:
        """A kernel that compares what it finds with these."""

    def synchronize(self, stream: int) -> None:
        """Carries out what a stream was given."""

    def synchronize_all(self) -> None:
        """Carries out what the card was given."""

    def holds(self, address: int, size: int) -> bool:
        """Whether bytes are at the card's addresses."""

    def fail(self, operation: Operation, nth: int) -> None: ...
    def damage(self, address: int, bit: int) -> None:
        """A bit flips in the packed copy of what is at an address."""

    def hold(self) -> None: ...
    def let_go(self) -> None: ...
    @property
    def now(self) -> float: ...
    @property
    def peak_on_card(self) -> int: ...
    @property
    def on_card(self) -> int: ...
    @property
    def moved_in(self) -> int: ...
    @property
    def moved_out(self) -> int: ...
    @property
    def refreshed(self) -> int: ...
    @property
    def saved(self) -> int: ...

class Moment(enum.Enum):
    EARLIEST = 0

    LATEST = 1

    RANDOM = 2

def set_moments(when: Moment, seed: int) -> tuple[Moment, int]:
    """
    When simulated cards made from now on carry out work; returns the previous ones.
    """

POISON: int

def packing_kernels() -> tuple[bool, str]:
    """
    Whether this build can pack weights on the card, and what made its kernels, or why not.
    """

def policy_names() -> list[str]:
    """The names of the native policies, sorted."""

class PassLimits:
    def __init__(
        self,
        used: int,
        budget: int,
        link: float,
        compute: float,
        in_flight: int,
        packed: int = 0,
        unpack: float = 0.0,
    ) -> None: ...
    def fluid(self) -> float:
        """Seconds that nothing moving uncompressed bytes can beat."""

    def plan(self) -> float:
        """Seconds that an evenly spread plan reaches."""

    def with_packed(self) -> float:
        """
        Seconds that an even plan reaches which keeps and streams packed copies.
        """

    def lru(self) -> float:
        """Seconds that LRU takes on a cycle."""

class Prediction:
    @property
    def seconds(self) -> float: ...
    @property
    def moved_in(self) -> int: ...
    @property
    def raw_in(self) -> int: ...
    @property
    def unpacked(self) -> int: ...
    @property
    def moved_out(self) -> int: ...

def plan_pass(
    blocks: Sequence[tuple[int, int]],
    steps: Sequence[tuple[Sequence[int], float]],
    budget: int,
    up: float,
    down: float,
    unpack: float,
) -> Prediction:
    """
    Predicts a planned pass of blocks (bytes, packed or 0) in steps (places, seconds).
    """

def least_seconds(
    blocks: Sequence[tuple[int, int]],
    steps: Sequence[tuple[Sequence[int], float]],
    budget: int,
    up: float,
    unpack: float,
) -> float:
    """Seconds that no way of moving the blocks of such a pass can beat."""

class Advice(enum.Enum):
    READ_MOSTLY = 0

    UNSET_READ_MOSTLY = 1

    PREFERRED_DEVICE = 2

    PREFERRED_HOST = 3

    UNSET_PREFERRED = 4

    ACCESSED_BY = 5

    UNSET_ACCESSED_BY = 6

class Counts:
    @property
    def fetched(self) -> dict[str, int]: ...
    @property
    def evicted(self) -> dict[str, int]: ...
    @property
    def hits(self) -> int: ...
    @property
    def misses(self) -> int: ...
    @property
    def moved_in(self) -> int: ...
    @property
    def crossed_in(self) -> int: ...
    @property
    def moved_out(self) -> int: ...
    @property
    def dropped(self) -> int: ...
    @property
    def discarded(self) -> int: ...
    @property
    def over_link(self) -> int: ...

class Stats(Counts):
    @property
    def budget(self) -> int: ...
    @property
    def managed(self) -> int: ...
    @property
    def resident(self) -> int: ...
    @property
    def leased(self) -> int: ...
    @property
    def peak_resident(self) -> int: ...
    @property
    def packed_on_host(self) -> int: ...
    @property
    def packed_on_card(self) -> int: ...
    @property
    def evictions(self) -> int: ...
    @property
    def failed_moves(self) -> int: ...
    @property
    def stall_seconds(self) -> float: ...

class BlockUsage:
    @property
    def address(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def on_card(self) -> bool: ...
    @property
    def packed(self) -> int: ...
    @property
    def packed_on_card(self) -> bool: ...
    @property
    def kept(self) -> bool: ...
    @property
    def counts(self) -> Counts: ...

class GroupUsage:
    @property
    def uses(self) -> int: ...
    @property
    def stall_seconds(self) -> float: ...
    @property
    def blocks(self) -> list[BlockUsage]: ...

class PlanUsage:
    @property
    def passes(self) -> int: ...
    @property
    def uses(self) -> int: ...
    @property
    def used(self) -> int: ...
    @property
    def budget(self) -> int: ...
    @property
    def kept(self) -> int: ...
    @property
    def kept_packed(self) -> int: ...
    @property
    def packed_copies(self) -> int: ...
    @property
    def ahead(self) -> int: ...
    @property
    def compute_seconds(self) -> float: ...
    @property
    def seconds(self) -> float: ...
    @property
    def moved_in(self) -> int: ...
    @property
    def raw_in(self) -> int: ...
    @property
    def unpacked(self) -> int: ...
    @property
    def moved_out(self) -> int: ...
    @property
    def bound_seconds(self) -> float: ...

class Event:
    @property
    def kind(self) -> str: ...
    @property
    def cause(self) -> str: ...
    @property
    def how(self) -> str: ...
    @property
    def lane(self) -> int: ...
    @property
    def request(self) -> int: ...
    @property
    def block(self) -> int: ...
    @property
    def group(self) -> int: ...
    @property
    def stream(self) -> int: ...
    @property
    def thread(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def bytes_out(self) -> int: ...
    @property
    def crossed(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def text(self) -> str: ...
    @property
    def submitted(self) -> float | None: ...
    @property
    def began(self) -> float | None: ...
    @property
    def ended(self) -> float | None: ...

class TracedGroup:
    @property
    def serial(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def blocks(self) -> list[int]: ...

class PlacedBlock:
    @property
    def serial(self) -> int: ...
    @property
    def address(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def purpose(self) -> Purpose: ...

class HeldPacked:
    @property
    def serial(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

class Log:
    def __init__(self) -> None: ...
    @property
    def events(self) -> list[Event]: ...
    @property
    def lost(self) -> int: ...
    @property
    def groups(self) -> list[TracedGroup]: ...
    @property
    def blocks(self) -> list[PlacedBlock]: ...
    @property
    def resident(self) -> list[int]: ...
    @property
    def held(self) -> list[HeldPacked]: ...
    @property
    def budget(self) -> int: ...
    @property
    def reserved(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def virtual_clock(self) -> bool: ...
    @property
    def lane_times(self) -> bool: ...
    @property
    def link_up(self) -> float: ...
    @property
    def link_down(self) -> float: ...
    @property
    def unpack(self) -> float: ...
    @property
    def lanes(self) -> int: ...

class Memory:
    @property
    def address(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def __dlpack__(self, **kwargs: Any) -> Any: ...
    def tensor(self, shape: Sequence[int], code: int, bits: int) -> Any:
        """A DLPack capsule of all of it, by the type's code and bits."""

    def __dlpack_device__(self) -> tuple[int, int]: ...
    @property
    def __array_interface__(self) -> dict[str, Any]: ...
    @property
    def __cuda_array_interface__(self) -> dict[str, Any]: ...

class Core:
    def __init__(
        self,
        device: Device,
        budget: int,
        block: int,
        policy: object,
        threaded: bool,
        host_limit: int,
        profiled: bool = False,
    ) -> None: ...
    def reserve(self, sizes: list[int], purpose: Purpose) -> list[Memory]: ...
    def empty(self, size: int, stream: int) -> Memory: ...
    def store(self, copies: Sequence[tuple[int, int, int]]) -> None:
        """Copies (device, program, size) into the host copies."""

    def load(self, copies: Sequence[tuple[int, int, int]]) -> None:
        """Copies (device, program, size) out of the host copies."""

    def define(self, ranges: Sequence[tuple[int, int]], name: str = "") -> int:
        """`name` is what timelines call the group."""

    def undefine(self, group: int) -> None: ...
    def redefine(self, group: int, ranges: Sequence[tuple[int, int]]) -> None:
        """Gives a group other memory."""

    def guess(self, order: Sequence[int]) -> None: ...
    def acquire(self, group: int, stream: int) -> bool: ...
    def release(self, group: int, stream: int) -> None: ...
    def take(
        self, ranges: Sequence[tuple[int, int]], stream: int, held_by_thread: bool
    ) -> None: ...
    def give(
        self, ranges: Sequence[tuple[int, int]], stream: int, held_by_thread: bool
    ) -> None: ...
    def owned(self, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Those of the ranges that lie in this core's memory."""

    def leased(self, ranges: Sequence[tuple[int, int]]) -> bool: ...
    def on_card(self, ranges: Sequence[tuple[int, int]]) -> bool: ...
    def confined(self, ranges: Sequence[tuple[int, int]]) -> bool:
        """Whether none of the ranges can leave the card."""

    def prefetch(self, ranges: Sequence[tuple[int, int]]) -> None: ...
    def evict(self, ranges: Sequence[tuple[int, int]]) -> None: ...
    def advise(self, ranges: Sequence[tuple[int, int]], advice: Advice) -> None: ...
    def written(self, ranges: Sequence[tuple[int, int]]) -> None: ...
    def pack(self, weights: Sequence[tuple[int, int, str, str]]) -> bool:
        """
        Makes packed copies of weights: addresses, bytes, bf16, fp16, fp32 or nothing, names.
        Returns False where the card has no room for it now.
        """

    def point(self, storage: int, address: int, size: int) -> bool:
        """
        Lets a storage point at the host copy but under a lease; False where that cannot be.
        """

    def host_address(self, address: int) -> int:
        """Where the card uses the host copy of weights in place, or 0."""

    def unpoint(self, address: int, size: int) -> None:
        """Leaves the storages in a range pointing at the host copy."""

    def expose(self, address: int, size: int, exposed: bool) -> None:
        """
        Says whether the program may write to the host copies in a range unseen.
        """

    def exposed(self, address: int) -> bool:
        """Whether the program may write to the host copy at an address unseen."""

    def set_budget(self, budget: int) -> int: ...
    def stats(self) -> Stats: ...
    def usage(self, group: int) -> GroupUsage: ...
    def ungrouped(self) -> Counts:
        """What was counted of memory that never was part of a group."""

    def plan(self) -> PlanUsage | None: ...
    def begin_trace(self, stream: int, most_events: int) -> None: ...
    def end_trace(self) -> Log: ...
    @property
    def block(self) -> int:
        """Bytes of a block."""

    @property
    def scratch_on_host(self) -> int: ...
    @property
    def scratch_bytes(self) -> int:
        """What frameworks hold, their caches included."""

    def abandon(self, allocations: Sequence[int]) -> None:
        """
        Nobody uses these of the frameworks' allocations again; they are freed later.
        """

    def watch_scratch(self, held: int) -> None:
        """Leased calls tell when frameworks hold so much."""

    def trim(self) -> None: ...
    def enter(self) -> None:
        """This thread's framework allocations are served by this core."""

    def leave(self) -> None: ...
    def close(self) -> None: ...

def set_process_core(core: Core | None) -> None:
    """Serves threads that entered no session."""

def card_address(address: int) -> int:
    """
    The session's own address of weights whose storage points at their host copy.
    """

def last_failure() -> str:
    """Why this thread's last framework allocation failed, or an empty text."""

def record_stream_address() -> int:
    """
    The address of the C symbol that torch calls when another stream uses an allocation.
    """

def ort_addresses() -> tuple[int, int, int]:
    """
    The addresses of the C symbols that ONNX Runtime calls: alloc, free, empty cache.
    """

def find_layout(tensor: object, alias: object, other: object) -> bool:
    """
    Finds where tensors keep what is else asked for; returns whether it did.
    """

def data_address(tensor: object) -> int:
    """Where a tensor's storage begins; 0 where it has none."""

class Versions:
    """How often tensors were changed in place, as of the last look."""

    def __init__(self, tensors: Sequence[object]) -> None: ...
    def changed(self) -> bool:
        """Whether some were since the last look; this is one."""

class Contents:
    """
    What dictionaries held, and which storages tensors had, when this was made.
    """

    def __init__(self, dicts: Sequence[dict[str, Any]], tensors: Sequence[object]) -> None: ...
    def changed(self) -> bool:
        """Whether any of it is otherwise now."""

class HookPlaces:
    """
    Where the framework looks for hooks before it calls a module's forward.
    """

    def __init__(
        self,
        of_module: Sequence[str],
        of_all: Sequence[str],
        among: dict[str, object],
        traced: object,
    ) -> None: ...
    def none(self, module: object) -> bool:
        """
        Whether a call of the module goes to its forward and does nothing else.
        """

class PresentStream:
    """The stream that the calling thread gives a card's work to."""

    def __init__(self, card: int, ask: object, function: int = 0) -> None:
        """Asks the C function at an address, or calls `ask` where that is 0."""

    def __call__(self) -> int:
        """Returns its handle."""

class CallContext:
    """
    What the leased calls of one session share.

    `program` is told of what they do, by its methods: `call_begins` of a thread's outermost
    call, `contents_changed` of a unit whose module does not hold what is leased,
    `storage_replaced` of one where a tensor has another storage after the call, `wrote` of
    ranges, `scratch_grew`. Its `activations` returns which arguments lie in the core's memory.
    """

    def __init__(self, core: Core, stream: PresentStream, program: object) -> None: ...
    def enter(self, called: object) -> None:
        """
        Notes a call on this thread, of which the program is told if it is the outermost.
        """

    def leave(self) -> None:
        """Notes its end."""

    def look_at_aliases(self) -> None:
        """Reports what was written through aliases since the last look."""

def set_capturing(capturing: bool) -> None:
    """Says whether the calling thread captures what it asks of the card."""

def note_alias(alias: object) -> None:
    """Counts the changes of an alias, if it is one of a session's weights."""

def weight_at(address: int) -> int:
    """
    The card's address of an address in a session's weights; 0 where it is in none.
    """

def newly_addressed(address: int) -> int:
    """
    As weight_at, but 0 where it is known already that the program has the address.
    """

class LeasedCall:
    """
    Calls `inner` under a lease of a group, with a budget of `least_budget` bytes or more.

    It is a module where `hooks` say where that has them. The context's program is told of `unit`.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call self as a function."""

    def __init__(
        self,
        context: CallContext,
        unit: object,
        group: int,
        inner: object,
        hooks: object | None,
        least_budget: int,
    ) -> None: ...
    def lease(
        self,
        ranges: Sequence[tuple[int, int]],
        dicts: Sequence[dict[str, Any]],
        tensors: Sequence[object],
        versioned: Sequence[object],
        always_written: bool,
    ) -> None:
        """
        Says what its group is: ranges, what the module holds, and the tensors that count.
        """

    @property
    def always_written(self) -> bool:
        """Whether its memory counts as written at each of its calls."""

    @always_written.setter
    def always_written(self, arg: bool, /) -> None: ...
    @property
    def changed(self) -> bool:
        """Whether the module does not hold what is leased."""

    @property
    def loses_writes(self) -> bool:
        """
        Whether what was written between its calls is lost where it leaves the card unnoted.
        """

    def note_writes(self) -> None:
        """
        Reports versioned tensors that were changed in place since the last look.
        """

    def fuse(self, member: LeasedCall) -> None:
        """The call of a member leases nothing while this one holds a lease."""

    def __deepcopy__(self, memo: object) -> None: ...
    def __reduce__(self) -> tuple[type, tuple[()]]: ...
