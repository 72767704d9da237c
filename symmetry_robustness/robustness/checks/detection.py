"""Soundness checks of detectors: clean and attacked images are treated alike, and the threshold holds on new images."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from symmetry_robustness.results.checks import Check
from symmetry_robustness.results.report import RobustnessReport
from symmetry_robustness.robustness.measures.base import Measure, MeasureInputs

_ROUNDING: Final = 1e-3  # of the spread of scores; batches of another size are summed in another order
_NAME: Final = "same_preprocessing"


def scores_alike(inputs: MeasureInputs, measures: Mapping[str, Measure]) -> list[Check]:
    """Take each detector's measure again with an attack that changes nothing: both scores must be the same.

    A difference means that attacked images are prepared in another way than clean ones, so that anything tells them
    apart, such as a normalisation that one of them lacks.

    Args:
        inputs: a few images, and those for calibration.
        measures: of the protocol, by name.
    """
    checks = []
    for name, measure in measures.items():
        for pair in _pairs(getattr(measure, "statistics", {})):
            if not callable(unattacked := getattr(measure, "unattacked", None)):
                evidence = f"{name} has no unattacked(), so that it cannot be tried on unchanged images"
                checks.append(Check(_NAME, "warned", evidence))
                break
            found = unattacked().compute(inputs)
            if not {*pair} <= found.keys():  # of an attack that is left out together with the other one
                continue
            positive, negative = (np.asarray(found[array], dtype=np.float64) for array in pair)
            spread = max(float(np.nanstd(negative)), 1e-6)
            gap = float(np.nan_to_num(np.abs(positive - negative)).max(initial=0.0))
            evidence = f"{name}: {pair[0]} and {pair[1]} of {len(negative)} unchanged images differ by up to {gap:.2g}"
            checks.append(
                Check.judged(_NAME, f"{evidence}, scores spread by {spread:.2g}", failed=gap > _ROUNDING * spread)
            )
    return checks


def false_positive_rates(report: RobustnessReport) -> list[Check]:
    """Of clean images, a detector flags the share that its threshold was set for, but for chance.

    Both the threshold and the share are of finitely many images; three standard errors are allowed, and too few flagged
    ones are no harm.
    """
    checks = []
    for name, settings in report.settings.get("measures", {}).items():
        nominal, found = settings.get("false_positive_rate"), report.measures.get(name, {})
        if nominal is None or "false_positive" not in found:
            continue
        flagged = np.asarray(found["false_positive"], dtype=bool)
        count = -(-int(settings["calibration_images"]) // 2)  # those that the threshold was set on
        error = float(np.sqrt(nominal * (1 - nominal) * (1 / max(len(flagged), 1) + 1 / max(count, 1))))
        share = float(flagged.mean()) if len(flagged) else nominal
        evidence = f"{name} flags {share:.3f} of {len(flagged)} clean images, set to {nominal:g} ± {error:.2g}"
        beyond = share - nominal
        checks.append(
            Check.judged("false_positive_rate", evidence, failed=beyond > 5 * error, warned=beyond > 3 * error)
        )
    return checks


def _pairs(statistics: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Arrays that a detector's statistics compare."""
    return list(dict.fromkeys((entry["positive"], entry["negative"]) for entry in statistics.values()))
