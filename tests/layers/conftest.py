"""escnn, which the tests of this folder compare with, is imported as the package imports it."""

import warnings

from symmetry_robustness.layers.basis import planar_escnn

with warnings.catch_warnings(), planar_escnn():
    warnings.filterwarnings("ignore", message=".*py3nj.*")
    import escnn.nn  # noqa: F401
