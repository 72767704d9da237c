"""The one exception type that stands for a mistake of the user's rather than of the program's."""


class UserError(ValueError):
    """Bad input; the message is one line that names the setting, the value and the remedy.

    The command line prints the message without a traceback and exits with status 2.
    """


def one_line(error: BaseException) -> str:
    """Message of an error in one line; its type if the message is empty."""
    return " ".join(str(error).split()) or type(error).__name__
