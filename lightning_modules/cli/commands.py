"""Running one command, and how its errors are told."""

import errno
import os
import sys
from typing import NoReturn

from jsonargparse import ArgumentError
from numba.core import event

from snn_async.errors import ConfigError, SnnAsyncError

from ..output_files import told
from . import COMMANDS

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Announcement(event.Listener):
    """Says once that the engine is being compiled, which takes minutes on a machine's first run."""

    told = False

    def on_start(self, _: event.Event) -> None:
        if not Announcement.told:
            print(
                "compiling the engine: on a machine's first run this takes some minutes, then never again",
                flush=True,
            )
        Announcement.told = True

    def on_end(self, _: event.Event) -> None:
        pass


def run(arguments: list[str]) -> None:
    """Run `arguments`, the command first.

    An error in the configuration, model, data or output place is one line on stderr and exit code 2.
    """
    # Lightning 2.6 uses names that jsonargparse 4.49 renamed; this is the switch for its remarks.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    # An installed script does not have the current directory, but `--model my_models:make_net` needs it.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    event.register("numba:compile", Announcement())
    try:
        _run(arguments)
    except (SnnAsyncError, ArgumentError) as error:
        _exit(str(error))
    except UnicodeDecodeError as error:
        _exit(f"the configuration is no UTF-8 text ({error}); write it again")
    except OSError as error:  # of what Lightning and matplotlib write
        if error.errno not in FULL:
            raise
        _exit(told(error))


def _exit(error: str) -> NoReturn:
    print(f"snn-async: error: {' '.join(error.split())}", file=sys.stderr)
    sys.exit(2)


def _run(arguments: list[str]) -> None:
    command = arguments[0]
    if command not in COMMANDS:
        raise ConfigError(f"{command!r} is no command; choose one of {list(COMMANDS)}")
    if command == "compare":
        from .compare_command import compare_command

        compare_command(arguments[1:])
    else:
        from .lightning_command import lightning_command

        lightning_command(arguments)
