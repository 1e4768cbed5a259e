"""What the compiled functions take and how they are compiled: codes, named tuples of arrays, decorators."""

from typing import Any, NamedTuple

from numba import njit

RANDOM, MOMENTUM, FIFO, LAYERED = range(4)
QUIESCENT, OUTPUT, AFTER = range(3)
NO_RESET, SUBTRACT, VALUE = range(3)
OFF, DISCARD, INTEGRATE = range(3)
DONE, NO_ROOM, NOT_FINITE, RUNAWAY = range(4)

# columns of Events.ints and Events.floats
SOURCE, STEP, TIMESTEP, DELIVERED_TIMESTEP, DELIVERED_STEP = range(5)
AMPLITUDE, POTENTIAL = range(2)
# entries of Work.now, the scalars that change within a timestep
T, B, NEXT_STEP, HOP, FIRST_OUTPUT, OPERATIONS, UPDATES = range(7)
EVENTS, PENDING, DELIVERIES, INPUTS, LEFT = range(7, 12)

# Loops over neurons live in functions of plain arrays, which LLVM vectorizes; what passes the tuples below
# around is inlined, because passing them costs more than most of these functions do.
# Nothing allocates, so numba's reference counting is off: its atomic operations took most of the time.
# Only the two entry points are cached (see `numba_engine`): a cache knows nothing of the files it calls into.
_OPTIONS = {"nogil": True, "error_model": "numpy", "_nrt": False}
compiled = njit(**_OPTIONS)
inlined = njit(forceinline=True, **_OPTIONS)
summing = njit(fastmath={"reassoc", "contract", "nsz"}, **_OPTIONS)
entry_point = njit(cache=True, **_OPTIONS)


class Net(NamedTuple):
    """The layout of a graph and its neurons' kinds, one entry per population or projection."""

    inputs: int
    neurons: int
    output: int
    start: Any
    turn: Any
    source: Any
    target: Any
    fan_in: Any
    fan_out: Any
    first_source: Any
    weight_start: Any
    bias_start: Any
    has_out: Any
    reset: Any
    reset_value: Any
    delayed: Any
    swallow: Any
    retest: Any
    detach: Any
    spiking: Any
    refractory: Any
    refractory_dropout: Any


class Rules(NamedTuple):
    """Scalar options; `group_size` 0 means all."""

    scheduler: int
    noise: float
    group_size: int
    stop: int
    stop_steps: int
    carry: bool
    queued: bool
    max_forward_steps: int
    seed: Any
    timestep: int


class Tensors(NamedTuple):
    """Values as arrays; `compare` is the threshold such that u > compare fires; scales lie in one array."""

    x: Any
    weights: Any
    biases: Any
    leak: Any
    offset: Any
    threshold: Any
    compare: Any
    potentials: Any
    spikes: Any
    sample_ids: Any
    scales: Any
    source_scale_start: Any
    target_scale_start: Any
    has_bias: Any


class Carried(NamedTuple):
    """`PendingEvents` as arrays."""

    offsets: Any
    source: Any
    amplitude: Any
    potential: Any
    timestep: Any
    step: Any


class Out(NamedTuple):
    """Where results go; silent arrays have length 0 if no log is kept."""

    spikes: Any
    potentials: Any
    silent_step: Any
    silent_potential: Any
    turn_step: Any
    population_spikes: Any
    forward_steps: Any
    first_output: Any
    operations: Any
    updates: Any
    emitted: Any
    delivered: Any
    inputs: Any
    left: Any


class Rooms(NamedTuple):
    """More storage of one chunk: delivered inputs, events left pending, and one sample's kept state."""

    input_source: Any
    input_amplitude: Any
    left_ints: Any
    left_floats: Any
    v: Any
    fired: Any
    ranges: Any


class Work(NamedTuple):
    """One sample's state within a timestep."""

    u: Any
    compare: Any
    held: Any
    ignoring: Any
    residual: Any
    count: Any
    last_spike: Any
    last_evaluation: Any
    able: Any
    turn: Any
    turn_step: Any
    reached: Any
    found: Any
    now: Any


class Events(NamedTuple):
    """The events of one chunk, all arrays of one length.

    `ints` columns are source, step, timestep, delivered timestep and step; `pending` and `deliveries` name its
    rows, `priority` and `heap` order places in `pending`, `sources` and `amplitudes` are the group under way.
    """

    ints: Any
    floats: Any
    pending: Any
    deliveries: Any
    priority: Any
    heap: Any
    sources: Any
    amplitudes: Any


class Log(NamedTuple):
    """`EventLog` and the surrogate derivatives, as arrays."""

    emitted: Any
    source: Any
    amplitude: Any
    step: Any
    potential: Any
    delivered_step: Any
    deliveries: Any
    delivered: Any
    silent_step: Any
    silent_potential: Any
    turn_step: Any
    inputs: Any
    input_source: Any
    input_amplitude: Any
    slope: Any
    silent_slope: Any


class Run(NamedTuple):
    """What the run produced and the adjoints of it; an adjoint that is zero has length 0."""

    spikes: Any
    potentials: Any
    grad_spikes: Any
    grad_potentials: Any


class Grads(NamedTuple):
    """One chunk's sums, except for `potentials` (B, N) and `x` (T, B, S), where each sample has its own place."""

    weights: Any
    biases: Any
    leak: Any
    offset: Any
    threshold: Any
    potentials: Any
    x: Any


class Adjoints(NamedTuple):
    """One timestep's adjoints per neuron.

    `last` belongs to currents up to the last decisive evaluation (at `last_step`, -1 if there is none), `after`
    to later ones; `extra_*` list a population's earlier decisive evaluations, latest first.
    """

    current: Any  # of the potential, at the moment the backward pass has reached
    kept: Any  # of the potential kept for the next timestep
    silent: Any  # of the silent spike variables
    last: Any
    last_step: Any
    after: Any
    slot: Any
    slot_step: Any
    slot_after: Any
    extra_neuron: Any
    extra_step: Any
    extra: Any
    rows: Any  # of the sample's events
    head: Any
    following: Any
