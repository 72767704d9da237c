"""A table of texts as Markdown, as LaTeX, and for a terminal."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import rich.table
from rich.console import JustifyMethod
from rich.markup import escape
from rich.text import Text

# LaTeX's own characters, and those that its fonts lack.
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
        "ε": r"$\varepsilon$", "ℓ": r"$\ell$", "∞": r"$\infty$", "±": r"$\pm$", "×": r"$\times$", "≥": r"$\geq$",
        "−": r"$-$", "–": "--", "…": r"\dots{}", "⚠": "!", "‖": r"$\|$", "·": r"$\cdot$",
    }
)  # fmt: skip
_CHARACTERS = 150  # side by side: nearly their size on a wide page, half of it in a narrow column
_LONGEST = 40  # rows that fit on a page
_COLUMNS = 5  # of numbers that fit into a terminal, beside the first two
# Shrinks a table that is wider than the line.
_FITTED = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"


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


@dataclass(frozen=True)
class TableSet:
    """Tables of one kind, and the rows of numbers that they show.

    Attributes:
        name: stem of the files.
        tables: as texts.
        rows: the same and more as numbers.
    """

    name: str
    tables: Sequence[Table]
    rows: pd.DataFrame

    def write(self, directory: Path) -> None:
        """Write Markdown and LaTeX of the tables, CSV and Parquet of the rows."""
        stem = directory / self.name
        stem.with_suffix(".md").write_text("\n".join(map(markdown, self.tables)), encoding="utf-8")
        stem.with_suffix(".tex").write_text("\n".join(map(latex, self.tables)), encoding="utf-8")
        self.rows.to_csv(stem.with_suffix(".csv"), index=False)
        self.rows.to_parquet(stem.with_suffix(".parquet"), index=False)


def flag(checks: str) -> str:
    """Mark behind the name of a network whose soundness checks did not all pass."""
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
    """A text in one line, without HTML for Markdown."""
    return " ".join(text.split()).replace("<", "&lt;")


def latex(table: Table) -> str:
    """As many `table` environments as the columns and rows need; packages booktabs and graphicx; everything escaped."""
    parts: list[str] = []
    texts = zip(table.columns, *([cell.text for cell in row] for row in table.rows), strict=True)
    widths = [max(map(len, column)) + 2 for column in texts]
    for start, stop in _pieces(table, widths, _CHARACTERS - sum(widths[: table.fixed])):
        chosen = [*range(table.fixed), *range(start, stop)]
        head = " & ".join(escaped(table.columns[index]) for index in chosen)
        for first in range(0, max(len(table.rows), 1), _LONGEST):
            title = table.title if not parts else f"{table.title} (continued)"
            rows = [" & ".join(_latex_cell(row[index]) for index in chosen) for row in table.rows[first:][:_LONGEST]]
            lines = [r"\begin{table}", r"\centering\small", rf"\caption{{{_breakable(title)}}}"]
            lines += [
                _FITTED,
                rf"\begin{{tabular}}{{{'l' * table.fixed}{'r' * (stop - start)}}}",
                r"\toprule",
                rf"{head} \\",
                r"\midrule",
            ]
            lines += [*(rf"{row} \\" for row in rows), r"\bottomrule", r"\end{tabular}}"]
            if table.notes:
                lines.append(rf"\par\smallskip\footnotesize {escaped(' '.join(table.notes))}")
            parts.append("\n".join([*lines, r"\end{table}", ""]))
    return "\n".join(parts)


def escaped(text: str) -> str:
    """A text with LaTeX's special characters made plain."""
    return " ".join(text.split()).translate(_LATEX)


def _breakable(text: str) -> str:
    """An escaped text whose lines may end after any comma."""
    return escaped(text).replace(",", r",\allowbreak ")


def _latex_cell(cell: Cell) -> str:
    return rf"\textbf{{{escaped(cell.text)}}}" if cell.best else escaped(cell.text)


def _pieces(table: Table, widths: Sequence[int], room: int) -> list[tuple[int, int]]:
    """First and last column, exclusive, of each piece: as many as there is room for, at least one."""
    pieces: list[tuple[int, int]] = []
    count, start = len(table.columns), table.fixed
    while not pieces or start < count:
        stop = start + 1
        while stop < count and sum(widths[start : stop + 1]) <= room:
            stop += 1
        pieces.append((start, min(stop, count)))
        start = stop
    return pieces


def terminal(table: Table, longest: int = 30) -> list[rich.table.Table]:
    """The table in pieces that fit into a usual terminal; no more rows than `longest`."""
    pieces = []
    left = len(table.rows) - longest
    for start, stop in _pieces(table, [1] * len(table.columns), _COLUMNS):
        chosen = [*range(table.fixed), *range(start, stop)]
        caption = f"{left} more rows in the files" if left > 0 else None
        piece = rich.table.Table(title=escape(as_printed(table.title)), caption=caption, title_justify="left")
        for index in chosen:
            justify: JustifyMethod = "left" if index < table.fixed else "right"
            piece.add_column(Text(as_printed(table.columns[index])), justify=justify, overflow="fold")
        for row in table.rows[:longest]:
            piece.add_row(*(Text(as_printed(row[i].text), "bold" if row[i].best else "") for i in chosen))
        pieces.append(piece)
    return pieces


def as_printed(text: str) -> str:
    """A text as standard output writes it, where `±` may take two characters, so that a table pads what is there."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    errors = getattr(sys.stdout, "errors", None) or "strict"
    return text.encode(encoding, "replace" if errors == "strict" else errors).decode(encoding)
