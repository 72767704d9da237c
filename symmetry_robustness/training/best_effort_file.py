"""Files whose loss does not end a training."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import final

from symmetry_robustness.files import replace_file

log = logging.getLogger(__name__)


@final
class BestEffortFile:
    """A file rewritten on a best-effort basis; the first failure and the recovery are each logged once.

    Args:
        path: of the file.

    Attributes:
        last_error: reason of the last failure, None after a successful write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last_error: str | None = None

    def write(self, content: bytes | memoryview | str, *, durable: bool = False) -> None:
        """Replace the file in one step, see `replace_file`."""
        with self.attempt():
            replace_file(self.path, content, durable=durable)

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Record an OSError of the block, as from a full disk, instead of raising it."""
        try:
            yield
        except OSError as error:
            if self.last_error is None:
                log.error("%s cannot be written (%s); the job continues without it", self.path, error.strerror or error)
            self.last_error = error.strerror or str(error)
        else:
            if self.last_error is not None:
                log.info("%s is written again", self.path)
            self.last_error = None
