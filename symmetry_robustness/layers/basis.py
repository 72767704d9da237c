"""Bases of equivariant kernels, solved by escnn and cached on disk; the only module that imports escnn."""

import contextlib
import functools
import importlib.metadata
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from symmetry_robustness.errors import UserError
from symmetry_robustness.layers.disk_cache import Arrays, load_or_compute
from symmetry_robustness.layers.groups import FieldType
from symmetry_robustness.layers.validation import require_odd

# Goes up when the same settings are to give another basis, so that older files are no longer found.
BASIS_FORMAT = 1

_LIE_LEARN = (
    "lie_learn",
    "lie_learn.representations",
    "lie_learn.representations.SO3",
    "lie_learn.representations.SO3.wigner_d",
)


class SteerableBasis(NamedTuple):
    """Basis of all equivariant kernels from one input field to one output field.

    Attributes:
        filters: (d, o, i, k, k), d kernels from the i channels of a field to the o channels of a field.
        deviation: (d,) standard deviation of each coefficient at the start, for one input field. Source: the
            generalised He initialisation of Weiler & Cesa 2019, arXiv 1911.08251.
    """

    filters: Tensor
    deviation: Tensor


@functools.cache
def steerable_basis(group: str, in_representation: str, out_representation: str, kernel_size: int) -> SteerableBasis:
    """Basis of equivariant kernels; solved once and cached in memory and on disk; never change it in place.

    Raises:
        UserError: unknown group or representation, or an even kernel size.
    """
    in_type, out_type = FieldType(group, in_representation, 1), FieldType(group, out_representation, 1)
    require_odd(kernel_size)
    shape = (out_type.size, in_type.size, kernel_size, kernel_size)

    def accept(arrays: Arrays) -> bool:
        filters, deviation = arrays.get("filters"), arrays.get("deviation")
        return (
            filters is not None
            and deviation is not None
            and filters.dtype == deviation.dtype == np.float32
            and filters.shape == (*deviation.shape, *shape)
            and bool(np.isfinite(filters).all() and np.isfinite(deviation).all())
        )

    names = {"group": group, "in": in_representation, "out": out_representation, "kernel_size": kernel_size}
    arrays = load_or_compute(
        {"escnn": _escnn_version(group), "format": BASIS_FORMAT, **names},
        lambda: _computed_basis(in_type, out_type, kernel_size),
        accept,
    )
    # Ordinary tensors in any device context and mode of the caller.
    with torch.device("cpu"), torch.inference_mode(False):
        return SteerableBasis(torch.from_numpy(arrays["filters"]), torch.from_numpy(arrays["deviation"]))


def _escnn_version(group: str) -> str:
    """Version of escnn, without the seconds that its import takes.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.metadata.version("escnn")
    except importlib.metadata.PackageNotFoundError as error:
        raise _missing(group) from error


def _missing(group: str) -> UserError:
    return UserError(f"group {group!r} needs escnn; install it alone: pip install --no-deps escnn==1.0.11")


def _computed_basis(in_type: FieldType, out_type: FieldType, kernel_size: int) -> Arrays:
    """Have escnn solve for the kernels between two fields; `filters` and `deviation` as in `SteerableBasis`."""
    state = np.random.get_state()  # noqa: NPY002  # escnn draws from it; what a run draws later must not depend on this
    try:
        with (
            torch.device("cpu"),
            torch.inference_mode(False),
            torch.autocast("cpu", enabled=False),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", message=".*py3nj.*")  # needed in three dimensions only
            try:
                with planar_escnn():
                    from escnn import gspaces
                    from escnn import nn as escnn_nn
            except ModuleNotFoundError as error:
                if error.name != "escnn":
                    raise
                raise _missing(in_type.group) from error

            reflects, rotations = in_type.group[0] == "D", int(in_type.group[1:])
            space = (gspaces.flipRot2dOnR2 if reflects else gspaces.rot2dOnR2)(rotations)
            ends = [escnn_nn.FieldType(space, [_escnn_representation(space, end)]) for end in (in_type, out_type)]
            try:
                with _plain_linear_algebra():
                    convolution = escnn_nn.R2Conv(*ends, kernel_size, initialize=False)
            except ValueError as error:
                if "empty" not in str(error):
                    raise
                raise UserError(
                    f"kernel_size {kernel_size} holds no kernel from {in_type.representation} to "
                    f"{out_type.representation}; choose {kernel_size + 2}"
                ) from error
            expansion = convolution.basisexpansion
            filters = torch.stack([expansion(row) for row in torch.eye(convolution.weights.numel())]).detach()
            # Private, but the one place that knows the law; escnn is locked to one version.
            deviation = escnn_nn.init._generalized_he_init_variances(expansion)
    finally:
        np.random.set_state(state)  # noqa: NPY002
    # For D_N escnn finds each kernel as the null vector of a matrix, whose sign is the linear algebra library's choice.
    # Weights must mean the same on every machine, so the first of the largest entries is made positive.
    flat = filters.flatten(1)
    sizes = flat.abs()
    first = (sizes > 0.999 * sizes.amax(1, keepdim=True)).int().argmax(1, keepdim=True)
    signed = (flat * flat.gather(1, first).sign()).view(*filters.shape[:3], kernel_size, kernel_size)
    return {"filters": signed.numpy(), "deviation": deviation.numpy()}


def _escnn_representation(space: Any, field_type: FieldType) -> Any:
    """The representation of one field as escnn knows it."""
    parts = []
    for part in field_type.parts:
        if part.kind == "irrep":
            parts.append(space.irrep(*((1,) if part.group[0] == "D" else ()), part.frequency))
        else:
            parts.append({"trivial": space.trivial_repr, "regular": space.regular_repr}[part.representation.strip()])
    if len(parts) == 1:
        return parts[0]
    from escnn.group import directsum

    return directsum(parts)


@contextlib.contextmanager
def planar_escnn() -> Iterator[None]:
    """Let escnn be imported without lie_learn, of which it takes one function, for groups in three dimensions.

    The wheel of lie_learn 0.0.2 was compiled against numpy 1 and cannot be imported beside numpy 2.
    """
    try:
        importlib.import_module(_LIE_LEARN[-1])
    except Exception:  # not installed, or compiled against another numpy, which surfaces as one of several types
        stand_ins = {name: types.ModuleType(name) for name in _LIE_LEARN}
        stand_ins[_LIE_LEARN[-1]].wigner_D_matrix = _in_three_dimensions  # type: ignore[attr-defined]
        before = {name: sys.modules.get(name) for name in _LIE_LEARN}
        sys.modules.update(stand_ins)
        try:
            yield
        finally:
            for name, module in before.items():
                if module is None:
                    del sys.modules[name]
                else:
                    sys.modules[name] = module
    else:
        yield


def _in_three_dimensions(*_: object) -> None:
    raise UserError("groups in three dimensions need lie_learn; install it beside numpy 1")


@contextlib.contextmanager
def _plain_linear_algebra() -> Iterator[None]:
    """Let escnn write its linear equations for D_N densely, and solve them by the singular values of scipy.

    They are tiny, and scipy.sparse takes 1 ms for each: the first basis of D8 then takes 1 s and not 6, with the same
    kernels. Where scikit-learn is installed, escnn 1.0.11 prefers its randomised solver, which draws unseeded numbers
    and refuses the np.matrix that it is given.
    """
    from escnn.group import _clebsh_gordan, _numerical
    from scipy import sparse

    def constraints(left: list[npt.NDArray[np.float64]], right: list[npt.NDArray[np.float64]]) -> Any:
        a, b = len(left[0]), len(right[0])
        rows = [np.kron(np.eye(b), x) - np.kron(y.T, np.eye(a)) for x, y in zip(left, right, strict=True)]
        return sparse.csc_matrix(np.concatenate(rows))

    original, randomized = _numerical.build_sylvester_constraint, _numerical.randomized_svd
    try:
        _numerical.build_sylvester_constraint = _clebsh_gordan.build_sylvester_constraint = constraints
        _numerical.randomized_svd = None
        yield
    finally:
        _numerical.build_sylvester_constraint = _clebsh_gordan.build_sylvester_constraint = original
        _numerical.randomized_svd = randomized
