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
    """Tables of one kind, the rows of numbers that they show and more, and the stem of their files."""

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
    rule = [":--"] * table.fixed + ["--:"] * (len(table.columns) - table.fixed)
    rows = [table.columns, rule, *([f"**{text}**" if best else text for text, best in row] for row in table.rows)]
    lines = [" | ".join(plain_line(text).replace("|", "\\|") for text in row) for row in rows]
    body = "".join(f"| {line} |\n" for line in lines)
    return "\n".join([f"### {plain_line(table.title)}\n", body, *(f"{note}\n" for note in table.notes)])


def plain_line(text: str) -> str:
    """A text in one line, without HTML for Markdown."""
    return " ".join(text.split()).replace("<", "&lt;")


def latex(table: Table) -> str:
    """As many `table` environments as the columns and rows need; packages booktabs and graphicx; everything escaped."""
    parts: list[str] = []
    texts = [table.columns, *([cell.text for cell in row] for row in table.rows)]
    widths = [max(map(len, column)) + 2 for column in zip(*texts, strict=True)]
    head = [escaped(title) for title in table.columns]
    cells = [[rf"\textbf{{{escaped(text)}}}" if best else escaped(text) for text, best in row] for row in table.rows]
    notes = [rf"\par\smallskip\footnotesize {escaped(' '.join(table.notes))}"] if table.notes else []
    for start, stop in _pieces(table, widths, _CHARACTERS - sum(widths[: table.fixed])):
        chosen = [*range(table.fixed), *range(start, stop)]
        for first in range(0, max(len(table.rows), 1), _LONGEST):
            # Its lines may end after any comma.
            title = escaped(table.title + " (continued)" * bool(parts)).replace(",", r",\allowbreak ")
            rows = [
                " & ".join(row[index] for index in chosen) + r" \\" for row in (head, *cells[first : first + _LONGEST])
            ]
            begin = [r"\begin{table}", r"\centering\small", rf"\caption{{{title}}}", _FITTED]
            begin += [rf"\begin{{tabular}}{{{'l' * table.fixed}{'r' * (stop - start)}}}", r"\toprule"]
            end = [r"\bottomrule", r"\end{tabular}}", *notes, r"\end{table}", ""]
            parts.append("\n".join([*begin, rows[0], r"\midrule", *rows[1:], *end]))
    return "\n".join(parts)


def escaped(text: str) -> str:
    """A text with LaTeX's special characters made plain."""
    return " ".join(text.split()).translate(_LATEX)


def _pieces(table: Table, widths: Sequence[int], room: int) -> list[tuple[int, int]]:
    """First and last column, exclusive, of each piece: as many as there is room for, at least one."""
    starts, taken = [table.fixed], 0
    for index in range(table.fixed, len(table.columns)):
        if index > starts[-1] and taken + widths[index] > room:
            starts.append(index)
            taken = 0
        taken += widths[index]
    return [*zip(starts, [*starts[1:], len(table.columns)], strict=True)]


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
