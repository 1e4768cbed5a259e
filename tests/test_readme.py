"""The README's code runs as it stands and prints what it says."""

import contextlib
import io
import re
from pathlib import Path

from lightning_modules.training.lightning_warnings import quiet_lightning

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_code_of_the_readme_runs_and_prints_what_it_says(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    names: dict[str, object] = {}
    first, *others = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    expected = re.search(r"```text\n(.*?)```", README, flags=re.DOTALL)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(first, names)
    assert expected is not None and printed.getvalue() == expected[1]
    with quiet_lightning():
        for block in others:
            exec(block, names)


def test_the_code_of_how_to_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    with quiet_lightning():
        for block in re.findall(
            r"```python\n(.*?)```", (ROOT / "docs/how_to.md").read_text(), flags=re.DOTALL
        ):
            exec(block, names)
