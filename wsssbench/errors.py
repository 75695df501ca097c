"""The one exception whose text is written for the person at the keyboard."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Something outside the program is wrong: one line says what, where and what to do.

    The command line prints it without a traceback; notebooks show it as the last line.
    """


def unknown(kind: str, name: object, valid: Iterable[str]) -> UserError:
    """Error for a name that is not in a table, with the nearest valid one and the whole list."""
    valid = list(valid)
    near = get_close_matches(str(name), valid, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UserError(f"Unknown {kind} {name!r}.{hint} Valid: {', '.join(valid) or '(none)'}.")
