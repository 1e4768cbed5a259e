"""The command line: `snn-async fit | validate | test | predict | compare`."""

import sys
from collections.abc import Sequence

from lightning_modules.interruption import Interrupted, interruptible


def main(args: Sequence[str] | None = None) -> None:
    """Run one command, see `commands.run`; `args` are those of the process if None.

    Ctrl-C and SIGTERM are one line on stderr and exit code 130 and 143.
    """
    try:
        with interruptible():
            from lightning_modules import commands  # seconds of imports, which can be interrupted too

            commands.run(sys.argv[1:] if args is None else args)
    except Interrupted as interruption:
        print("snn-async: interrupted", file=sys.stderr)
        sys.exit(128 + interruption.signum)


if __name__ == "__main__":
    main()
