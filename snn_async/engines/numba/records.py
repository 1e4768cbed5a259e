"""What the compiled functions take and how they are compiled: codes, named tuples of arrays, decorators."""

from typing import Any, NamedTuple

from numba import njit

RANDOM, MOMENTUM, FIFO, LAYERED = range(4)
QUIESCENT, OUTPUT, AFTER = range(3)
NO_RESET, SUBTRACT, VALUE = range(3)
OFF, DISCARD, INTEGRATE = range(3)
DONE, NO_ROOM, NOT_FINITE, RUNAWAY = range(4)

POPULATION, SUM, MAX, AND, IAND = range(5)
DENSE, CONVOLUTION, ONE_TO_ONE, WIRING = range(4)

# columns of Events.ints and Events.floats
SOURCE, STEP, TIMESTEP, DELIVERED_TIMESTEP, DELIVERED_STEP, CELL = range(6)
AMPLITUDE, POTENTIAL = range(2)
# entries of Work.now, the scalars that change within a timestep
T, B, NEXT_STEP, HOP, FIRST_OUTPUT, OPERATIONS, UPDATES = range(7)
EVENTS, PENDING, DELIVERIES, INPUTS, LEFT = range(7, 12)
# columns of Net.geometry: SHARE neighbouring sources reach the same targets, each with weights SHIFT further on
KIND, CHANNELS, WIDTH, OUT_CHANNELS, OUT_HEIGHT, OUT_WIDTH, KERNEL_Y, KERNEL_X, STRIDE_Y, STRIDE_X = range(10)
DILATION_Y, DILATION_X, TOP, LEFT_SIDE, INS, OUTS, SHARE, SHIFT, TABLE, COLUMNS = range(10, 20)
# columns of Net.junction
CELL_CHANNELS, WINDOWS, INVERSE, CELL_COUNT = range(4)
# columns of the runs of an event: neighbouring weights, neighbouring targets, how many, and the targets' position
WEIGHT, TARGET, LENGTH, POSITION = range(4)

# Loops over neurons live in functions of plain arrays, which LLVM vectorizes; what passes the tuples below
# around is inlined, because passing them costs more than most of these functions do.
# Nothing allocates, so numba's reference counting is off: its atomic operations took most of the time.
# Only the entry points are called from Python: wrappers of the others would be copies that take time to compile.
# Only the two entry points are cached (see `numba_engine`): a cache knows nothing of the files it calls into.
_OPTIONS = {"nogil": True, "error_model": "numpy", "_nrt": False}
_INNER = _OPTIONS | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
compiled = njit(**_INNER)
open_inlined = njit(forceinline=True, **_OPTIONS)  # can be called from Python, too
inlined = njit(forceinline=True, **_INNER)
summing = njit(fastmath={"reassoc", "contract", "nsz"}, **_INNER)
entry_point = njit(cache=True, **_OPTIONS)


class Net(NamedTuple):
    """The layout of a graph and its neurons' kinds, one entry per population, node or projection.

    Nodes are numbered as in `Layout`, with two exceptions: `node_of` names the node of every source and counts the
    input as 0, a population or junction n as n + 1. `block` is how many neighbouring neurons or cells of a node are
    always reached together; blocks are numbered through from `block_start`.
    """

    inputs: int
    neurons: int
    cells: int
    populations: int
    nodes: int
    output: int
    levels: int  # of waiting junctions
    phase_length: int
    start: Any
    order: Any
    turn: Any
    node_kind: Any  # POPULATION or the junction's
    node_of: Any
    size: Any
    first_unit: Any
    first_receiver: Any
    block: Any
    block_start: Any
    junction: Any  # columns CELL_CHANNELS to CELL_COUNT
    window_offsets: Any  # of all "max" junctions, absolute; from column WINDOWS
    window_positions: Any
    inverse_offsets: Any  # the windows of every cell position; from column INVERSE
    inverse_windows: Any
    first_counts: Any  # whether the replay needs its rows' adjoints at first evaluations
    near_input: Any  # whether inputs reach the junction through junctions only
    source: Any
    target: Any
    fan_in: Any
    fan_out: Any
    first_source: Any
    first_target: Any
    delayed_edge: Any
    weighted: Any
    geometry: Any
    table_offsets: Any  # of all Wirings, absolute; from column TABLE
    table_positions: Any
    table_values: Any
    weight_start: Any
    weight_count: Any
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
    """One sample's state within a timestep.

    `u` has a place for every receiver: neurons' potentials, then cells. `dirty` marks the blocks that the forward step
    under way reached, all within `bounds` of each node.
    """

    u: Any
    compare: Any
    held: Any
    ignoring: Any
    residual: Any
    count: Any
    last_spike: Any
    last_evaluation: Any  # of each block
    able: Any  # neurons of each block that are not refractory
    turn: Any
    turn_step: Any
    recurrent: Any  # whether last timestep's spikes reach the population
    dirty: Any
    bounds: Any
    dirty_unit: Any  # of a "max": whose window was reached
    holder: Any
    maximum: Any
    change: Any
    found: Any
    bins: Any
    leads: Any
    runs: Any
    coefficients: Any
    now: Any


class Events(NamedTuple):
    """The events of one chunk, all arrays of one length.

    `ints` columns are source, step, timestep, delivered timestep and step, cell; `pending` and `deliveries` name its
    rows, `priority`, `scratch` and `chosen` order places in `pending`, `sources` and `amplitudes` are events under way.
    """

    ints: Any
    floats: Any
    pending: Any
    deliveries: Any
    priority: Any
    scratch: Any
    chosen: Any
    sources: Any
    amplitudes: Any


class Log(NamedTuple):
    """`EventLog` and the surrogate derivatives, as arrays."""

    emitted: Any
    source: Any
    amplitude: Any
    step: Any
    potential: Any
    cell: Any
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
    """One timestep's adjoints.

    `last` belongs to currents up to the last decisive evaluation (at `last_step`, -1 if there is none), `after`
    to later ones; `extra_*` list a population's earlier decisive evaluations, latest first. `slot*` and `first*` are
    the adjoints of currents as the walk through a projection's deliveries sees them, `would_be` those of silent ones,
    `start` those of zero inputs delivered in forward step 0.
    """

    current: Any  # of the potential, at the moment the backward pass has reached
    kept: Any  # of the potential kept for the next timestep
    counts: Any  # of the spike counts
    recurrent: Any  # of last timestep's spike counts
    silent: Any  # of the silent spike variables and of what junctions' units have not passed on
    last: Any
    last_step: Any
    after: Any
    slot: Any
    slot_step: Any
    slot_after: Any
    first: Any
    first_step: Any
    would_be: Any
    start: Any
    early: Any  # of what junctions' units might have passed on in forward step 0
    extra_neuron: Any
    extra_step: Any
    extra: Any
    rows: Any  # of the sample's events
    first_rows: Any  # of the same, counting first evaluations only
    previous: Any  # of a "max" row, the cell that held the maximum before
    holder: Any
    cells: Any
    start_cells: Any
    at: Any
    emissions: Any  # the timestep's rows by node, in order of emission
    emission_start: Any
    deliveries: Any  # likewise, in order of delivery
    delivery_start: Any
    sources: Any
    amplitudes: Any
    active: Any
    runs: Any
    coefficients: Any
    merged: Any
    patch: Any
    chosen: Any
    totals: Any
