"""How every figure looks: widths and fonts of print, colours, names, the legend's place; and how it is saved."""

import contextlib
import functools
import io
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, ParamSpec, TypeVar

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from symmetry_robustness.reporting.comparability import readable

if TYPE_CHECKING:
    import pandas as pd

# Widths of a column and of a page in print, inches; figures are drawn in the size in which they are to be printed.
ONE_COLUMN: Final = 3.25
TWO_COLUMNS: Final = 6.75
# Okabe and Ito's palette: distinct under every common colour blindness (https://jfly.uni-koeln.de/color/).
COLORS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# A shape, a dash and a hatch for each colour, so that none depends on its colour alone.
MARKERS: Final = "osD^vPX"
DASHES: Final = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (7, 2)), (0, (3, 3)))
HATCHES: Final = ("", "////", "....", "\\\\\\\\", "xxxx", "----", "++++")
SMALLEST: Final = 7  # points: what can be read in print

_PRINTED: Final[dict[Any, Any]] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "figure.titlesize": 8,
    "legend.fontsize": SMALLEST,
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.3,
    "hatch.linewidth": 0.4,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.2,
    "legend.frameon": False,
}
_CHARACTER = 0.06  # inches that a letter takes on average
_LINE = 0.14  # inches that a line of text takes
_HANDLE = 0.5  # inches beside a legend's text

NETWORKS: Final = len(COLORS)  # lines that can be told apart in one panel

# Several figures by name; or pairs of a file's stem and a figure.
Figures = dict[str, Figure]
Drawn = Iterator[tuple[str, Figure]]
Drawing = ParamSpec("Drawing")
T = TypeVar("T")
K = TypeVar("K")


class Line(NamedTuple):
    """Values with the ends of their intervals, each of shape (T,)."""

    positions: NDArray[np.float64]
    values: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def line_with_errors(positions: NDArray[Any], values: NDArray[Any], standard_errors: NDArray[Any]) -> Line:
    """A line whose band is two standard errors wide on either side."""
    return Line(positions, values, values - 2 * standard_errors, values + 2 * standard_errors)


def printed(draw: Callable[Drawing, Figure]) -> Callable[Drawing, Figure]:
    """Let a function that draws a figure use the fonts and lines of print, whatever the process has set."""

    @functools.wraps(draw)
    def drawn(*args: Drawing.args, **kwargs: Drawing.kwargs) -> Figure:
        with matplotlib.rc_context(_PRINTED):
            figure = draw(*args, **kwargs)
            for panel in figure.axes:  # ticks are made when the figure is saved, outside of this context
                panel.tick_params(which="both", labelsize=SMALLEST, width=0.6)
        return figure

    return drawn


def draw_line(panel: Axes, line: Line, index: int, label: str, **changes: Any) -> None:
    """One line with its band, in the colour, marker and dash of its number."""
    color = COLORS[index % len(COLORS)]
    look = {"marker": MARKERS[index % len(MARKERS)], "linestyle": DASHES[index % len(DASHES)], "color": color} | changes
    panel.plot(line.positions, line.values, label=label, **look)
    panel.fill_between(line.positions, line.low, line.high, color=look["color"], alpha=0.15, linewidth=0)
    panel.grid(True)


def fitted(text: str, width: float) -> str:
    """A text in as many lines as it takes in so many inches."""
    return textwrap.fill(text, max(12, int(width / _CHARACTER)))


def legend_below(figure: Figure, panels: Iterable[Axes]) -> None:
    """One legend for several panels, below them and in as many columns as fit, so that it covers no data.

    The figure has room for a line of each row; names of several lines make it higher.
    """
    handles: dict[str, Artist] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if not handles:
        return
    width = figure.bbox.width / figure.dpi
    names = [fitted(name, width - _HANDLE) for name in handles]
    longest = max(len(line) for name in names for line in name.split("\n"))
    columns = max(1, min(len(names), int(width / (longest * _CHARACTER + _HANDLE))))
    rows = -(-len(names) // columns)
    columns = -(-len(names) // rows)  # no row with a single name below a full one
    figure.legend([*handles.values()], names, loc="outside lower center", ncols=columns)
    lines = [name.count("\n") for name in names]
    make_room(figure, sum(max(lines[row::rows]) for row in range(rows)))


def make_room(figure: Figure, lines: int) -> None:
    """Make a figure higher by some lines of text."""
    figure.set_figheight(figure.get_figheight() + _LINE * lines)


def across(count: int) -> int:
    """Panels side by side, of so many."""
    return count if count < 4 else 2 if count == 4 else 3


def tiled(count: int, height: float, rest: float, *, shared: bool = False) -> tuple[Figure, NDArray[Any]]:
    """A figure with panels in rows of at most three.

    Args:
        count: of panels; further ones in the last row are hidden.
        height: of a row of panels, inches.
        rest: height of all else, inches.
        shared: whether the panels share both axes.

    Returns:
        The figure, and its panels in rows and columns.
    """
    columns = across(count)
    rows = -(-count // columns)
    figure = Figure(figsize=(ONE_COLUMN if columns == 1 else TWO_COLUMNS, height * rows + rest), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=shared, sharey=shared)
    for panel in panels.flat[count:]:
        panel.set_visible(False)
    return figure, panels


def label_last(panels: NDArray[Any], x_label: str) -> None:
    """Name the horizontal axis below the last panel of each column that is seen."""
    for column in panels.T:
        for panel in [panel for panel in column if panel.get_visible()][-1:]:
            panel.set_xlabel(x_label)
            panel.tick_params(labelbottom=True)


@contextlib.contextmanager
def _without_layout_tables() -> Iterator[None]:
    """Let matplotlib leave out the tables by which text is laid out: in a PDF it is, and reading them takes longest."""
    from fontTools.subset import Options

    usual = getattr(Options, "_drop_tables_default", None)  # of every Options() that is given none
    if usual is None:  # another version of fontTools, where it takes longer
        yield
        return
    Options._drop_tables_default = [*usual, "GDEF", "GPOS", "GSUB"]
    try:
        yield
    finally:
        Options._drop_tables_default = usual


def save_figure(figure: Figure, stem: Path) -> None:
    """Write PDF to print, with its fonts inside and without a date, and PNG to look at."""
    from matplotlib.backends.backend_pdf import FigureCanvasPdf  # half a second that only files cost

    if engine := figure.get_layout_engine():
        engine.execute(figure)  # once for both files; `savefig` would find it, and draw, twice for each
    figure.set_layout_engine("none")
    with matplotlib.rc_context({"pdf.fonttype": 42}), _without_layout_tables():
        canvas: Any = FigureCanvasPdf(figure)
        canvas.print_pdf(stem.with_name(f"{stem.name}.pdf"), metadata={"CreationDate": None})
    figure.set_dpi(200)
    canvas = FigureCanvasAgg(figure)
    canvas.print_png(stem.with_name(f"{stem.name}.png"))


def as_pixels(figure: Figure, *, dpi: int = 200) -> NDArray[np.uint8]:
    """The figure as an image (H, W, 3), for trackers that keep pictures."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return np.array(Image.open(file).convert("RGB"))


def look_of(names: Iterable[str]) -> Mapping[str, int]:
    """A number for each name, by first appearance: the same name looks the same in all panels of a figure."""
    return {name: index for index, name in enumerate(dict.fromkeys(names))}


def shown_network(label: str) -> str:
    """A network's label for a reader, in which no formula begins."""
    return readable(label).replace("$", r"\$")


def intervals_over(rows: "pd.DataFrame") -> str:
    """Sources of the variation that the intervals of these rows count."""
    found = sorted(set(rows["interval"]) - {""})
    return " or ".join(found) if 0 < len(found) < 3 else "seeds, or images of a single one"


def line_of(rows: "pd.DataFrame", over: str) -> Line:
    """Means over a column; where there is no interval the band has no width."""
    positions, values = rows[over].to_numpy(np.float64), rows["value"].to_numpy(np.float64)
    low, high = (rows[end].fillna(rows["value"]).to_numpy(np.float64) for end in ("low", "high"))
    return Line(positions, values, low, high)


def first_of(
    found: Mapping[K, T], architecture: Callable[[K], str], most: int, what: str, notes: list[str]
) -> dict[K, T]:
    """At most `most` networks, of each architecture one before any has two, and a note if there are more."""
    if len(found) <= most:
        return dict(found)
    notes.append(f"{what}: {most} of {len(found)} networks are drawn")
    drawn: Counter[str] = Counter()
    turns = {}
    for network in found:
        turns[network] = drawn[architecture(network)]
        drawn[architecture(network)] += 1
    chosen = sorted(found, key=turns.__getitem__)[:most]
    return {network: one for network, one in found.items() if network in chosen}
