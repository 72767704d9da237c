"""Names in reports, held against the classes that they are of."""

import inspect

from symmetry_robustness import attacks, robustness
from symmetry_robustness.results.names import RECONSTRUCTIONS, class_title, measure_title
from symmetry_robustness.training import objectives


def test_classes_that_call_themselves_reconstructions_are_called_so_in_reports() -> None:
    classes = {
        value
        for module in (attacks, robustness, objectives)
        for value in vars(module).values()
        if inspect.isclass(value) and value.__module__.startswith("symmetry_robustness.")
    }
    assert {kind.__name__ for kind in classes if "reconstruction" in (kind.__doc__ or "")} == RECONSTRUCTIONS


def test_a_published_method_of_a_reconstruction_is_none() -> None:
    joint = {"_target_": "symmetry_robustness.training.objectives.JointSpace", "method": "robust_mixup"}
    assert class_title(joint) == "JointSpace (reconstruction)"
    assert class_title(joint | {"method": "interpolated"}) == "JointSpace"


def test_a_measure_says_that_its_detector_is_a_reconstruction() -> None:
    measures = {"orbit": {"detector": {"class": "OrbitInconsistency"}}, "layers": {"detector": {"class": "Layers"}}}
    assert measure_title("orbit", measures) == "orbit (reconstruction)"
    assert measure_title("layers", measures) == "layers"
