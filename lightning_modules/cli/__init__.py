"""The command line: `snn-async fit | validate | test | predict | compare`."""

import sys
from collections.abc import Sequence

from lightning_modules.cli.interruption import Interrupted, interruptible

COMMANDS = {
    "fit": "train a network from a YAML",
    "validate": "evaluate it on the validation data",
    "test": "evaluate it on the test data",
    "predict": "write predictions.csv: class, counts and forward steps per sample",
    "compare": "train layered and unlayered, evaluate every model under every execution, write a report",
}


def main(args: Sequence[str] | None = None) -> None:
    """Run one command, see `commands.run`; `args` are those of the process if None.

    Ctrl-C and SIGTERM are one line on stderr and exit code 130 and 143.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return
    try:
        with interruptible():
            from lightning_modules.cli.commands import run  # seconds of imports, which can be interrupted too

            run(arguments)
    except Interrupted as interruption:
        print("snn-async: interrupted", file=sys.stderr)
        sys.exit(128 + interruption.signum)


def _usage() -> str:
    lines = ["usage: snn-async COMMAND --config FILE.yaml [options]", ""]
    lines += [f"  {name:<10}{text}" for name, text in COMMANDS.items()]
    return "\n".join([*lines, "", "snn-async COMMAND --help lists the options."])
