"""The examples in docstrings run, and print what they say."""

import doctest
import warnings
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

# Examples may use these without importing them.
GLOBALS = {"np": np, "torch": torch, "nn": nn}
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PACKAGE = Path(__file__).parents[1] / "symmetry_robustness"
MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("module", MODULES)
def test_examples_of(module: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries that a module imports
        imported = import_module(module)
    result = doctest.testmod(imported, extraglobs=GLOBALS, optionflags=OPTIONS)
    assert result.attempted > 0
    assert not result.failed
