"""The claims as a table, and as rows of numbers."""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import pandas as pd

from symmetry_robustness.reporting.claims import FAILS, HOLDS, NOT_MEASURED, ONLY_RELEASED, Claim, Outcome
from symmetry_robustness.reporting.statistics import Difference
from symmetry_robustness.reporting.table_formats import Cell, Table
from symmetry_robustness.reporting.tables import Sheet


def claims_sheet(outcomes: Sequence[Outcome]) -> Sheet:
    """The claims as a table, and as rows of numbers."""
    lines = [[Cell(text) for text in _texts(outcome)] for outcome in outcomes]
    verdicts = [outcome.verdict for outcome in outcomes]
    kinds = (HOLDS, ONLY_RELEASED, FAILS, NOT_MEASURED)
    title = "Claims of arXiv 2510.16171. " + ", ".join(f"{kind}: {verdicts.count(kind)}" for kind in kinds)
    columns = ("claim", "ε (paper)", "paper", "released protocol", "sound protocol", "verdict")
    note = "Accuracies in percent, differences in points; means and 95 % intervals over seeds and images."
    return Sheet("claims", [Table(title, columns, lines, [note], fixed=2)], claims_frame(outcomes))


def claims_frame(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """One row per claim: its fields, `released_…` and `sound_…` with value, low, high and seeds, verdict, reason."""
    rows = []
    for outcome in outcomes:
        row = {field.name: getattr(outcome.claim, field.name) for field in fields(Claim)}
        for name, found in (("released", outcome.released), ("sound", outcome.sound)):
            row |= {f"{name}_{part}": getattr(found, part) for part in ("value", "low", "high", "seeds", "images")}
        rows.append(row | {"verdict": outcome.verdict, "reason": outcome.reason})
    return pd.DataFrame(rows)


def _texts(outcome: Outcome) -> list[str]:
    claim = outcome.claim
    subject = f"{claim.network} over {claim.than}" if claim.than else claim.network
    under = claim.attack or claim.measure.replace("_", " ")
    epsilon = "" if np.isnan(claim.epsilon) else f"{claim.epsilon:g} ({claim.published_epsilon:g})"
    verdict = f"{outcome.verdict} ({outcome.reason})" if outcome.reason else outcome.verdict

    def text(value: float) -> str:
        return f"{value:,.0f}" if claim.kind == "exact" else f"{100 * value:.4g}"

    def found(measured: Difference) -> str:
        if np.isnan(measured.value):
            return ""
        exact = claim.kind == "exact" or measured.seeds < 2
        interval = "" if exact else f" [{100 * measured.low:.1f}, {100 * measured.high:.1f}]"
        return text(round(measured.value, 4)) + interval

    measured = [found(outcome.released), found(outcome.sound)]
    return [f"{claim.data}, {subject}, {under}", epsilon, text(claim.value), *measured, verdict]
