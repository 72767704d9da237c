"""`symrob COMMAND …`: finds the command, and turns a user's mistake into one line and exit status 2."""

import errno
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from types import FrameType

from symmetry_robustness.errors import UserError, one_line

_COMMANDS = {
    "train": "train a network, evaluate its robustness after each epoch (Hydra; -m for sweeps)",
    "evaluate": "evaluate the robustness of one checkpoint (Hydra)",
    "status": "how far a sweep is, live",
    "collect": "results of a sweep in one table; what failed and how to go on",
    "report": "tables and figures from run directories",
    "data": "download, check and unpack a data set",
    "doctor": "check versions, devices, cluster, tracker, data and disks, and say what to mend",
}


# What Hydra says without naming the setting, and what to say instead.
_HYDRA_SAYS = {
    "Config group override must be": "a group of the configuration cannot be null; choose its option none, as in "
    "robustness=none",
    "Hydra launcher is not configured": "hydra.launcher=null runs nothing; choose hydra/launcher=local, parallel or "
    "slurm",
    "Hydra sweeper is not configured": "hydra.sweeper=null chooses no jobs; choose hydra/sweeper=grid or search",
    "Only one of --run, --multirun": "-m (--multirun), --cfg, --info and --shell-completion exclude one another; leave "
    "out -m to see the configuration",
}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # the last one: `ulimit -f`
_REFUSALS = _FULL | {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG}


def usage() -> str:
    """The text of `symrob --help`."""
    width = max(map(len, _COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in _COMMANDS.items()]
    return "\n".join(["usage: symrob COMMAND …", "", *lines, "", "`symrob COMMAND --help` tells more."])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after `symrob`; the process's own by default.

    Returns:
        The exit status: 0, 2 for a user's mistake, else what the command says.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0 if words else 2
    if words[0] not in _COMMANDS:
        print(f"symrob: unknown command {words[0]!r}; choose from {', '.join(_COMMANDS)}", file=sys.stderr)
        return 2
    return guarded(lambda: _command(words[0])(words[1:]))


def _command(name: str) -> Callable[[list[str]], int]:
    """Import a command, for seconds in which Ctrl-C ends the process at once.

    As an exception it would be lost where it reaches Python within a lock of its imports; nothing is written yet.
    """
    handled = threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    try:
        if handled:
            signal.signal(signal.SIGINT, _end)
        command: Callable[[list[str]], int] = importlib.import_module(f"symmetry_robustness.app.{name}").main
        return command
    finally:
        if handled:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")  # what Python buffers may be in the middle of a line
    os._exit(130)


def guarded(command: Callable[[], int]) -> int:
    """Run `command`; print a user's mistake in one line on standard error and return 2, let any other error pass."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra would otherwise print and exit by itself
    try:
        return command()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        mistake = find_mistake(error)
        if mistake is None:
            raise
        print(f"error: {mistake}", file=sys.stderr)
        return 2


def find_mistake(error: BaseException) -> str | None:
    """The one line that tells a user's mistake, if `error` or anything it was raised from is one; else None."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return one_line(cause)
        cause = cause.__cause__ or cause.__context__
    return _composition_mistake(error) or _file_mistake(error)


def _composition_mistake(error: BaseException) -> str | None:
    """What Hydra, OmegaConf and Lightning complain of in names and values."""
    from hydra.errors import HydraException, InstantiationException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException

    inner = error.__cause__
    if type(error).__name__ == "MisconfigurationException":  # Lightning's; not worth seconds of importing it
        return one_line(error)
    if isinstance(error, InstantiationException):
        where = str(error).rpartition("full_key: ")[2]
        refused = isinstance(inner, ValueError) or type(inner).__name__ == "MisconfigurationException"
        # Anything else is a bug behind a well-formed setting, and keeps its traceback.
        return f"{where}: {one_line(inner)}" if inner and refused else None
    if isinstance(error, OverrideParseException):
        return f"{error.override}: {one_line(error)}"
    if isinstance(error, AssertionError):
        return _setting_of_nothing(error)
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return next((meaning for says, meaning in _HYDRA_SAYS.items() if str(error).startswith(says)), None)
    detail = f" ({one_line(inner)})" if isinstance(inner, OmegaConfBaseException) else ""
    return one_line(error).split(" Config search path:")[0] + detail


def _setting_of_nothing(error: AssertionError) -> str | None:
    """An override below what is null, for which OmegaConf has an assertion and no name."""
    if not str(error).startswith("Unexpected type for root"):
        return None
    frames = [frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__)]
    override = next((names["override"] for names in frames if "override" in names), None)
    if override is None:
        return None
    whose = override.key_or_group.rpartition(".")[0]
    return f"{override.input_line}: {whose} has no settings as it is; choose what has them, as in logger=wandb"


def _file_mistake(error: BaseException) -> str | None:
    """A path that the machine refuses to write; a file that is merely absent may be a bug and keeps its traceback."""
    if isinstance(error, OSError) and (error.errno in _REFUSALS or _made_a_directory(error)):
        where = f"{error.filename}: " if error.filename else ""
        place = "another place (output=…, or hydra.run.dir=…, hydra.sweep.dir=… where you gave one)"
        first = "make room, or " if error.errno in _FULL else ""
        return f"{where}{error.strerror}; {first}choose {place}"
    return None


def _made_a_directory(error: OSError) -> bool:
    """Whether a directory could not be made, for which the missing path is the user's and not a bug's."""
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    return names[-1:] in (["mkdir"], ["makedirs"])


if __name__ == "__main__":
    sys.exit(main())
