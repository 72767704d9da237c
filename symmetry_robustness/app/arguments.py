"""Command-line arguments whose mistakes are one line."""

import argparse
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from symmetry_robustness.errors import UserError


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
