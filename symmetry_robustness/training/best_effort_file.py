"""Files that training goes on without."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import final

from symmetry_robustness.files import replace_file

log = logging.getLogger(__name__)


@final
class Outlet:
    """A file that is written again and again: where that fails, one line tells so, another when it works again.

    Args:
        path: of the file.

    Attributes:
        problem: why the last attempt failed, None after a successful one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem: str | None = None

    def write(self, content: bytes | memoryview | str, *, durable: bool = False) -> None:
        """Replace the file in one step, see `replace_file`."""
        with self.attempt():
            replace_file(self.path, content, durable=durable)

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """What goes wrong with a full disk, or a directory that refuses to be written, is noted and not raised."""
        try:
            yield
        except OSError as error:
            if self.problem is None:
                log.error("%s cannot be written (%s); the job goes on without", self.path, error.strerror or error)
            self.problem = error.strerror or str(error)
        else:
            if self.problem is not None:
                log.info("%s is written again", self.path)
            self.problem = None
