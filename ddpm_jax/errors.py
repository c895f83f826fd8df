"""The one exception that ends a command in one line instead of a traceback."""


class UserError(Exception):
    """A mistake that only the user can mend: the message says what, which value and what to do."""


class Stuck(UserError):
    """Something on this machine does not come back, such as a write to a dead file system."""


class EmptySplit(UserError):
    """The data have no images for a split."""
