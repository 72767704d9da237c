"""Text for terminals, which may be closed, not UTF-8, or gone."""

import codecs
import os
import re
import sys
from pathlib import Path
from typing import Final

_TAIL: Final = 2**13  # bytes
SIMILAR: Final = "symrob.similar"  # name of the handler of encoding errors
_ASCII: Final = str.maketrans(dict(zip("━╸●✖■○✔×−–ε", "--*x#o+x--e", strict=True)) | {"…": "...", "±": "+-"})
_ESCAPES: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


def printable(text: str) -> str:
    """One line without control characters or escape sequences."""
    line = " ".join(_ESCAPES.sub("", text).split())
    return "".join(character for character in line if character.isprintable())


def last_line(path: Path) -> str | None:
    """The last line of a file that is not empty, cut to some thousand characters; None if there is none."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            end = file.read(_TAIL)
    except OSError:
        return None
    lines = [printable(line) for line in end.decode(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), None)


def open_standard_streams() -> bool:
    """Make standard input, output and error usable in every process.

    A closed one becomes /dev/null, so that no file or pipe gets its number; a character that the terminal's encoding
    lacks is printed as a similar one, or as `?`, instead of raising UnicodeEncodeError.

    Returns:
        Whether standard output was closed.
    """
    output_closed = False
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            output_closed |= number == 1
        stream = getattr(sys, name)
        if stream is None:
            stream = open(number, "r" if number == 0 else "w", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
        if number and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=SIMILAR)
    return output_closed


def _similar(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end].translate(_ASCII)
    return lacking.encode("ascii", "replace").decode(), error.end


codecs.register_error(SIMILAR, _similar)
