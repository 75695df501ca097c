"""How every command of the package ends: an error for people, an interruption, SIGTERM."""

import signal
import sys
from collections.abc import Callable

from wsssbench.errors import UserError


def run_command(function: Callable[[], object]) -> None:
    """Call `function`; a UserError becomes one line and exit status 1, an interruption 130.

    Raises:
        SystemExit: in both cases.
    """
    try:
        function()
    except UserError as error:
        raise SystemExit(f"Error: {error}") from error
    except KeyboardInterrupt as error:
        print("Interrupted.", file=sys.stderr)
        raise SystemExit(130) from error


def stop_on_sigterm() -> None:
    """Take SIGTERM, as Slurm and DVC send it, for Ctrl-C, so that children are stopped too."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
