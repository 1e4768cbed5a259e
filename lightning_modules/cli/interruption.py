"""Ctrl-C and SIGTERM end a command in one way, wherever it is."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """A signal that asks the command to end.

    Not a KeyboardInterrupt: Lightning answers that with exit code 1, and SIGTERM with 0.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise Interrupted on a signal within the block, also where its exception was replaced on the way."""
    if threading.current_thread() is not threading.main_thread():
        yield  # where signals cannot be handled
        return
    process, received = os.getpid(), []

    def interrupt(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            raise KeyboardInterrupt  # a data loader's worker, which expects this
        received.append(signum)
        raise Interrupted(signum)

    before = {signum: signal.signal(signum, interrupt) for signum in SIGNALS}
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(signal.SIGINT) from error
    except BaseException as error:
        if received and not isinstance(error, Interrupted):
            raise Interrupted(received[0]) from error
        raise
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
