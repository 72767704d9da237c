"""A table of texts as Markdown, as LaTeX, and for a terminal."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import rich.table
from rich.markup import escape

# LaTeX's own characters, and those that its fonts lack.
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
        "ε": r"$\varepsilon$", "ℓ": r"$\ell$", "∞": r"$\infty$", "±": r"$\pm$", "×": r"$\times$", "≥": r"$\geq$",
        "−": r"$-$", "–": "--", "…": r"\dots{}", "⚠": "!", "‖": r"$\|$", "·": r"$\cdot$",
    }
)  # fmt: skip
_WIDEST = 5  # columns of numbers that fit on a page, beside the first two
_LONGEST = 40  # rows that do


class Cell(NamedTuple):
    """A text, and whether it is the best of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of texts under a title; the first `fixed` columns are names and are repeated where a table is cut."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()
    fixed: int = 1


def flag(checks: str) -> str:
    """What stands behind a name whose soundness checks did not all pass."""
    return f" ⚠ checks {checks}" if checks in ("warned", "failed") else ""


def markdown(table: Table) -> str:
    """A heading, a GitHub-flavoured table with the best in bold, and the notes."""

    def line(texts: Sequence[str]) -> str:
        cells = " | ".join(plain_line(text).replace("|", "\\|") for text in texts)
        return f"| {cells} |\n"

    numbers = len(table.columns) - table.fixed
    rule = [":--"] * table.fixed + ["--:"] * numbers
    lines = [line(table.columns), line(rule)]
    lines += [line([f"**{cell.text}**" if cell.best else cell.text for cell in row]) for row in table.rows]
    return "\n".join([f"### {plain_line(table.title)}\n", "".join(lines), *(f"{note}\n" for note in table.notes)])


def plain_line(text: str) -> str:
    """A text in one line, in which Markdown finds no HTML."""
    return " ".join(text.split()).replace("<", "&lt;")


def latex(table: Table) -> str:
    """As many `table` environments as the columns and rows need, ruled by booktabs, everything escaped."""
    parts: list[str] = []
    for start, stop in _pieces(table):
        chosen = [*range(table.fixed), *range(start, stop)]
        head = " & ".join(escaped(table.columns[index]) for index in chosen)
        for first in range(0, max(len(table.rows), 1), _LONGEST):
            title = table.title if not parts else f"{table.title} (continued)"
            rows = [" & ".join(_latex_cell(row[index]) for index in chosen) for row in table.rows[first:][:_LONGEST]]
            lines = [r"\begin{table}", r"\centering\small", rf"\caption{{{escaped(title)}}}"]
            lines += [
                rf"\begin{{tabular}}{{{'l' * table.fixed}{'r' * (stop - start)}}}",
                r"\toprule",
                rf"{head} \\",
                r"\midrule",
            ]
            lines += [*(rf"{row} \\" for row in rows), r"\bottomrule", r"\end{tabular}"]
            if table.notes:
                lines.append(rf"\par\smallskip\footnotesize {escaped(' '.join(table.notes))}")
            parts.append("\n".join([*lines, r"\end{table}", ""]))
    return "\n".join(parts)


def escaped(text: str) -> str:
    """A text with LaTeX's special characters made plain."""
    return " ".join(text.split()).translate(_LATEX)


def _latex_cell(cell: Cell) -> str:
    return rf"\textbf{{{escaped(cell.text)}}}" if cell.best else escaped(cell.text)


def _pieces(table: Table) -> list[tuple[int, int]]:
    """First and last column, exclusive, of each piece that is narrow enough."""
    count = len(table.columns)
    starts = range(table.fixed, max(count, table.fixed + 1), _WIDEST)
    return [(start, min(start + _WIDEST, count)) for start in starts]


def terminal(table: Table, longest: int = 30) -> list[rich.table.Table]:
    """The table in pieces that fit into a usual terminal; no more rows than `longest`."""
    pieces = []
    left = len(table.rows) - longest
    for start, stop in _pieces(table):
        chosen = [*range(table.fixed), *range(start, stop)]
        caption = f"{left} more rows in the files" if left > 0 else None
        piece = rich.table.Table(title=escape(table.title), caption=caption, title_justify="left")
        for index in chosen:
            piece.add_column(escape(table.columns[index]), justify="left" if index < table.fixed else "right")
        for row in table.rows[:longest]:
            piece.add_row(
                *(f"[bold]{escape(row[i].text)}[/bold]" if row[i].best else escape(row[i].text) for i in chosen)
            )
        pieces.append(piece)
    return pieces
