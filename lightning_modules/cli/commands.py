"""Running one command, and how its errors are told."""

import os
import sys

from jsonargparse import ArgumentError

from lightning_modules.cli import COMMANDS
from snn_async.errors import ConfigError, SnnAsyncError


def run(arguments: list[str]) -> None:
    """Run `arguments`, the command first.

    An error in the configuration, model, data or output place is one line on stderr and exit code 2.
    """
    # Lightning 2.6 uses names that jsonargparse 4.49 renamed; this is the switch for its remarks.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    # An installed script does not have the current directory, but `--model my_models:make_net` needs it.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        _run(arguments)
    except (SnnAsyncError, ArgumentError) as error:
        print(f"snn-async: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def _run(arguments: list[str]) -> None:
    command = arguments[0]
    if command not in COMMANDS:
        raise ConfigError(f"{command!r} is no command; choose one of {list(COMMANDS)}")
    if command == "compare":
        from lightning_modules.cli.compare_command import compare_command

        compare_command(arguments[1:])
    else:
        from lightning_modules.cli.lightning_command import lightning_command

        lightning_command(arguments)
