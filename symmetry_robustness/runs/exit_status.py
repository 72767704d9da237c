"""Exit statuses, the one line for a user's mistake, and the outcome a job writes to its run directory."""

import errno
import inspect
import logging
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from pydoc import locate
from typing import Any, Final

from symmetry_robustness.errors import UserError, one_line
from symmetry_robustness.runs.directory import LOG, SUMMARY, is_done
from symmetry_robustness.runs.json_files import read_mapping, write_json
from symmetry_robustness.runs.provenance import PACKAGE, is_users
from symmetry_robustness.runs.signals import WARNINGS, Interrupted, Signals, slurm_job
from symmetry_robustness.runs.terminal import open_standard_streams

log = logging.getLogger(__name__)

MISTAKE: Final = 2
REQUEUED: Final = 75  # EX_TEMPFAIL of sysexits.h: try again later
# A job that has saved its state on a signal and can be resumed; 75 if Slurm was asked to do so.
RESUMABLE: Final = (REQUEUED, 130, 143)

# Errors of Hydra that do not name the setting, by their beginning, and clearer messages.
_HYDRA_MESSAGES: Final = {
    "Config group override": "a group of settings takes the name of a file of it, as in robustness=none",
    "Hydra launcher is": "hydra.launcher=null runs nothing; choose hydra/launcher=local, parallel or slurm",
    "Hydra sweeper is": "hydra.sweeper=null chooses no jobs; choose hydra/sweeper=grid or search",
    "Only one of --run": "-m, --cfg, --info and --shell-completion exclude one another; leave out -m to see settings",
}
# Options of a group that have settings.
_EXAMPLES: Final = {"logger": "logger=wandb", "robustness": "robustness=quick", "scheduler": "scheduler=cosine"}
_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # the last one: `ulimit -f`
_REFUSALS: Final = _FULL | {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EBUSY}


def run_guarded(command: Callable[[], int]) -> int:
    """Run a command; mistakes of the user's, also in code of theirs, end with one line on standard error, others pass.

    Returns:
        The command's exit status; 2 for a user's mistake or a closed standard output, 130 after Ctrl-C, 141 if the
        reader of standard output left before the command had ended.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra would otherwise print and exit by itself
    if open_standard_streams():
        print("error: standard output is closed; send it to a file, or to /dev/null", file=sys.stderr)
        return MISTAKE
    status = None
    try:
        status = command()
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        ends = isinstance(error, SystemExit)
        if ends and isinstance(error.__context__, BrokenPipeError):  # so rich ends where the reader has left
            return 128 + signal.SIGPIPE
        if not ends and any(
            isinstance(cause, KeyboardInterrupt) for cause in _causes(error)
        ):  # pydoc and others wrap a Ctrl-C
            print("interrupted", file=sys.stderr)
            return 130
        if isinstance(error, BrokenPipeError) and _reader_has_left():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
            return 128 + signal.SIGPIPE if status is None else status
        message = user_message(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        return MISTAKE
    return status


def _reader_has_left() -> bool:
    """Whether standard output is a pipe that nobody reads, as after `| head -1`."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def user_message(error: BaseException) -> str | None:
    """The one line for a user's mistake, if `error` or anything it was raised from is one; else None."""
    if isinstance(error, SystemExit):
        return _own_code_message([error])
    mistake = next((cause for cause in _causes(error) if isinstance(cause, UserError)), None)
    if mistake:
        return one_line(mistake)
    return _composition_message(error) or _own_code_message(_causes(error)) or _file_message(error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and every error that it was raised from, each once: chains of errors may be circles."""
    cause: BaseException | None = error
    seen = set[int]()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _own_code_message(errors: Iterable[BaseException]) -> str | None:
    """The first of some errors that was raised in code of the user's, or by what that code called: where, and why.

    Nothing for one that this package raised when that code called it.
    """
    for error in errors:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if is_users(frame.filename) or Path(frame.filename).is_relative_to(PACKAGE)]
        if ours and is_users(ours[-1].filename):
            last, kind = ours[-1], type(error).__name__
            text = f"{kind}: {one_line(error)}".removesuffix(f": {kind}")
            what = f"ends the program with status {error.code}" if isinstance(error, SystemExit) else text
            return f"{last.filename}, line {last.lineno}, in {last.name}: {what}; correct it there"
    return None


def _composition_message(error: BaseException) -> str | None:
    """Complaints of Hydra, OmegaConf and Lightning about names and values."""
    from hydra.errors import HydraException, InstantiationException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException

    inner = error.__cause__
    if any(type(cause).__name__ == "DistNetworkError" for cause in _causes(error)):  # torch's
        return f"processes cannot meet ({one_line(error)[:200]}); unset MASTER_ADDR and MASTER_PORT, or set a free port"
    if type(error).__name__ == "MisconfigurationException":  # Lightning's; not worth seconds of importing it
        return one_line(error)
    if source := _unreadable_settings(error):
        return f"{source} cannot be read ({one_line(error)}); correct the file"
    if isinstance(error, InstantiationException):
        where = str(error).rpartition("full_key: ")[2]
        refused = isinstance(inner, ValueError) or type(inner).__name__ == "MisconfigurationException"
        # Anything else is a bug behind a well-formed setting, and keeps its traceback.
        return f"{where}: {one_line(inner)}" if inner and refused else None
    if isinstance(error, OverrideParseException):
        reason = one_line(error).partition(" expecting ")[0].partition(" See ")[0].rpartition("Exception: ")[2]
        return f"{error.override}: {reason}; lists are [a,b], and other signs are quoted, as in 'name=\"a, b\"'"
    if isinstance(error, AssertionError | HydraException) and (message := _override_message(error)):
        return message
    if not isinstance(error, HydraException | OmegaConfBaseException):
        text = next((text for start, text in _HYDRA_MESSAGES.items() if str(error).startswith(start)), None)
        places = [dict(frame.f_locals) for frame, _ in traceback.walk_tb(error.__traceback__)]
        words = next((place["override"].input_line for place in reversed(places) if "override" in place), None)
        return f"{words}: {text}" if text and words else text
    detail = f" ({_without_key(inner)})" if isinstance(inner, OmegaConfBaseException) else ""
    message = _without_key(error).partition(" Config search path:")[0]
    message, _, addition = message.partition(" To append to your default list use ")
    group, absent, _ = message.partition(" No match in the defaults list.")
    if "@" in addition:  # a choice for a place of its own, which Hydra adds only where told so
        return f"{group} To add it, write {addition}"
    return f"{group} This command has no such group; leave it out" if absent else message + detail


def _unreadable_settings(error: BaseException) -> str | None:
    """The file of settings that Hydra was reading, which is no YAML."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    reading = [frame for frame in frames if frame.f_code.co_filename.endswith("file_config_source.py")]
    return str(reading[-1].f_locals["full_path"]) if reading else None


def _without_key(error: BaseException) -> str:
    return one_line(error).partition(" full_key:")[0]


def _override_message(error: BaseException) -> str | None:
    """An override of a key that does not exist: the nearest one, or why there is none.

    Hydra advises to append such keys, and fails with an AssertionError below a node that is null.
    """
    frames = [dict(frame.f_locals) for frame, _ in traceback.walk_tb(error.__traceback__)]
    frame = next((f for f in frames if {"cfg", "override"} <= f.keys()), None)
    if frame is None:
        return None
    override, node, place = frame["override"], frame["cfg"], ""
    for name in override.key_or_group.replace("/", ".").split("."):
        if place and not node:
            return _null_message(override.input_line, place)
        if name not in node.keys():  # noqa: SIM118 - `in node` leaves out what is not set yet
            return _unknown_message(override.input_line, place, name, node)
        node, place = node._get_node(name), f"{place}.{name}".removeprefix(".")
        if not hasattr(node, "keys"):
            break
    return None


def _null_message(words: str, place: str) -> str:
    if place == "data":  # of an evaluation
        return f"{words}: to change a setting of the checkpoint's own data set, write +{words}"
    group = place.partition(".")[0]
    remedy = f"leave it out, or select a config that defines them, as in {_EXAMPLES.get(group, f'{group}=…')}"
    return f"{words}: {place} is null, so it has no settings; {remedy}"


def _unknown_message(words: str, place: str, name: str, node: Any) -> str:
    """A key that a node lacks: the nearest of those that it has, or that its class takes."""
    known = [str(key) for key in node if not str(key).startswith("_")]
    near = get_close_matches(name, known, n=1, cutoff=0.75)
    if not near and "_target_" in node and callable(target := locate(str(node["_target_"]))):
        taken = inspect.signature(target).parameters
        if name in taken:
            return f"{words}: the configuration states no {place}.{name}; to add it, write +{words.lstrip('+')}"
        known += [key for key in taken if key not in known]
    near = near or get_close_matches(name, known, n=1)
    where = f" in {place}" if place else ""
    remedy = f"did you mean {f'{place}.{near[0]}'.lstrip('.')}?" if near else f"choose from {', '.join(known)}"
    return f"{words}: there is no {name}{where}; {remedy}"


def _file_message(error: BaseException) -> str | None:
    """A path that the machine refuses to write; a file that is merely absent may be a bug and keeps its traceback."""
    if not isinstance(error, OSError):
        return None
    if isinstance(error, FileNotFoundError) and not _exists_here():
        return "the current directory is gone; change to another one"
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    # A missing parent is the user's and no bug.
    was_writing = names[-1:] in (["mkdir"], ["makedirs"]) or "replace_file" in names
    if error.errno not in _REFUSALS and not was_writing:
        return None
    where = f"{error.filename}: " if error.filename else ""
    first = "make room, or " if error.errno in _FULL else ""
    places = "output=…, or hydra.run.dir=…, hydra.sweep.dir=… where you gave one"
    return f"{where}{error.strerror}; {first}choose another place ({places})"


def _exists_here() -> bool:
    try:
        return Path.cwd().exists()
    except FileNotFoundError:
        return False


def record_failure(error: BaseException, signals: Signals, directory: Path | None, *, leader: bool) -> int:
    """Write why a job ended to summary.json and log.txt of the run directory, if one is given; return its exit status.

    The first rank that fails gives the reason; the errors of others, or the signal by which Slurm ends them, follow.
    """
    failed_before = directory is not None and (read_mapping(directory / SUMMARY) or {}).get("status") == "failed"
    number = error.number if isinstance(error, Interrupted) else signals.received
    mistake = user_message(error) if isinstance(error, Exception) or number is None else None
    if number is None or mistake:
        if directory and not failed_before:
            write_failure(directory, error)
        return MISTAKE if mistake else 1
    if failed_before:
        return 1
    if directory and leader:  # any error after a signal, such as the loss of another rank, follows from it
        write_outcome(directory, "interrupted", f"stopped by {number.name}")
    if number in WARNINGS and slurm_job():
        return REQUEUED
    return 130 if number is signal.SIGINT else 143


def write_failure(directory: Path, error: BaseException) -> None:
    """Write why a job failed; log.txt gets the traceback, except of a mistake that a check has found."""
    mistake = user_message(error)
    checked = mistake and any(isinstance(cause, UserError) for cause in _causes(error))
    text = f"error: {mistake}\n" if checked else "".join(traceback.format_exception(error))
    write_outcome(directory, "failed", mistake or traceback.format_exception_only(error)[-1].strip(), text)


def write_outcome(directory: Path, status: str, reason: str, text: str | None = None) -> None:
    """Write how the job ended, as far as the disk allows; a run that is done stays done.

    The reason is one line for summary.json; log.txt receives `text`, by default the reason.
    """
    if is_done(directory):
        return
    try:
        write_json(directory / SUMMARY, {"status": status, "error": reason})
        with (directory / LOG).open("a", encoding="utf-8") as file:
            file.write(text or f"{reason}\n")
    except OSError as error:
        log.error("%s cannot be written (%s)", directory / SUMMARY, error.strerror or error)
