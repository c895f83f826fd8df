"""The one exception that ends a command in one line instead of a traceback."""

import difflib


class UserError(Exception):
    """A mistake that only the user can mend: the message says what, which value and what to do.

    Attributes:
      exit_code: of the command that it ends.
    """

    exit_code = 2


class Stuck(UserError):
    """Something on this machine does not come back, such as a write to a dead file system."""


class PeerLost(UserError):
    """Another process of the run did not come, or is gone: run the same command again, in all."""

    exit_code = 76


class EmptySplit(UserError):
    """The data have no images for a split."""


def suggest(name: str, names: list[str]) -> str:
    """'; did you mean X?' for the nearest known name, or '' when none is near."""
    near = difflib.get_close_matches(name, names, n=1)
    if not near:  # the right field in the wrong group is still worth naming
        last = name.rsplit(".", 1)[-1]
        near = [k for k in names if k.rsplit(".", 1)[-1] == last][:1]
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(names)}"
