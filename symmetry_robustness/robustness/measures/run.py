"""The measures of a protocol, taken on the images of a report."""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn

from symmetry_robustness.errors import UserError
from symmetry_robustness.precision import float32
from symmetry_robustness.robustness.attack_batch import Progress, ProgressCallback
from symmetry_robustness.robustness.measures.base import Arrays, Subject, lowest
from symmetry_robustness.robustness.protocol import EvaluationProtocol
from symmetry_robustness.robustness.report import RobustnessReport


def with_measures(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    protocol: EvaluationProtocol,
    report: RobustnessReport,
    progress: ProgressCallback | None,
) -> RobustnessReport:
    """The report with what the protocol's measures find; stages of progress are called `measures.NAME`.

    Args:
        network: images in [0, 1] to logits, in evaluation mode; made of modules, since measures may look inside.
        images: (N, C, H, W), those of the report.
        labels: (N,).
        protocol: names the measures.
        report: of everything else.
        progress: called with how far each measure has come.

    Raises:
        UserError: for images or a network that a measure refuses, or arrays that do not fit the images.
    """
    measures: dict[str, Arrays] = {}
    whole = Subject(network, images, labels, report.indices, protocol.seed, protocol.batch_size)
    for name, measure in protocol.measures.items():
        subject = whole.take(lowest(whole.numbers, measure.images))
        total = len(subject.images)
        if not total:
            continue
        notify = _notifier(progress, f"measures.{name}", total)
        with float32(images.device):
            found = measure(subject._replace(notify=notify))
        notify(total)
        for array, values in found.items():
            if values.shape[:1] != (total,):
                raise UserError(f"measure {name}: {array} has the shape {values.shape}; the first axis must be {total}")
        measures[name] = {"indices": subject.numbers, **found}
    return replace(report, measures=measures)


def _notifier(progress: ProgressCallback | None, stage: str, total: int) -> Callable[[int], None]:
    return (lambda _: None) if progress is None else (lambda done: progress(Progress(stage, done, total)))
