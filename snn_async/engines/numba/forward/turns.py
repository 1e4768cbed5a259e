"""When populations take their turn and a timestep ends, compiled (docs/design.md, section 3)."""

from snn_async.engines.numba.codes import AFTER, AND, FIRST_OUTPUT, HOP, NEVER, NEXT_STEP, OUTPUT, UPDATES
from snn_async.engines.numba.forward.vectors import any_above, evaluate_all
from snn_async.engines.numba.jit import call, inlined


@inlined
def turn_changes(net, tensors, work, p):
    a, z = net.start[p], net.start[p + 1]
    if tensors.has_bias[p] or work.recurrent[p]:
        return True
    return any_above(work.current[a:z], work.base[a:z], work.gain[a:z], work.compare[a:z])


@inlined
def next_turn(net, tensors, work, end_of_phase):
    """The next turn of this phase that can change anything, -1 if there is none."""
    best = -1
    for p in range(net.populations):
        turn = work.turn[p]
        coming = work.now[HOP] < turn < end_of_phase and (best < 0 or turn < best)
        if coming and turn_changes(net, tensors, work, p):
            best = turn
    return best


@inlined
def take_turn(net, work, p):
    if work.turn_step[p] < 0:
        step, a, z = work.now[NEXT_STEP], net.block_start[p], net.block_start[p + 1]
        work.turn_step[p] = step
        work.now[UPDATES] += evaluate_all(work.able[a:z], work.last_evaluation[a:z], step)


@inlined
def skip_to(net, work, turn):
    """Let turns pass that can change nothing; turn -1 lets all pass."""
    for p in range(net.populations):
        if work.turn[p] >= work.now[HOP] and (turn < 0 or work.turn[p] < turn):
            take_turn(net, work, p)
    if turn >= 0:
        work.now[HOP] = turn


@inlined
def end_of_phase(net, rules, level):
    """The turn at which the next level of waiting junctions passes on; beyond all turns if there is none."""
    if level >= net.levels:
        return NEVER
    return (level + 1) * net.phase_length - 1 + (1 if rules.queued else 0)


@inlined
def release_level(net, work, events, kernels, turn):
    """Let the junctions of a level pass on what they held back."""
    skip_to(net, work, turn)
    for n in range(net.populations, net.nodes):
        if net.node_kind[n] >= AND and work.turn[n] == turn:
            call(kernels.release, (net, work, events, n))


@inlined
def stopped(rules, work):
    step = work.now[NEXT_STEP]
    if rules.stop == AFTER and step >= rules.stop_steps:
        return True
    if rules.stop != OUTPUT or work.now[FIRST_OUTPUT] < 0:
        return False
    return step > work.now[FIRST_OUTPUT] + rules.stop_steps
