"""What the compiled functions take: named tuples of arrays (codes and columns: `codes`)."""

from typing import Any, NamedTuple


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
    detach: Any
    inclusive: Any
    spiking: Any
    delayed: Any  # the delayed reset of a `LinearNeuron`, NO_RESET if it has none
    retest: Any
    refractory: Any
    refractory_dropout: Any
    most_runs: int  # of one event
    most_patch: int  # adjoints around one source
    most_sources: int  # of one projection or all inputs
    most_cells: int  # neurons or cells of one node


class Rules(NamedTuple):
    """Scalar options; `group_size` 0 means all."""

    seed: Any
    timestep: int
    scheduler: int
    noise: float
    by_potential: bool
    group_size: int
    stop: int
    stop_steps: int
    carry: bool
    queued: bool
    max_forward_steps: int


class Tensors(NamedTuple):
    """The values of T timesteps as arrays.

    One timestep of any neuron is one of a `LinearNeuron` with leak 1 and offset 0, its potential the given base.
    `gain`, `threshold` and `compare` have a row per sample, or one for all (`row_of`).
    """

    x: Any  # (T, B, S)
    weights: Any
    biases: Any
    leak: Any  # (N,)
    offset: Any
    gain: Any
    threshold: Any
    compare: Any  # a potential above it fires
    potentials: Any  # (B, N) at the start
    fired: Any  # (B, N) spike counts that a delayed reset sees
    last_spikes: Any  # (B, N)
    sample_ids: Any
    scales: Any  # all dropout factors in one array
    source_scale_start: Any
    target_scale_start: Any
    has_bias: Any
    one: Any  # the weight of wiring


class Carried(NamedTuple):
    """`PendingEvents` as arrays, with the rows of each sample."""

    offsets: Any
    source: Any
    amplitude: Any
    potential: Any
    timestep: Any
    step: Any


class Out(NamedTuple):
    """Where results go; `arrived` and the silent arrays have length 0 where nobody asks for them."""

    spikes: Any
    potentials: Any
    arrived: Any  # currents, unscaled
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
    left: Any  # how many events each sample left pending


class Rooms(NamedTuple):
    """More storage of one chunk: delivered inputs, rows left pending; for a barrier, each node's rows of a timestep."""

    input_source: Any
    input_amplitude: Any
    left: Any
    ranges: Any


class Work(NamedTuple):
    """One sample's state within a timestep.

    `current` has a place for every receiver: what arrived at neurons, then cells. `dirty` marks the blocks that the
    forward step under way reached, all within `bounds` of each node.
    """

    current: Any
    base: Any
    gain: Any
    compare: Any
    held: Any  # the current of a neuron that ignores what arrives
    ignoring: Any
    residual: Any  # lowers the potential for this timestep only
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
    flags: Any  # one for each of most neurons or inputs
    words: Any  # the same memory
    found: Any
    bins: Any
    leads: Any
    own: Any  # units of one projection that events come from
    factors: Any  # what these carry
    summed: Any  # currents of one projection
    runs: Any
    coefficients: Any
    now: Any


class Events(NamedTuple):
    """The events of one chunk, all arrays of one length: columns of its log, then what is pending or under way."""

    source: Any
    step: Any
    timestep: Any
    delivered_step: Any
    cell: Any
    amplitude: Any
    potential: Any
    current: Any
    deliveries: Any  # rows
    pending: Any  # rows
    key: Any  # of what is pending
    chosen: Any  # rows
    sources: Any
    amplitudes: Any


class Kernels(NamedTuple):
    """Where compiled functions lie; `add` has one for each projection."""

    add: Any
    timestep: int
    oldest: int
    pick: int
    evaluate: int
    begin_junctions: int
    pass_on: int
    release: int


class BackKernels(NamedTuple):
    """The same for the replay."""

    add: Any
    back: Any
    prepare_junction: int


class Log(NamedTuple):
    """The event log of T timesteps, rows of one chunk of samples, or of all.

    An event that was delivered has one delivery, through all projections that leave its source. Behind a barrier its
    forward step is that of the target, `turn_step`, which then names the step of instant junctions, too. For a junction
    that waits, `turn_step` is the forward step before which it was released.
    """

    emitted: Any  # (B, T + 2) rows of each sample: carried in, emitted in timestep 0, 1, ...
    source: Any  # (E,)
    amplitude: Any
    step: Any
    potential: Any
    current: Any
    cell: Any
    delivered_step: Any
    deliveries: Any  # rows in order of delivery
    delivered: Any  # (B, T + 1) where each timestep's begin
    silent_step: Any  # (T, B, N)
    silent_potential: Any
    arrived: Any  # (T, B, N) currents at the end; at a silent evaluation it was the same
    turn_step: Any  # (T, B, P + J)
    inputs: Any  # (B, T + 1) where the inputs that step 0 delivers begin
    input_source: Any
    input_amplitude: Any
    carried: Any  # (B + 1,) places in `PendingEvents`
    left: Any  # rows that stay pending
    left_start: Any  # (B + 1,)


class Run(NamedTuple):
    """What the run produced, the surrogate derivatives, and the adjoints of it; one that is zero has length 0."""

    spikes: Any
    potentials: Any
    form: Any  # of each population's surrogate (`backward.slopes`): GIVEN, or its slopes are computed
    parameter: Any
    slope: Any  # the given ones; of length 0 if there are none
    silent_slope: Any
    grad_spikes: Any
    grad_arrived: Any
    grad_potentials: Any
    grad_left: Any
    needs_biases: bool


class Grads(NamedTuple):
    """One chunk's sums, but for x (T, B, S), (B, N) arrays and `carried` (E,), where each sample has its own place.

    `gain` and `threshold` have a row per sample, or one for all.
    """

    x: Any
    weights: Any
    biases: Any
    leak: Any
    offset: Any
    gain: Any
    threshold: Any
    potentials: Any
    last_spikes: Any
    carried: Any


class Adjoints(NamedTuple):
    """One timestep's adjoints.

    `last` belongs to currents up to the last decisive evaluation (at `last_step`, -1 if there is none), `after`
    to later ones; `extra_*` list a population's earlier decisive evaluations, latest first. `slot*` and `first*` are
    the adjoints of currents as the walk through a projection's deliveries sees them, `would_be` those of silent ones,
    `start` those of zero inputs delivered in forward step 0.
    """

    potential: Any  # at the moment the backward pass has reached
    kept: Any  # of the potential kept for the next timestep
    arrived: Any  # of the current at the timestep's end, beside its effect on the potential
    gain: Any
    threshold: Any
    own_gain: Any  # not an adjoint: potential per current in this timestep
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
    slope: Any  # of silent evaluations
    one: Any
    unused: Any  # where the gradient of wiring's weight goes
