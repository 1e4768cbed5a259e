"""Codes and columns that the compiled functions know by number."""

from snn_async.engines.contract import NEVER as NEVER
from snn_async.engines.contract import NOT_YET as NOT_YET

RANDOM, MOMENTUM, FIFO, LAYERED = range(4)
QUIESCENT, OUTPUT, AFTER = range(3)
NO_RESET, SUBTRACT, VALUE, SWALLOW = range(4)  # SWALLOW only as a delayed reset
OFF, DISCARD, INTEGRATE = range(3)
DONE, NO_ROOM, NOT_FINITE, RUNAWAY = range(4)

POPULATION, SUM, MAX, AND, IAND = range(5)
DENSE, CONVOLUTION, ONE_TO_ONE, WIRING = range(4)

# entries of Work.now, the scalars that change within a timestep
T, B, NEXT_STEP, HOP, FIRST_OUTPUT, OPERATIONS, UPDATES, STATUS = range(8)
EVENTS, PENDING, OLDEST, ORDERED, PICKED, DELIVERIES, INPUTS, FIRST_INPUT, LEFT, SCALARS = range(8, 18)
# columns of Net.geometry: SHARE neighbouring sources reach the same targets, each with weights SHIFT further on
KIND, CHANNELS, WIDTH, OUT_CHANNELS, OUT_HEIGHT, OUT_WIDTH, KERNEL_Y, KERNEL_X, STRIDE_Y, STRIDE_X = range(10)
DILATION_Y, DILATION_X, TOP, LEFT_SIDE, INS, OUTS, SHARE, SHIFT, TABLE, COLUMNS = range(10, 20)
# columns of Net.junction
CELL_CHANNELS, WINDOWS, INVERSE, CELL_COUNT = range(4)
# columns of the runs of an event: neighbouring weights, neighbouring targets, how many, and the targets' position
WEIGHT, TARGET, LENGTH, POSITION = range(4)
