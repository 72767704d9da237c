"""A robustness report in loggers: scalars, one line, a table of checks, figures."""

import pytorch_lightning as pl

from symmetry_robustness.reporting.figures import as_pixels, report_figures
from symmetry_robustness.results.checks import count_checks
from symmetry_robustness.results.names import epsilon_name
from symmetry_robustness.robustness import RobustnessReport


def flat_metrics(report: RobustnessReport) -> dict[str, float]:
    """The report's scalars by their names in loggers, with the number of images and of checks that did not pass."""
    checks = count_checks(report.checks)
    counts = {"images": len(report), "checks_failed": checks["failed"], "checks_warned": checks["warned"]}
    return {tracked_name(key): value for key, value in report.summary().items()} | counts


def tracked_name(key: str) -> str:
    """The name of a summary's key in loggers.

    Examples:
        >>> tracked_name("robust_accuracy.pgd.linf_0.03137"), tracked_name("clean_accuracy")
        ('pgd/linf_0.03137', 'clean')
    """
    return "clean" if key == "clean_accuracy" else key.removeprefix("robust_accuracy.").replace(".", "/", 1)


def describe(report: RobustnessReport) -> str:
    """One line: clean accuracy, each attack's at the largest epsilon, headlines of measures, and counts of checks."""
    parts = [f"{len(report)} images, clean {report.clean_accuracy:.3f}"]
    for name in report.minimal_epsilon:
        largest = report.epsilons[-1]
        parts.append(f"{name} {report.accuracy(name, largest).value:.3f} at {epsilon_name(largest)}")
    scalars = report.summary()
    parts += [f"{title} {scalars[measure]:.3f}" for measure, title in report.headlines.items()]
    counts = [f"{count} {status}" for status, count in count_checks(report.checks).items() if count]
    return ", ".join([*parts, f"checks: {', '.join(counts)}"])


def log_report(trainer: pl.Trainer, report: RobustnessReport, prefix: str) -> None:
    """Send checks to every logger that takes tables, and figures to every logger that takes images.

    Args:
        trainer: has the loggers.
        report: to be logged.
        prefix: of the keys.
    """
    rows = [[check.name, check.status, check.evidence] for check in report.checks]
    for logger in trainer.loggers:
        if hasattr(logger, "log_table"):
            columns = ["check", "status", "evidence"]
            logger.log_table(f"{prefix}/checks", columns=columns, data=rows, step=trainer.global_step)
    loggers = [logger for logger in trainer.loggers if hasattr(logger, "log_image")]
    for key, figure in (report_figures(report) if loggers else {}).items():
        pixels = as_pixels(figure)
        for logger in loggers:
            logger.log_image(f"{prefix}/{key}", [pixels], step=trainer.global_step)
