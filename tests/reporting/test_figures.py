"""Contents of figures, and that each can be printed: nothing too small, cut off, covered or told by colour alone."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from symmetry_robustness.reporting.figures.bars import Bar, bars
from symmetry_robustness.reporting.figures.curves import accuracy_circle, curve_grid
from symmetry_robustness.reporting.figures.examples import attack_rows, example_panel, magnified_difference
from symmetry_robustness.reporting.figures.from_report import Chart, array_profiles, curve_panels
from symmetry_robustness.reporting.figures.heat_maps import heat_maps
from symmetry_robustness.reporting.figures.lower_bounds import Pairs, estimate_against_distance
from symmetry_robustness.reporting.figures.style import COLORS, Line, as_pixels, line_with_errors, save_figure
from symmetry_robustness.results.names import epsilon_name
from symmetry_robustness.results.report import RobustnessReport

from .made import make_report

NETWORKS = [
    "standard", "parallel rotation", "parallel scale", "parallel rotation scale", "cascaded", "weighted",
    "fully equivariant ⚠ checks failed (optimizer.lr=0.01, data.augmentation=CropAndFlip)",
]  # fmt: skip
CORRUPTIONS = [f"elastic transform {number}" for number in range(15)]


def line(*values: float, first: float = 0.0, last: float = 330.0) -> Line:
    return line_with_errors(np.linspace(first, last, len(values)), np.array(values), np.full(len(values), 0.02))


def lines(count: int = 7) -> dict[str, Line]:
    return {name: line(0.9, 0.8 - 0.1 * place, 0.02) for place, name in enumerate(NETWORKS[:count])}


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 3, 32, 32), dtype=np.float32)


def pairs(estimates: list[float], distances: list[float], saturated: list[bool]) -> Pairs:
    return Pairs(np.array(estimates), np.array(distances), np.array(saturated))


def groups(count: int) -> dict[str, dict[str, Bar]]:
    shares = {name: Bar(0.9 - 0.1 * place, 0.85 - 0.1 * place, 1.0 - 0.1 * place) for place, name in
              enumerate(NETWORKS[:count])}  # fmt: skip
    return {epsilon: shares | {NETWORKS[0]: Bar(0.9, 0.85, 1.0, best=True)} for epsilon in ("clean", "2/255", "4/255")}


def attacked(name: str, broken_at: np.ndarray) -> RobustnessReport:
    count = len(broken_at)
    return make_report({name: broken_at}, examples={"clean": images(count), name: images(count, 1)})


def layers(count: int) -> dict[str, Line]:
    return {f"stem.branches.{number}.convolution": line(0.1, 0.5, 0.3) for number in range(count)}


ERRORS = {"logits": line(0.1, 0.5, 0.3), "logits, there and back": line(1e-4, 1e-4, 1e-4)}


FIGURES: dict[str, Callable[[], Figure | None]] = {
    "one panel, long names": lambda: curve_grid({"": {"PGD": lines()}}, x_label="ε (ℓ∞, pixels in [0, 1])"),
    "two by four panels": lambda: curve_grid(
        {
            depth: {f"CIFAR-{data}, {attack}": lines() for data in (10, 100) for attack in ("FGSM", "PGD-40")}
            for depth in ("4 layers", "full depth")
        },
        x_label="ε (ℓ∞, pixels in [0, 1])",
        title="protocol paper (released, no sound evaluation), 10,000 test images; bands: 95 % over 3 seeds, or images",
    ),
    "a panel is missing": lambda: curve_grid(
        {"4 layers": {"FGSM": lines(2)}, "full depth": {"FGSM": lines(2), "PGD": lines(2)}}, x_label="ε"
    ),
    "bars": lambda: bars({"FGSM": groups(7), "PGD": groups(7)}, x_label="ε", title="CIFAR-10; ★ better than all"),
    "bars, one panel": lambda: bars({"FGSM": groups(2)}),
    "corruptions of one": lambda: heat_maps(
        {"standard": np.full((15, 5), 0.3)}, CORRUPTIONS, list("12345"), label="error (%)", x_label="severity"
    ),
    "corruptions": lambda: heat_maps(
        {f"{name}\nmean 50.0 %": np.linspace(0, 1, 75).reshape(15, 5) for name in NETWORKS[3:]},
        CORRUPTIONS,
        list("12345"),
        label="error (%)",
        x_label="severity",
    ),
    "transfer": lambda: heat_maps(
        {f"rule {number}": np.eye(6) for number in range(5)},
        NETWORKS[:6],
        NETWORKS[:6],
        label="robust accuracy (%)",
        title="crafted on (rows), judged on (columns); framed: white box. CIFAR-10, 1,000 test images, ℓ∞ ε = 8/255",
        framed=np.eye(6, dtype=bool),
    ),
    "CLEVER": lambda: estimate_against_distance(
        dict.fromkeys(NETWORKS[:5], pairs([0.1, 0.3, 0.2], [0.2, 0.2, 5.0], [False, False, True])),
        estimate="CLEVER score (ℓ2)",
        distance="minimal distance found (ℓ2)",
    ),
    "CLEVER within little more than a decade": lambda: estimate_against_distance(
        {"standard": pairs([0.014, 0.2], [0.02, 0.28], [False, False])}, estimate="CLEVER", distance="distance"
    ),
    "CLEVER of one": lambda: estimate_against_distance(
        {"standard": pairs([0.1, 0.0], [0.2, 0.2], [False, False])}, estimate="CLEVER", distance="distance"
    ),
    "circle": lambda: accuracy_circle(lines(3)),
    "one panel of a measure": lambda: curve_panels(
        [Chart("curves", "scale", "accuracy", True, {"accuracy": line(0.5, 0.9, 0.6)})]
    ),
    "panels of a measure": lambda: curve_panels(
        [
            Chart("curves", "angle (degrees)", "relative error", False, ERRORS),
            *(Chart("curves", "scale", f"relative error of {place}", False, layers(3)) for place in "abc"),
        ]
    ),
    "profile of 16 arrays": lambda: array_profiles(
        [
            Chart("arrays", f"angle (degrees){label}", "relative error of a layer", False, layers(16))
            for label in ("", ", there and back")
        ]
    ),
    "distribution": lambda: curve_panels([Chart("distribution", "CLEVER score", "images at or above", True, lines(2))]),
    "distributions": lambda: curve_panels(
        [Chart("distribution", f"{name}: tolerance", "images at or above", True, lines()) for name in ("one", "two")]
    ),
    "attacks": lambda: example_panel(
        attack_rows(attacked("pgd_targeted", np.array([0, 1 / 255, np.inf] + [0.02] * 5))),
        title="standard, seed 0, protocol strong",
    ),
    "panel of a measure": lambda: example_panel(
        {"clean": (images(3), []), "removal": (images(3, 1), ["removed 0.125", "removed 0.5", "removed 0.02"])}
    ),
}


@pytest.fixture(scope="module", params=FIGURES)
def figure(request: pytest.FixtureRequest) -> Figure:
    drawn = FIGURES[request.param]()
    assert drawn is not None
    drawn.draw_without_rendering()
    return drawn


def texts(figure: Figure) -> list[Text]:
    unseen = {text for panel in figure.axes for text in out_of_sight(panel)}
    return [text for text in figure.findobj(Text) if text.get_text().strip() and text not in unseen]


def out_of_sight(panel: Axes) -> set[Text]:
    """All texts of a hidden panel, and the labels of ticks that lie outside of the limits."""
    if not panel.get_visible():
        return set(panel.findobj(Text))
    hidden = set()
    for axis in (panel.xaxis, panel.yaxis):
        low, high = sorted(axis.get_view_interval())
        ticks = [*axis.majorTicks, *axis.minorTicks]
        hidden |= {label for tick in ticks if not low <= tick.get_loc() <= high for label in (tick.label1, tick.label2)}
        hidden |= {label for tick in ticks for label in (tick.label1, tick.label2) if not label.get_visible()}
    return hidden


def box(text: Text) -> Bbox:
    return text.get_window_extent()


def test_it_fits_on_a_page_and_can_be_read(figure: Figure) -> None:
    assert figure.get_figwidth() <= 6.9
    assert min(text.get_fontsize() for text in texts(figure)) >= 7


def test_no_text_is_cut_off(figure: Figure) -> None:
    inside = figure.bbox.padded(1)
    for text in texts(figure):
        extent = box(text)
        assert inside.x0 <= extent.x0 and extent.x1 <= inside.x1, text  # noqa: PT018
        assert inside.y0 <= extent.y0 and extent.y1 <= inside.y1, text  # noqa: PT018


def test_legends_cover_no_panel_and_titles_no_other_title(figure: Figure) -> None:
    panels = [panel for panel in figure.axes if panel.get_visible()]
    holders = [figure, *figure.subfigs]
    for legend in [legend for holder in holders for legend in holder.legends]:
        extent = legend.get_window_extent()
        assert not any(Bbox.intersection(extent, panel.get_window_extent()) for panel in panels)
        below = [box(panel.xaxis.label) for panel in panels if panel.xaxis.label.get_text()]
        assert not any(overlap(extent, other) for other in below)
    titles = [box(panel.title) for panel in panels if panel.title.get_text()]
    titles += [box(figure._suptitle)] if getattr(figure, "_suptitle", None) else []
    assert not any(overlap(one, other) for place, one in enumerate(titles) for other in titles[place + 1 :])


def overlap(one: Bbox, other: Bbox) -> bool:
    shared = Bbox.intersection(one.padded(-1), other.padded(-1))
    return shared is not None and shared.width > 0 and shared.height > 0


def test_labels_along_an_axis_do_not_touch(figure: Figure) -> None:
    for panel in figure.axes:
        if panel.name == "polar":
            continue
        labels = [text for text in panel.get_xticklabels(which="both") if text.get_text() and not text.get_rotation()]
        boxes = sorted((box(text) for text in set(labels) - out_of_sight(panel)), key=lambda extent: extent.x0)
        assert not any(overlap(one, other) for one, other in pairwise(boxes))


def test_lines_are_told_apart_without_colour() -> None:
    (panel,) = curve_grid({"": {"": lines()}}, x_label="ε").axes
    looks = {(drawn.get_marker(), str(drawn.get_linestyle())) for drawn in panel.get_lines()}
    assert len({marker for marker, _ in looks}) == len(COLORS)
    patches = {patch.get_hatch() for patch in bars({"": groups(7)}).axes[0].patches}
    assert len(patches) == len(COLORS)


def test_a_network_looks_the_same_in_every_panel() -> None:
    (first, second) = curve_grid({"": {"a": lines(3), "b": dict(reversed(lines(3).items()))}}, x_label="ε").axes
    looks = [{drawn.get_label(): drawn.get_color() for drawn in panel.get_lines()} for panel in (first, second)]
    assert looks[0] == looks[1]


def test_saved_files_are_the_same_every_time_and_hold_their_fonts(tmp_path: Path) -> None:
    for name in "ab":
        save_figure(curve_grid({"": {"PGD": lines(2)}}, x_label="ε (ℓ∞)"), tmp_path / f"{name}-4.5_x")
    for suffix in ("pdf", "png"):
        first, second = (tmp_path / f"{name}-4.5_x.{suffix}" for name in "ab")
        assert first.read_bytes() == second.read_bytes()
    assert b"/FontFile2" in (tmp_path / "a-4.5_x.pdf").read_bytes()


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_bands_reach_from_low_to_high() -> None:
    (panel,) = curve_grid({"": {"": {"a": Line(*np.array([[0, 1], [0.5, 0.4], [0.3, 0.2], [0.6, 0.5]]))}}}, x_label="")\
        .axes  # fmt: skip
    corners = panel.collections[0].get_paths()[0].vertices
    assert (corners[:, 1].min(), corners[:, 1].max()) == (0.2, 0.6)


def test_bars_have_their_heights_intervals_and_stars() -> None:
    (panel,) = bars({"pgd": {"clean": {"a": Bar(0.5, 0.4, 0.7), "b": Bar(0.6, 0.55, 0.65, best=True)}}}).axes
    assert [patch.get_height() for patch in panel.patches] == [0.5, 0.6]
    ends = [segment[:, 1].tolist() for bar in panel.containers for segment in interval(bar)]
    np.testing.assert_allclose(ends, [[0.4, 0.7], [0.55, 0.65]])
    star = next(text for text in panel.texts if text.get_text() == "★")
    assert star.xy == pytest.approx((panel.patches[1].get_center()[0], 0.65))


def interval(container: object) -> list[np.ndarray]:
    bars = getattr(container, "lines", (None, None, ()))[2]
    return [segment for collection in bars for segment in collection.get_segments()]


def test_estimates_above_a_distance_that_was_found_are_counted() -> None:
    found = pairs([0.1, 0.3, 0.5, 9.0], [0.2, 0.2, 0.2, 5.0], [False, False, False, True])
    (panel,) = estimate_against_distance({"a": found}, estimate="", distance="").axes
    assert panel.get_title() == "a: 2 of 3 above"
    assert {points.get_label(): len(points.get_offsets()) for points in panel.collections} == {
        "estimate below the distance found": 1,
        "estimate above it": 2,
        "not broken up to there": 1,
    }


def test_a_map_has_a_number_for_each_cell_and_frames_those_named() -> None:
    cells = np.linspace(0, 1, 75).reshape(15, 5)
    cells[0, 0] = np.nan
    framed = cells > 0.9
    panel: Axes = heat_maps({"a": cells}, CORRUPTIONS, list("12345"), label="", framed=framed).axes[0]
    assert len(panel.texts) == 74
    assert panel.texts[-1].get_text() == "100"
    corners = {tuple(np.round(frame.get_xy() + np.array(0.46)).astype(int)) for frame in panel.patches}
    assert corners == {(column, row) for row, column in np.argwhere(framed)}


def test_the_difference_is_magnified_as_far_as_it_fits() -> None:
    images = np.full((1, 3, 4, 4), 0.5, np.float32)
    attacked = images.copy()
    attacked[0, 0, 0, 0] += 0.1
    shown, factor = magnified_difference(images, attacked)
    assert factor == 5
    assert shown[0, 0, 0, 0] == pytest.approx(1.0)
    assert shown[0, 1, 0, 0] == pytest.approx(0.5)
    assert magnified_difference(images, images)[1] == 1


@pytest.mark.parametrize(
    ("epsilon", "name"), [(8 / 255, "8/255"), (0.5 / 255, "0.5/255"), (0.005, "0.005"), (1e-6, "1e-06")]
)
def test_epsilons_are_named_as_people_write_them(epsilon: float, name: str) -> None:
    assert epsilon_name(epsilon) == name


def test_a_panel_tells_where_each_attack_succeeded() -> None:
    broken_at = np.array([0.0, 8 / 255, np.inf])
    _, panel, change = example_panel(attack_rows(attacked("pgd", broken_at))).axes
    captions = [label.get_text().replace("\n", " ") for label in panel.get_xticklabels()]
    assert captions == ["wrong without attack", "ε = 8/255", "withstood"]
    assert change.get_ylabel() == "pgd\nchange ×1"
    assert attack_rows(make_report({"pgd": broken_at})) == {}


def test_pictures_become_pixels() -> None:
    pixels = as_pixels(example_panel({"clean": (images(2), []), "pgd": (images(2), ["disc → ring", "ring"])}))
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert pixels.std() > 10
