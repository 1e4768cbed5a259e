"""The commands behind `snn-async`, and how their errors are told."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from jsonargparse import ArgumentError

from snn_async.errors import ConfigError, SnnAsyncError

COMMANDS = {
    "fit": "train a network from a YAML",
    "validate": "evaluate it on the validation data",
    "test": "evaluate it on the test data",
    "predict": "write predictions.csv: class, counts and forward steps per sample",
    "compare": "train layered and unlayered, evaluate every model under every execution, write a report",
}


def run(arguments: Sequence[str]) -> None:
    """Run one command.

    An error in the configuration, model, data or output place is one line on stderr and exit code 2.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return
    # Lightning 2.6 uses names that jsonargparse 4.49 renamed; this is the switch for its remarks.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    # An installed script does not have the current directory, but `--model my_models:make_net` needs it.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        _run(list(arguments))
    except (SnnAsyncError, ArgumentError) as error:
        _fail(error)


def _run(arguments: list[str]) -> None:
    command = arguments[0]
    if command not in COMMANDS:
        raise ConfigError(f"{command!r} is no command; choose one of {list(COMMANDS)}")
    if command == "compare":
        from lightning_modules.compare.command import compare_command

        compare_command(arguments[1:])
        return
    from lightning_modules.lightning_cli import lightning_command

    lightning_command(arguments)


def _usage() -> str:
    lines = ["usage: snn-async COMMAND --config FILE.yaml [options]", ""]
    lines += [f"  {name:<10}{text}" for name, text in COMMANDS.items()]
    return "\n".join([*lines, "", "snn-async COMMAND --help lists the options."])


def _fail(error: Exception) -> NoReturn:
    print(f"snn-async: error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(2)
