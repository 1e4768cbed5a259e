"""report.html: one file with the figures, the table, the settings and the versions."""

import base64
import platform
from collections.abc import Mapping, Sequence
from html import escape
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from .findings import differences, headline
from .results import MEASURES, Row
from .table import HEADERS, summary

PACKAGES = ("snn-async", "torch", "numpy", "numba", "snntorch", "spikingjelly", "pytorch-lightning", "tonic")
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem;
   margin: 2rem auto; padding: 0 1rem; color: #222 }
img { max-width: 100% } table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .15rem .7rem; border-bottom: 1px solid #ddd; text-align: right }
td:nth-child(-n+3), th:nth-child(-n+3) { text-align: left }
tbody th { padding-top: .8rem } .found { font-size: 1.25rem; font-weight: 600 }
summary { cursor: pointer; margin: 1rem 0 }
pre { background: #f5f5f5; padding: 1rem; overflow: auto }
"""

INTRODUCTION = """
<p>Each row of the matrix is one way of training, each column one way of running the same weights.
<b>Layered</b>: every layer waits for the whole one before it, as simulators do. <b>Random</b> and <b>momentum</b>:
no layer waits; of all spikes on their way, at most <b>F</b> are delivered per forward step, picked at random or by
highest membrane potential. A timestep ends when nothing is on its way (<b>quiescent</b>) or at the first output spike
(<b>output</b>). What layered training loses in the other columns, training without the barrier is meant to win back.
&plusmn; is the standard deviation over seeds.</p>
"""
INTERVALS = """ An interval that contains 0 says that these seeds do not show a difference, not that there is none.
Each stands for itself: of twenty without a difference, one misses 0 by chance."""
FOLDS = " The folds share training data, so that the intervals are rather too narrow."


def html(rows: Sequence[Row], figures: Mapping[str, Path], settings: str, trained_size: str = "") -> str:
    """Return the page.

    Args:
        figures: PNG files by caption.
        settings: the YAML.
        trained_size: see `findings.differences`.
    """
    images = "".join(
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{_encode(path)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for caption, path in figures.items()
    )
    measures = "".join(f"<li><code>{escape(k)}</code>: {escape(v)}</li>" for k, v in MEASURES.items())
    lines = summary(rows)
    ends = [line for line in lines if not line[3].startswith("after")]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>snn-async compare</title>'
        f"<style>{STYLE}</style></head><body><h1>Layered and asynchronous execution</h1>"
        f'<p class="found">{escape(headline(rows, trained_size))}</p>{INTRODUCTION}{images}'
        f"<h2>Differences</h2>{_differences(rows, trained_size)}"
        f"<h2>Means over seeds</h2>{_grouped(ends)}"
        f"<details><summary>All {len(lines)} rows, with those stopped early</summary>{_grouped(lines)}</details>"
        f"<details><summary>Columns of results.csv</summary><ul>{measures}</ul></details>"
        f"<h2>Settings</h2><pre>{escape(settings)}</pre>"
        f"<h2>Versions</h2>{_table(('package', 'version'), _body(versions()))}</body></html>\n"
    )


def versions() -> list[tuple[str, str]]:
    """Return the installed versions of Python and the packages that results may depend on."""
    found = [("python", platform.python_version())]
    for package in PACKAGES:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            found.append((package, "not installed"))
    return found


def _differences(rows: Sequence[Row], trained_size: str) -> str:
    found = differences(rows, trained_size)
    headers = ["trained", "run", "instead of", "difference"]
    lines = [[d.trained, d.run, d.against, f"{d.value:+.1f}"] for d in found]
    about = "Accuracy in points, model against model of the same seed."
    if any(d.measurable for d in found):
        headers += ["95 % interval", ""]
        for line, d in zip(lines, found, strict=True):
            line += [d.interval, "" if d.significant else "not significant with these seeds"]
        about += INTERVALS + (FOLDS if any(row.case.fold is not None for row in rows) else "")
    return f"<p>{about}</p>{_table(headers, _body(lines))}"


def _grouped(lines: Sequence[Sequence[str]]) -> str:
    """Return the summary, a heading for every training."""
    trainings = list(dict.fromkeys(line[0] for line in lines))
    ordered = sorted(lines, key=lambda line: trainings.index(line[0]))
    groups = (
        f'<tr><th colspan="{len(HEADERS) - 1}">trained {escape(training)}</th></tr>'
        + _body([line[1:] for line in group])
        for training, group in groupby(ordered, key=itemgetter(0))
    )
    return _table(HEADERS[1:], "".join(groups))


def _table(headers: Sequence[str], body: str) -> str:
    head = "".join(f"<th>{escape(h)}</th>" for h in headers)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _body(lines: Sequence[Sequence[str]]) -> str:
    return "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)


def _encode(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
