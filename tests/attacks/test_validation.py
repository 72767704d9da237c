"""Networks and data of any kind either work, or one line says what came and how to wrap it."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks import FGSM, PGD, Square, ThreatModel, TorchAttack
from symmetry_robustness.attacks.validation import lay_out, predict
from symmetry_robustness.errors import UserError
from symmetry_robustness.robustness import Clever, EvaluationProtocol, evaluate_in_shards, evaluate_robustness

PROTOCOL = EvaluationProtocol(attacks={"fgsm": FGSM(), "pgd": PGD(steps=3)}, epsilons=[0.02, 0.1], keep_examples=2)
CLEVER = Clever(num_batches=2, samples_per_batch=4, estimate="maximum", targets=1)
THREAT = ThreatModel(epsilon=0.1)


def body() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 5)).eval()


class Changed(nn.Module):
    """A network behind a function of its input or output."""

    def __init__(self, call: Callable[[nn.Module, Tensor], object], network: nn.Module | None = None) -> None:
        super().__init__()
        self.network = body() if network is None else network
        self.call = call
        self.eval()

    def forward(self, images: Tensor) -> object:
        return self.call(self.network, images)


@pytest.fixture
def images() -> Tensor:
    return torch.rand((12, 3, 8, 8), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def labels(images: Tensor) -> Tensor:
    with torch.no_grad():
        return body()(images).argmax(1)


def everything(network: nn.Module, images: Tensor, labels: Tensor) -> list[np.ndarray]:
    """Numbers of all callers of a network: evaluation, a gradient attack, an attack of the library, CLEVER."""
    report = evaluate_robustness(network, images, labels, PROTOCOL)
    found = [report.predictions, *report.minimal_epsilon.values(), *report.distance.values()]
    attacks = [PGD(steps=3), TorchAttack("PGD", steps=3, random_start=False)]
    found += [attack(network, images, labels, THREAT).numpy() for attack in attacks]
    return [*found, CLEVER(network, images).value.numpy()]


def subtract(network: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = network(images.sub_(0.1).mul_(2))
    return logits


def subtract_unseen(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        images.sub_(0.1)
    logits: Tensor = network(images.mul_(2))
    return logits


def subtract_data(network: nn.Module, images: Tensor) -> Tensor:
    images.data.sub_(0.1)
    logits: Tensor = network(images.mul_(2))
    return logits


def subtract_out_of_place(network: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = network((images - 0.1) * 2)
    return logits


@pytest.mark.parametrize(
    ("in_place", "out_of_place"),
    [
        (Changed(subtract), Changed(subtract_out_of_place)),
        (Changed(subtract_unseen), Changed(subtract_out_of_place)),
        (Changed(subtract_data), Changed(subtract_out_of_place)),
        (nn.Sequential(nn.ReLU(inplace=True), body()), nn.Sequential(nn.ReLU(), body())),
        (nn.Sequential(nn.Hardtanh(0.2, 0.8, inplace=True), body()), nn.Sequential(nn.Hardtanh(0.2, 0.8), body())),
    ],
    ids=["subtract", "subtract without autograd", "subtract data", "relu", "hardtanh"],
)
def test_networks_that_work_in_place_have_the_numbers_of_those_that_do_not(
    in_place: nn.Module, out_of_place: nn.Module, images: Tensor
) -> None:
    before = images.clone()
    labels = torch.arange(12) % 5
    for found, expected in zip(
        everything(in_place.eval(), images, labels), everything(out_of_place.eval(), images, labels), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    assert torch.equal(images, before)


OUTPUTS: dict[str, tuple[Callable[[nn.Module, Tensor], object], str]] = {
    "tuple": (lambda net, x: (net(x), x), r"got a tuple of 2; .*network\(images\)\[0\]"),
    "list": (lambda net, x: [net(x)], "got a list of 1"),
    "dict": (lambda net, x: {"aux": 1, "out": net(x)}, r"got a dict with 'aux', 'out'; .*network\(images\)\['out'\]"),
    "object": (lambda net, x: SimpleNamespace(logits=net(x)), r"got SimpleNamespace; .*\.logits"),
    "nothing": (lambda net, x: None, "got NoneType"),
    "one value": (lambda net, x: net(x)[:, 0], r"shape \(\d+,\); one value per image .*torch.stack"),
    "one column": (lambda net, x: net(x)[:, :1], r"shape \(\d+, 1\); one value per image"),
    "another axis": (lambda net, x: net(x)[:, None], r"shape \(\d+, 1, 5\); return output.flatten\(1\)"),
    "one row": (lambda net, x: net(x).mean(0, keepdim=True), r"shape \(1, 5\); return one row of logits per image"),
    "classes": (lambda net, x: net(x).argmax(1, keepdim=True).expand(-1, 5), "returns int64, not logits"),
}


def test_of_a_dictionary_the_logits_are_named_and_training_mode_is_said(images: Tensor, labels: Tensor) -> None:
    network = Changed(lambda net, x: {"loss": net(x).sum(), "logits": net(x)}).train()
    network.network.eval()
    with pytest.raises(UserError, match=r"'loss', 'logits' in training mode; .*network\(images\)\['logits'\]"):
        evaluate_robustness(network, images, labels, PROTOCOL)


@pytest.mark.parametrize("output", OUTPUTS)
def test_outputs_that_are_no_logits_are_refused_in_one_line(output: str, images: Tensor, labels: Tensor) -> None:
    network, message = Changed(OUTPUTS[output][0]), OUTPUTS[output][1]
    for call in (
        lambda: evaluate_robustness(network, images, labels, PROTOCOL),
        lambda: PGD()(network, images, labels, THREAT),
        lambda: TorchAttack("FGSM")(network, images, labels, THREAT),
        lambda: TorchAttack("Square", n_queries=3)(network, images, labels, THREAT),
        lambda: CLEVER(network, images),
    ):
        with pytest.raises(UserError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_double_network_is_attacked(images: Tensor, labels: Tensor) -> None:
    for found, expected in zip(
        everything(body().double(), images, labels), everything(body(), images, labels), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_are_refused(dtype: torch.dtype, images: Tensor, labels: Tensor) -> None:
    with pytest.raises(UserError, match=r"float16 weights, .*evaluate network.float\(\)"):
        evaluate_robustness(body().to(dtype), images, labels, PROTOCOL)
    with pytest.raises(UserError, match="float16 weights"):
        CLEVER(body().to(dtype), images)


@pytest.mark.parametrize(
    "convert",
    [
        lambda images, labels: (images.numpy(), labels.numpy()),
        lambda images, labels: (images.tolist(), labels.tolist()),
        lambda images, labels: (images, labels.int()),
        lambda images, labels: (images.numpy(), labels.to(torch.uint8)),
        lambda images, labels: (images, labels.numpy().astype(np.int32)),
        lambda images, labels: (images.numpy()[::-1][::-1, :, ::-1][:, :, ::-1], labels.numpy()[::-1][::-1]),
        lambda images, labels: (images.numpy().astype(">f4"), labels.numpy().astype(">i8")),
        lambda images, labels: (np.broadcast_to(images.numpy(), images.shape), labels),
    ],
    ids=["numpy", "lists", "int32", "uint8", "numpy int32", "reversed", "big-endian", "read-only"],
)
def test_other_containers_are_converted(
    convert: Callable[..., tuple], images: Tensor, labels: Tensor, tmp_path: Path
) -> None:
    expected = evaluate_robustness(body(), images, labels, PROTOCOL)
    given = convert(images, labels)
    found = evaluate_robustness(body(), *given, PROTOCOL)
    np.testing.assert_array_equal(found.minimal_epsilon["pgd"], expected.minimal_epsilon["pgd"])
    merged = evaluate_in_shards(body(), *given, PROTOCOL, tmp_path)
    assert merged is not None
    np.testing.assert_array_equal(merged.minimal_epsilon["pgd"], expected.minimal_epsilon["pgd"])
    assert torch.equal(PGD(steps=2)(body(), *given, THREAT), PGD(steps=2)(body(), images, labels, THREAT))
    assert torch.equal(CLEVER(body(), given[0]).value, CLEVER(body(), images).value)


@pytest.mark.parametrize(
    ("convert", "message"),
    [
        (lambda images, labels: (images.permute(0, 2, 3, 1), labels), "channels last; give images.permute"),
        (lambda images, labels: (images.numpy().astype(np.float64), labels), "must be float32, got torch.float64"),
        (lambda images, labels: (images, labels.float()), "labels must be int64"),
        (lambda images, labels: (images, labels[:3]), "labels must be int64"),
        (lambda images, labels: ("images", labels), "images must be a tensor, got str"),
        (lambda images, labels: (images.to_sparse(), labels), r"must be a dense tensor, .*to_dense\(\)"),
        (lambda images, labels: (images, labels + 5), r"labels must lie in 0 \.\.\. 4"),
        (lambda images, labels: (images, labels - 5), r"labels must lie in 0 \.\.\. 4"),
    ],
    ids=["channels last", "double", "float labels", "few labels", "text", "sparse", "labels above", "labels below"],
)
def test_unsuitable_data_is_refused_in_one_line(
    convert: Callable[..., tuple], message: str, images: Tensor, labels: Tensor
) -> None:
    given = convert(images, labels)
    for call in (
        lambda: evaluate_robustness(body(), *given, PROTOCOL),
        lambda: FGSM()(body(), *given, THREAT),
        lambda: Square(steps=2)(body(), *given, THREAT),
        lambda: PGD(targeted=True)(body(), *given, THREAT),
    ):
        with pytest.raises(UserError, match=message):
            call()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda images: body()(images), "got function; wrap it in a module"),
        (nn.Flatten, "got the class Flatten; make an object"),
        (None, "got NoneType"),
        (nn.ModuleList([body()]), "ModuleList has no forward"),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(5)), "lazy layers without weights"),
    ],
    ids=["function", "class", "nothing", "list of networks", "lazy"],
)
def test_what_is_no_network_is_refused_in_one_line(
    given: object, message: str, images: Tensor, labels: Tensor, tmp_path: Path
) -> None:
    for call in (
        lambda: evaluate_robustness(given, images, labels, PROTOCOL),
        lambda: evaluate_in_shards(given, images, labels, PROTOCOL, tmp_path),
        lambda: PGD()(given, images, labels, THREAT),
        lambda: TorchAttack("FGSM")(given, images, labels, THREAT),
        lambda: CLEVER(given, images),
    ):
        with pytest.raises(UserError, match=message):
            call()


@pytest.mark.parametrize("given", [None, 8 / 255, "linf", ThreatModel], ids=["nothing", "number", "text", "class"])
def test_what_is_no_threat_is_refused_in_one_line(given: object, images: Tensor, labels: Tensor) -> None:
    for attack in (PGD(), Square(steps=2), TorchAttack("FGSM")):
        with pytest.raises(UserError, match="threat must be a threat, got"):
            attack(body(), images, labels, given)


@pytest.mark.parametrize("given", [3, "seed", [torch.Generator()], [1] * 12], ids=["number", "text", "one", "numbers"])
def test_what_is_no_generator_is_refused_in_one_line(given: object, images: Tensor, labels: Tensor) -> None:
    for attack in (PGD(random_start=True), Square(steps=2), TorchAttack("FGSM")):
        with pytest.raises(UserError, match=r"generator must be a torch\.Generator, or one per image"):
            attack(body(), images, labels, THREAT, given)


@pytest.mark.parametrize("given", [None, {"attacks": {}}, EvaluationProtocol], ids=["nothing", "mapping", "class"])
def test_what_is_no_protocol_is_refused_in_one_line(
    given: object, images: Tensor, labels: Tensor, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="protocol must be an EvaluationProtocol"):
        evaluate_robustness(body(), images, labels, given)
    with pytest.raises(UserError, match="protocol must be an EvaluationProtocol"):
        evaluate_in_shards(body(), images, labels, given, tmp_path)


@pytest.mark.parametrize(
    "indices",
    ["abc", 7, [0] * 12, range(-1, 11), [None] * 12, [f"{i}" for i in range(12)], torch.rand(12), [2**70] * 12, {}],
    ids=["text", "number", "repeated", "negative", "nothing", "texts", "fractions", "huge", "mapping"],
)
def test_numbers_of_images_that_are_none_are_refused_in_one_line(indices: Any, images: Tensor, labels: Tensor) -> None:
    with pytest.raises(UserError, match="indices must be"):
        evaluate_robustness(body(), images, labels, PROTOCOL, indices=indices)
    with pytest.raises(UserError, match="indices must be"):
        CLEVER(body(), images, indices=indices)


@pytest.mark.parametrize("shape", [(12, 1, 8, 8), (12, 3, 16, 16), (12, 3, 2, 2)], ids=["grey", "large", "small"])
def test_images_of_another_shape_than_the_networks_are_refused_in_one_line(
    shape: tuple[int, ...], labels: Tensor
) -> None:
    for call in (
        lambda: evaluate_robustness(body(), torch.rand(shape), labels, PROTOCOL),
        lambda: PGD()(body(), torch.rand(shape), labels, THREAT),
    ):
        with pytest.raises(UserError, match=r"network takes no images of shape \(\d+, \d, \d+, \d+\) \(.*\); give"):
            call()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_traced_network_is_attacked(images: Tensor, labels: Tensor) -> None:
    traced = torch.jit.trace(body(), images[:2])
    for found, expected in zip(everything(traced, images, labels), everything(body(), images, labels), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in traced.parameters())


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_frozen_script_is_attacked(images: Tensor, labels: Tensor) -> None:
    frozen = torch.jit.freeze(torch.jit.script(body()))
    for found, expected in zip(everything(frozen, images, labels), everything(body(), images, labels), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_the_library_attacks_a_network_that_cuts_its_graph(
    context: Callable[[], Any], images: Tensor, labels: Tensor
) -> None:
    def cut(network: nn.Module, given: Tensor) -> Tensor:
        with context():
            logits: Tensor = network(given)
            return logits

    network = Changed(cut)
    for attack in (TorchAttack("PGD", steps=2, random_start=False), TorchAttack("FGSM")):
        assert torch.equal(attack(network, images, labels, THREAT), images)  # whose gradient is zero
    square = TorchAttack("Square", n_queries=20, seed=0)
    assert torch.equal(square(network, images, labels, THREAT), square(body(), images, labels, THREAT))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_activations_recomputed_without_gradients_of_images_are_named(images: Tensor, labels: Tensor) -> None:
    network = Changed(lambda net, x: torch.utils.checkpoint.checkpoint(net, x, use_reentrant=True))
    with pytest.raises(UserError, match="set use_reentrant=False"):
        evaluate_robustness(network, images, labels, PROTOCOL)


def test_tensors_made_in_inference_mode_are_attacked(images: Tensor, labels: Tensor) -> None:
    with torch.inference_mode():
        given = images.clone(), labels.clone()
    for found, expected in zip(everything(body(), *given), everything(body(), images, labels), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_buffers_that_a_pass_changes_are_put_back(images: Tensor, labels: Tensor) -> None:
    class Counting(Changed):
        def __init__(self) -> None:
            super().__init__(lambda net, x: net(x))
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, images: Tensor) -> object:
            self.calls += 1
            return super().forward(images)

    network = Counting()
    evaluate_robustness(network, images, labels, PROTOCOL)
    assert network.calls == 0


def test_an_error_of_the_network_is_not_blamed_on_the_attack(images: Tensor, labels: Tensor) -> None:
    def broken(network: nn.Module, given: Tensor) -> Tensor:
        raise KeyError("my own")

    for call in (TorchAttack("PGD", steps=2), PGD()):
        with pytest.raises(KeyError, match="my own"):
            call(Changed(broken), images, labels, THREAT)


class Viewed(nn.Module):
    """Networks that read memory in the order (C, H, W): features, or the images, viewed as rows."""

    def __init__(self, convolution: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 8, 3) if convolution else nn.Identity()
        self.linear = nn.Linear(8 * 36 if convolution else 3 * 64, 5)

    def forward(self, images: Tensor) -> Tensor:
        features = self.convolution(images)
        logits: Tensor = self.linear(features.view(features.size(0), -1))
        return logits


class Flattened(Viewed):
    """The same functions in words that any memory order allows."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.convolution(images).flatten(1))
        return logits


@pytest.mark.parametrize("convolution", [True, False])
def test_networks_that_view_features_as_rows_are_evaluated_as_those_that_flatten_them(convolution: bool) -> None:
    images = torch.rand((12, 3, 8, 8), generator=torch.Generator().manual_seed(2))
    labels = predict(Flattened(convolution), images).argmax(1)
    protocol = EvaluationProtocol(
        attacks={"pgd": PGD(steps=3, random_start=True)}, epsilons=[0.02, 0.1], measures={"clever": CLEVER}
    )
    found, expected = (
        evaluate_robustness(kind(convolution).eval(), images, labels, protocol) for kind in (Viewed, Flattened)
    )
    np.testing.assert_array_equal(found.predictions, expected.predictions)
    np.testing.assert_array_equal(found.minimal_epsilon["pgd"], expected.minimal_epsilon["pgd"])
    for name, value in expected.measures["clever"].items():
        np.testing.assert_allclose(found.measures["clever"][name], value, rtol=1e-3)
    network = Viewed(convolution).eval()
    last = images.contiguous(memory_format=torch.channels_last)
    for given in (images, last):
        crafted = PGD(steps=3)(network, given, labels, THREAT)
        assert float((crafted - images).abs().max()) <= 0.1 + 1e-6
        CLEVER(Viewed(convolution).eval(), given)


def test_only_networks_that_refuse_images_channels_last_get_others() -> None:
    orders = []

    def note(network: nn.Module, images: Tensor) -> Tensor:
        orders.append(images.is_contiguous())
        return network(images)  # type: ignore[no-any-return]

    last = torch.rand(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    predict(Changed(note, Flattened(True)), last)
    assert orders == [False]
    viewed = Changed(note, Viewed(True))
    predict(viewed, last)
    predict(viewed, last)
    assert orders[1:] == [False, True, True]  # it refuses once


def test_weights_are_laid_out_channels_last_where_the_network_works_so() -> None:
    images = torch.rand(2, 3, 8, 8)
    for network, order in ((Flattened(True), torch.channels_last), (Viewed(True), torch.contiguous_format)):
        assert lay_out(network.eval(), images).convolution.weight.is_contiguous(memory_format=order)
        predict(network, images)
