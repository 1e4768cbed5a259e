"""The command line: `snn-async fit | validate | test | predict | compare | configs`."""

import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from .configs import listing, with_places
from .interruption import Interrupted, interruptible

COMMANDS = {
    "fit": "train a network from a YAML",
    "validate": "evaluate it on the validation data",
    "test": "evaluate it on the test data",
    "predict": "write predictions.csv: class, label, counts and forward steps per sample",
    "compare": "train layered and unlayered, evaluate every model under every execution, write a report",
    "configs": "list the configurations that come with the package, which --config takes by name",
}


def main(args: Sequence[str] | None = None) -> None:
    """Run one command, see `commands.run`; `args` are those of the process if None.

    Ctrl-C and SIGTERM are one line on stderr and exit code 130 and 143.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return
    if arguments == ["--version"]:
        print(f"snn-async {_version()}")
        return
    if arguments == ["configs"]:
        print(listing())
        return
    try:
        with interruptible():
            try:
                from .commands import run  # seconds of imports, which can be interrupted too
            except ModuleNotFoundError as error:
                print(
                    f"snn-async: error: {error}; install it with pip install 'snn-async[all]'",
                    file=sys.stderr,
                )
                sys.exit(2)
            run(with_places(arguments))
    except Interrupted as interruption:
        print("snn-async: interrupted", file=sys.stderr)
        sys.exit(128 + interruption.signum)


def _version() -> str:
    try:
        return version("snn-async")
    except PackageNotFoundError:  # a checkout on the path
        from snn_async import __version__

        return __version__


def _usage() -> str:
    lines = ["usage: snn-async COMMAND --config FILE.yaml|NAME [options]", ""]
    lines += [f"  {name:<10}{text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [*lines, "", "snn-async COMMAND --help lists the options, snn-async --version says the version."]
    )
