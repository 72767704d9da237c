"""Command-line arguments whose mistakes are one line."""

import argparse
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from symmetry_robustness.errors import UserError


def path(text: str) -> Path:
    """A path of the command line, of which an empty one would be the current directory.

    Raises:
        ArgumentTypeError: it is empty, as that of a shell variable that is not set.
    """
    if not text:
        raise argparse.ArgumentTypeError("the name is empty; give one, . is the current directory")
    return Path(text)


class Parser(argparse.ArgumentParser):
    """Argparse, but an unknown option names the nearest known one, and no mistake prints the usage."""

    def error(self, message: str) -> NoReturn:
        """Refuse arguments.

        Raises:
            UserError: always.
        """
        raise UserError(f"{message}; `{self.prog} --help` has the arguments")

    def parse_args(self, args: Sequence[str], namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse `args`.

        Raises:
            UserError: they are wrong.
        """
        known = [option for action in self._actions for option in action.option_strings]
        for word in args:
            name = word.partition("=")[0]
            if name.startswith("--") and name != "--" and not any(option.startswith(name) for option in known):
                near = get_close_matches(name, known, n=1)
                self.error(f"unknown option {name}" + (f", did you mean {near[0]}?" if near else ""))
        return super().parse_args(args, namespace)
