"""Files that training goes on without."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import final

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
        """Replace the file in one step, so that neither a reader nor a kill ever meets half of it.

        Args:
            content: of the file.
            durable: whether it must outlast a crash of the machine, too, which takes its time.
        """
        unfinished = self.path.with_name(f"{self.path.name}.tmp")
        with self.attempt():
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with unfinished.open("wb") as file:
                    file.write(content.encode() if isinstance(content, str) else content)
                    if durable:
                        file.flush()
                        os.fsync(file.fileno())
                unfinished.replace(self.path)
            except OSError:
                with contextlib.suppress(OSError):
                    unfinished.unlink()  # a full disk has better uses
                raise

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
