"""The results as a table, in the terminal and in the report."""

import math
from collections.abc import Sequence

from rich import box
from rich.table import Table

from .results import Row, in_percent, over_seeds

HEADERS = (
    "training",
    "execution",
    "F",
    "stop",
    "accuracy %",
    "spikes",
    "steps",
    "latency",
    "syn. operations",
)
COLUMNS = 7  # that fit a terminal of 80 characters


def summary(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return one line per training and execution: means over seeds, accuracy with its standard deviation."""
    groups = dict.fromkeys((row.case.training, row.condition) for row in rows)
    lines = []
    for training, condition in groups:

        def where(row: Row, training: str = training, condition: object = condition) -> bool:
            return row.case.training == training and row.condition == condition

        accuracy, sd = over_seeds(rows, "accuracy", where)
        averages = [over_seeds(rows, name, where)[0] for name in ("spikes", "forward_steps", "latency")]
        operations = over_seeds(rows, "synaptic_operations", where)[0]
        lines.append(
            (
                *(training, condition.execution, condition.size, condition.stop),
                in_percent(accuracy, sd),
                *("-" if math.isnan(value) else f"{value:.1f}" for value in averages),
                f"{operations:.0f}",
            )
        )
    return lines


def rich_table(rows: Sequence[Row]) -> Table:
    """Return the summary for the terminal, a section per training, without the early stops of the figure."""
    table = Table(
        title="Means over seeds",
        caption="per sample, forward steps per timestep",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for i, header in enumerate(HEADERS[:COLUMNS]):
        table.add_column(header, justify="left" if i < 4 else "right", no_wrap=True)
    lines = [line[:COLUMNS] for line in summary(rows) if not line[3].startswith("after")]
    for line, following in zip(lines, [*lines[1:], None], strict=True):
        table.add_row(*line, end_section=following is not None and following[0] != line[0])
    return table
