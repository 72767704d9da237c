"""A GPU gives what the CPU gives: networks, gradients, evaluations, training; skipped where there is none."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness import build_network, load_config
from symmetry_robustness.attacks import FGSM, PGD, LibraryAttack
from symmetry_robustness.layers.expansion_cache import frozen_weights
from symmetry_robustness.layers.rotation import RotationConv
from symmetry_robustness.models import export
from symmetry_robustness.precision import float32
from symmetry_robustness.robustness import (
    Clever,
    EquivarianceError,
    EvaluationProtocol,
    RobustnessReport,
    evaluate_robustness,
)

from .integration.commands import TINY, symrob
from .models.test_configs import ARCHITECTURES, OURS
from .robustness.trained import convolutional, shapes, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
DEVICE = torch.device("cuda")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return train(convolutional(), epochs=3).eval()


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor]:
    return shapes(200, part=3)


@pytest.mark.parametrize("name", [*ARCHITECTURES, *OURS])
def test_logits_and_input_gradients_are_those_of_the_cpu(name: str) -> None:
    network = build_network(load_config("train", [f"model={name}"]))
    images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        network(images)  # statistics of batch norms
    exported = export(network.eval())
    found = {}
    for device in (torch.device("cpu"), DEVICE):
        for form, module in {"network": network, "exported": exported}.items():
            pixels = images.to(device).requires_grad_()
            with float32(device):
                logits = module.to(device)(pixels)
                (gradient,) = torch.autograd.grad(logits[:, 0].sum(), pixels)
            found[form, device.type] = logits.detach().cpu(), gradient.cpu()
    expected = found["network", "cpu"]
    for values in found.values():
        torch.testing.assert_close(values[0], expected[0], rtol=1e-3, atol=1e-4)
        apart = (values[1] - expected[1]).flatten(1).norm(dim=1) / expected[1].flatten(1).norm(dim=1)
        assert apart.median() < 0.02  # rounding decides single ReLUs and maxima


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler about itself
@pytest.mark.parametrize("compiled", [False, True])
def test_an_evaluation_is_that_of_the_cpu(compiled: bool, network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    protocol = EvaluationProtocol(
        attacks={"fgsm": FGSM(), "pgd": PGD(steps=10, random_start=True), "library": LibraryAttack("PGD", steps=3)},
        epsilons=[0.005, 0.01, 0.02, 0.04],
        measures={"turns": EquivarianceError()},
        clever=Clever(num_batches=5, samples_per_batch=16, targets=2),
        clever_images=4,
    )
    expected = evaluate_robustness(network.cpu(), *batch, protocol)
    images, labels = (part.to(DEVICE) for part in batch)
    report = evaluate_robustness(network.to(DEVICE), images, labels, protocol, compiled=compiled)
    network.cpu()
    assert np.array_equal(report.predictions, expected.predictions)
    for name in protocol.attacks:
        assert (report.minimal_epsilon[name] == expected.minimal_epsilon[name]).mean() > 0.97, name
    scores, others = (found.measures["clever"]["value"] for found in (report, expected))
    np.testing.assert_allclose(scores, others, rtol=1e-3, atol=1e-5)
    assert {check.name: check.status for check in report.checks} == {c.name: c.status for c in expected.checks}


def test_an_invariant_network_is_invariant_although_tf32_is_allowed() -> None:
    network = export(build_network(load_config("train", ["model=invariant"])).eval()).to(DEVICE)
    images = torch.rand(8, 3, 32, 32, device=DEVICE)
    labels = torch.zeros(8, dtype=torch.int64, device=DEVICE)
    protocol = EvaluationProtocol(attacks={}, measures={"turns": EquivarianceError()})
    report = evaluate_robustness(network, images, labels, protocol, extra_checks=False)
    assert report.measures["turns"]["turn.error.logits"].max() < 1e-9  # squared


def test_filters_are_kept_within_a_period() -> None:
    layer = RotationConv("C4", 3, 4, in_representation="trivial").to(DEVICE)
    images, expansions, expand = torch.rand(2, 3, 8, 8, device=DEVICE), [], layer.expand_weight

    def counted(weight: Tensor) -> Tensor:
        expansions.append(weight)
        return expand(weight)

    layer.expand_weight = counted  # type: ignore[method-assign]
    plain = layer(images)
    plain.square().sum().backward()
    expected, layer.weight.grad = layer.weight.grad, None
    with frozen_weights("step"):
        for _ in range(2):
            torch.testing.assert_close(layer(images), plain)
            (layer(images).square().sum() / 2).backward()
    assert len(expansions) == 2
    torch.testing.assert_close(layer.weight.grad, expected)


@pytest.mark.slow
@pytest.mark.parametrize("extra", [[], ["compute.compile=true"], ["objective=clean_and_fgsm", "model=cascaded_4layer"]])
def test_a_job_trains_and_its_checkpoint_is_evaluated_on_either(extra: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    measured = ["compute.precision=auto", "compute.channels_last=null"]
    words = ["train", *TINY, *measured, *extra, "trainer=gpu", "trainer.max_epochs=2", f"hydra.run.dir={run}"]
    words += ["robustness=quick", "callback.num_images=32", "callback.min_images=32", "callback.final_num_images=64"]
    done = symrob(*words, directory=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "done"
    assert summary["robustness_images"] > 0
    reports = {}
    for accelerator in ("gpu", "cpu"):
        words = ["evaluate", f"checkpoint={run / 'checkpoints' / 'last.ckpt'}", f"accelerator={accelerator}"]
        words += ["robustness=quick", "num_images=32", f"output={tmp_path / accelerator}"]
        done = symrob(*words, directory=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        reports[accelerator] = RobustnessReport.load(tmp_path / accelerator / "quick.json")
    first, second = reports.values()
    assert first.minimal_epsilon.keys() == second.minimal_epsilon.keys()
    assert all(
        (first.minimal_epsilon[name] == second.minimal_epsilon[name]).mean() > 0.9 for name in first.minimal_epsilon
    )
