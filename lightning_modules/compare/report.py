"""report.html: one file with the figures, the table, the settings and the versions."""

import base64
import platform
from collections.abc import Mapping, Sequence
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lightning_modules.compare.results import MEASURES, Row
from lightning_modules.compare.table import HEADERS, summary

PACKAGES = ("snn-async", "torch", "numpy", "numba", "snntorch", "spikingjelly", "pytorch-lightning", "tonic")
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem;
   margin: 2rem auto; padding: 0 1rem; color: #222 }
img { max-width: 100% } table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .15rem .7rem; border-bottom: 1px solid #ddd; text-align: right }
td:nth-child(-n+4), th:nth-child(-n+4) { text-align: left }
pre { background: #f5f5f5; padding: 1rem; overflow: auto }
"""

INTRODUCTION = """
<p>Each row of the matrix is one way of training, each column one way of running the same weights.
<b>Layered</b>: every layer waits for the whole one before it, as simulators do. <b>Random</b> and <b>momentum</b>:
no layer waits; of all spikes on their way, at most <b>F</b> are delivered per forward step, picked at random or by
highest membrane potential. A timestep ends when nothing is on its way (<b>quiescent</b>) or at the first output spike
(<b>output</b>). Networks trained layered lose accuracy in the other columns; training without the barrier is meant to
win it back. &plusmn; is the standard deviation over seeds: differences below it mean little. Populations are named by
their place in the model; the last one is the output.</p>
"""


def html(rows: Sequence[Row], figures: Mapping[str, Path], settings: str) -> str:
    """Return the page; `figures` maps captions to PNG files, `settings` is the YAML."""
    images = "".join(
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{_encode(path)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for caption, path in figures.items()
    )
    measures = "".join(f"<li><code>{escape(k)}</code>: {escape(v)}</li>" for k, v in MEASURES.items())
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>snn-async compare</title>'
        f"<style>{STYLE}</style></head><body><h1>Layered and asynchronous execution</h1>{INTRODUCTION}{images}"
        f"<h2>Means over seeds</h2>{_table(HEADERS, summary(rows))}"
        f"<h2>Columns of results.csv</h2><ul>{measures}</ul>"
        f"<h2>Settings</h2><pre>{escape(settings)}</pre>"
        f"<h2>Versions</h2>{_table(('package', 'version'), versions())}</body></html>\n"
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


def _table(headers: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(h)}</th>" for h in headers)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _encode(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
