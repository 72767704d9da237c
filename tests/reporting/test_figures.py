import numpy as np
import pytest

from symmetry_robustness.reporting.figures import (
    Curve,
    as_pixels,
    attack_panel,
    epsilon_curves,
    epsilon_name,
    example_panel,
    magnified_difference,
    view_curves,
)


def curve(*accuracies: float) -> Curve:
    return Curve(np.linspace(0, 0.03, len(accuracies)), np.array(accuracies), np.full(len(accuracies), 0.01))


def test_a_panel_per_attack_and_a_line_per_network() -> None:
    figure = epsilon_curves({"a": {"fgsm": curve(0.9, 0.5), "pgd": curve(0.9, 0.1)}, "b": {"pgd": curve(0.8, 0.3)}})
    assert [panel.get_title() for panel in figure.axes] == ["fgsm", "pgd"]
    assert [len(panel.get_lines()) for panel in figure.axes] == [1, 2]
    np.testing.assert_allclose(figure.axes[1].get_lines()[1].get_ydata(), [0.8, 0.3])


def test_views_are_drawn_by_network_with_a_line_for_each_run() -> None:
    figure = view_curves({"a": [{0: 1.0, 90: 0.5}, {0: 0.9, 90: 0.4}], "b": [{0: 1.0, 90: 1.0}]}, x_label="angle")
    (panel,) = figure.axes
    assert [list(line.get_ydata()) for line in panel.get_lines()] == [[1.0, 0.5], [0.9, 0.4], [1.0, 1.0]]
    assert len({line.get_color() for line in panel.get_lines()}) == 2
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["a", "b"]


def test_the_difference_is_magnified_as_far_as_it_fits() -> None:
    images = np.full((1, 3, 4, 4), 0.5, np.float32)
    attacked = images.copy()
    attacked[0, 0, 0, 0] += 0.1
    shown, factor = magnified_difference(images, attacked)
    assert factor == 5
    assert shown[0, 0, 0, 0] == pytest.approx(1.0)
    assert shown[0, 1, 0, 0] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("epsilon", "name"), [(8 / 255, "8/255"), (0.5 / 255, "0.5/255"), (0.005, "0.005"), (1e-6, "1e-06")]
)
def test_epsilons_are_named_as_people_write_them(epsilon: float, name: str) -> None:
    assert epsilon_name(epsilon) == name


def test_a_panel_tells_where_each_attack_succeeded() -> None:
    images = np.random.default_rng(0).random((3, 3, 8, 8)).astype(np.float32)
    figure = attack_panel({"clean": images, "pgd": images}, {"pgd": np.array([0.0, 8 / 255, np.inf])})
    assert figure is not None
    captions = [panel.get_xlabel() for panel in figure.axes if panel.get_xlabel()]
    assert captions == ["wrong without attack", "ε = 8/255", "withstood"]
    assert attack_panel({}, {}) is None


def test_pictures_become_pixels() -> None:
    images = np.random.default_rng(0).random((2, 3, 8, 8)).astype(np.float32)
    pixels = as_pixels(example_panel({"clean": images, "pgd": images}, {"pgd": ["disc → ring", "ring"]}))
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert pixels.std() > 10
