"""The configurations that come with the package, found by name."""

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

PLACE = Path(__file__).parents[2] / "configs"  # in a checkout


def configs() -> dict[str, Path]:
    """Return the YAML files by name, such as "compare_digits"."""
    try:
        listed = files("snn-async") or []
    except PackageNotFoundError:
        listed = []
    installed = [Path(str(file.locate())) for file in listed if file.match("snn-async/configs/*.yaml")]
    found = [file for file in installed if file.exists()] or PLACE.glob("*.yaml")
    return {file.stem: file for file in sorted(found)}


def with_places(arguments: list[str]) -> list[str]:
    """Return arguments with a configuration's name replaced by its file, where there is no file of that name."""
    known, placed = configs(), []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option, equals, name = argument.rpartition("=")
        if (option if equals else before) in ("--config", "-c") and not Path(name).exists():
            name = str(known.get(name, name))
        placed.append(f"{option}{equals}{name}")
    return placed


def listing() -> str:
    """Return a line for every configuration: its name, and what it says of itself."""
    known = configs()
    lines = [
        (name, file.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")) for name, file in known.items()
    ]
    width = max(map(len, known), default=0)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines)
