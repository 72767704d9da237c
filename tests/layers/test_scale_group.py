import math

import numpy as np
import pytest
import torch
from scipy.special import eval_hermite, factorial

from symmetry_robustness.errors import UserError
from symmetry_robustness.layers.scale_group import ScaleGroup, hermite_basis


def test_basis_is_the_hermite_functions_of_scipy_up_to_one_factor_each():
    group = ScaleGroup(scales=4, degree=3, sigma=1.0)
    basis = hermite_basis(group)
    factors = []
    for functions, sigma, radius in zip(basis, group.sigmas, group.radii, strict=True):
        y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1] / sigma
        n, m = (order[:, None, None] for order in np.divmod(np.arange(16), 4))
        expected = eval_hermite(n, y) * eval_hermite(m, x) * np.exp(-(x**2 + y**2) / 2) / sigma**2
        expected /= np.sqrt(2.0 ** (n + m) * factorial(n) * factorial(m) * math.pi)
        norms = [np.linalg.norm(f, axis=(1, 2)) for f in (functions[:, 0], expected)]
        factors.append(norms[0] / norms[1])
        np.testing.assert_allclose(functions[:, 0], expected * factors[-1][:, None, None], atol=1e-12)
    np.testing.assert_allclose(factors, np.tile(factors[0], (4, 1)))  # the same at every scale
    energy = np.mean([np.square(functions[:, 0]).sum(axis=(1, 2)) for functions in basis], axis=0)
    np.testing.assert_allclose(energy, 1)


def test_every_scale_holds_the_same_functions_stretched():
    small, large = hermite_basis(ScaleGroup(scales=2, step=2.0, sigma=1.3))
    radius = small.shape[-1] // 2
    every_other = large[..., ::2, ::2] if large.shape[-1] // 2 % 2 == 0 else large[..., 1::2, 1::2]
    margin = every_other.shape[-1] // 2 - radius
    centre = every_other[..., margin : margin + 2 * radius + 1, margin : margin + 2 * radius + 1]
    np.testing.assert_allclose(4 * centre, small, atol=1e-12)


def test_turned_functions_are_turned():
    for functions in hermite_basis(ScaleGroup(rotations=4)):
        for quarter in range(4):
            np.testing.assert_array_equal(functions[:, quarter], np.rot90(functions[:, 0], quarter, axes=(1, 2)))


def test_functions_are_independent_on_the_pixel_grid():
    for functions in hermite_basis(ScaleGroup()):
        assert np.linalg.cond(functions.reshape(9, -1)) < 1.2


def test_basis_is_computed_once_and_leaves_random_states_alone():
    hermite_basis.cache_clear()
    state = torch.get_rng_state()
    basis = hermite_basis(ScaleGroup())
    assert torch.equal(state, torch.get_rng_state())
    assert hermite_basis(ScaleGroup()) is basis


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scales": 0}, "scales must be a positive whole number, got 0"),
        ({"scales": 17}, "scales must be at most 16"),
        ({"scales": 10**9, "step": 1 + 1e-12}, "scales must be at most 16"),
        ({"scales": 2, "step": 1e300}, "end at filters of 63 pixels"),
        ({"rotations": 8}, "rotations must be 1 or 4, got 8"),
        ({"step": 1}, "step must be a number above 1, got 1"),
        ({"step": math.inf}, "step must be a number above 1"),
        ({"sigma": 0}, "sigma must be a positive number, got 0"),
        ({"sigma": "wide"}, "sigma must be a positive number, got 'wide'"),
        ({"degree": 5}, "degree must be at most 4 at sigma 0.8, got 5"),
    ],
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(UserError, match=message):
        ScaleGroup(**settings)
