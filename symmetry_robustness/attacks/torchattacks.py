"""Any attack of torchattacks by name, isolated from its surroundings."""

import contextlib
import difflib
import inspect
import io
import random
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks.base import CheckedAttack, plain
from symmetry_robustness.attacks.norms import NORMS, per_image
from symmetry_robustness.attacks.threat import ThreatModel, parse_epsilon
from symmetry_robustness.attacks.validation import (
    check_gradients_exist,
    check_norm,
    forward,
    predict,
)
from symmetry_robustness.errors import UserError, one_line
from symmetry_robustness.precision import float32
from symmetry_robustness.rng import RandomSource
from symmetry_robustness.settings import checked

_NORMS = {"linf": "Linf", "l2": "L2"}
# Classes without a `norm` argument work in linf unless listed here; see the "Distance Measure" of their documentation.
_L2_CLASSES = frozenset({"PGDL2", "PGDRSL2"})
_SINGLE_STEP = frozenset({"FGSM", "FFGSM"})
_DETERMINISTIC = frozenset({"FGSM", "BIM", "MIFGSM", "NIFGSM", "SINIFGSM", "CW", "DeepFool", "SparseFool"})
_GRADIENT_FREE = frozenset({"GN", "OnePixel", "Pixle", "Square"})
_RESERVED = frozenset({"self", "model", "eps", "norm", "max_epsilon"})
# With less an attack would do nothing, silently.
_LEAST = {"steps": 1, "n_queries": 1, "n_restarts": 1, "n_classes": 2}
# Errors that the library raises for values that it does not check.
_MISUSE = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError, ValueError)
_NOT_ATTACKS = frozenset({"MultiAttack", "LGV"})


@final
@checked
@dataclass(frozen=True, init=False, repr=False)
class TorchAttack(CheckedAttack):
    """An attack class of torchattacks 3.5, chosen by its name; epsilon and norm come from the threat.

    Isolated from the library: the network's mode, gradients and parameters, normalisation (the network's own first
    layer does it), the device, all global random states, and everything printed. Results outside the ball are handed
    over as they are when the attack was given an epsilon, for the evaluator to find. An attack that knows no epsilon
    (CW, DeepFool) fails on an image when its result lies outside, and returns the image.

    Args:
        name: class name, such as "APGD", "Square", "FAB".
        settings: keyword arguments of that class other than the model, epsilon and norm.

    Raises:
        UserError: for an unknown name or setting; the message lists near matches.
    """

    name: str
    settings: Mapping[str, Any]

    def __init__(self, name: str, **settings: Any) -> None:
        parameters = _parameters(name)
        for setting in settings:
            if setting in _RESERVED:
                raise UserError(
                    f"attack {name}: {setting} belongs to the threat; set norm and epsilons of the protocol"
                )
            if setting not in parameters:
                allowed = sorted(set(parameters) - _RESERVED)
                raise UserError(f"attack {name} has no setting {setting!r}; {_suggest(setting, allowed)}")
            least = _LEAST.get(setting)
            if least is not None and not (isinstance(settings[setting], int) and settings[setting] >= least):
                raise UserError(
                    f"attack {name}: {setting} must be a whole number of at least {least}, got {settings[setting]!r}"
                )
            if setting == "alpha":  # a step, which others write as a fraction, too
                settings[setting] = parse_epsilon(settings[setting], f"attack {name}: alpha")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "settings", settings)
        steps = self._setting("steps") or self._setting("n_queries")
        object.__setattr__(self, "steps", 1 if name in _SINGLE_STEP else steps)
        object.__setattr__(self, "minimizes_norm", not {"eps", "max_epsilon"} & set(parameters))
        object.__setattr__(self, "uses_gradient", name not in _GRADIENT_FREE)
        started = self._setting("random_start")
        object.__setattr__(self, "is_random", name not in _DETERMINISTIC if started is None else bool(started))

    def __repr__(self) -> str:
        return f"TorchAttack({', '.join([repr(self.name), *(f'{k}={v!r}' for k, v in self.settings.items())])})"

    def __hash__(self) -> int:
        return hash(repr(self))

    @property
    def norms(self) -> tuple[str, ...]:  # type: ignore[override]
        """Norms of the threats that the class accepts."""
        if "norm" in _parameters(self.name):
            return tuple(_NORMS)
        return tuple(NORMS) if self.minimizes_norm else ("l2",) if self.name in _L2_CLASSES else ("linf",)

    def reach(self, epsilon: float) -> float | None:
        """Steps times the length of one, where the class has both."""
        step, steps = self._setting("alpha"), self._setting("steps")
        return None if step is None or steps is None else float(step) * int(steps)

    def describe(self) -> dict[str, Any]:
        """Class and settings as plain values."""
        return {"class": f"torchattacks.{self.name}", **{name: plain(value) for name, value in self.settings.items()}}

    def _setting(self, name: str) -> Any:
        """Value of a keyword argument, the library's own where none was given; None where there is none."""
        parameter = _parameters(self.name).get(name)
        own = None if parameter is None or parameter.default is parameter.empty else parameter.default
        return self.settings.get(name, own)

    def craft(
        self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, source: RandomSource
    ) -> Tensor:
        """Return adversarial images (B, C, H, W) as the library makes them.

        The source seeds the global random states that the library draws from, for the duration of the call. Bounds
        must be [0, 1], the only ones the library knows.

        Raises:
            UserError: for a norm or bounds that the attack does not know, or a call inside inference mode.
        """
        check_gradients_exist("attack")
        if tuple(threat.bounds) != (0.0, 1.0):
            raise UserError(f"attack {self.name} knows only the bounds [0, 1], got {list(threat.bounds)}; use PGD")
        if not len(images):
            return images.clone()
        images = images.clone(memory_format=torch.contiguous_format)
        with _isolated_rng(images.device, _seed(source)), _without_gradients(network), float32(images.device):
            try:
                attack = self._build(network, images, threat, _seed(source))
                adversarial: Tensor = attack(images.clone(), labels.clone())
            except UserError:
                raise
            except _MISUSE as error:  # how the library meets values that it cannot work with
                if any(frame.f_code is _View.forward.__code__ for frame, _ in traceback.walk_tb(error.__traceback__)):
                    raise  # the network's own
                chosen = ", ".join(f"{name}={value!r}" for name, value in self.settings.items()) or "its own settings"
                line = f"{type(error).__name__}: {one_line(error)}"
                raise UserError(f"attack {self.name} fails with {chosen} ({line}); change its settings") from error
        adversarial = adversarial.detach()
        if self.minimizes_norm:
            inside = threat.geometry.length(adversarial - images) <= threat.epsilon
            adversarial = torch.where(per_image(inside, images), adversarial, images)
        return adversarial

    def _build(self, network: nn.Module, images: Tensor, threat: ThreatModel, seed: int) -> Any:
        parameters = _parameters(self.name)
        arguments = dict(self.settings)
        check_norm(self.name, threat.norm, self.norms)
        if "norm" in parameters:
            arguments["norm"] = _NORMS[threat.norm]
        arguments |= {name: threat.epsilon for name in ("eps", "max_epsilon") if name in parameters}
        if "seed" in parameters:
            arguments.setdefault("seed", seed)
        view = _View(network)
        if "n_classes" in parameters and "n_classes" not in arguments:
            arguments["n_classes"] = predict(network, images[:1]).shape[1]
        attack = _library_class(self.name)(view, **arguments)
        attack.set_device(images.device)
        return attack


class _View(nn.Module):
    """The network as the library sees it: always in evaluation mode, without parameters."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.eval()
        # In a tuple, so that switching the view's mode or zeroing its gradients never reaches the network.
        self._network = (network,)

    def forward(self, images: Tensor) -> Tensor:
        logits = forward(self._network[0], _Contiguous.apply(images))  # type: ignore[no-untyped-call]
        if logits.requires_grad or not images.requires_grad:
            return logits.clone() if logits.is_inference() else logits
        return logits.clone() + 0 * images.flatten(1).sum(1, keepdim=True)  # a cut graph has the gradient zero


class _Contiguous(torch.autograd.Function):
    """The identity, with a gradient in the memory order that the library's calls of `view` rely on."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.view_as(images)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.contiguous()


@contextlib.contextmanager
def _without_gradients(network: nn.Module) -> Iterator[None]:
    """Parameters collect no gradients inside, whichever way the library takes them."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def _isolated_rng(device: torch.device, seed: int) -> Iterator[None]:
    """Seed every global random state inside, put the old ones back afterwards, and swallow prints."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the library draws from this state
    deterministic, benchmark = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices), torch.enable_grad(), contextlib.redirect_stdout(io.StringIO()):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, benchmark


def _seed(source: RandomSource) -> int:
    """Seed of 32 bits (numpy's limit) from a generator, which is not advanced; of a sequence the first decides."""
    first = source if isinstance(source, torch.Generator) else source[0]
    return int(first.initial_seed()) % 2**32


def _library_class(name: str) -> Any:
    try:
        import torchattacks  # here, because importing it takes a second that most programs need not spend
    except ModuleNotFoundError as error:
        if error.name != "torchattacks":
            raise
        raise UserError(
            f"attack {name!r} needs torchattacks; install it alone: pip install --no-deps torchattacks==3.5.1"
        ) from error

    known = [n for n in torchattacks.__all__ if n not in _NOT_ATTACKS]
    if name not in known:
        raise UserError(f"attack {name!r} is not in torchattacks; {_suggest(name, known)}")
    return getattr(torchattacks, name)


def _parameters(name: str) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(_library_class(name).__init__).parameters


def _suggest(word: str, known: list[str]) -> str:
    """Remedy of a misspelt name."""
    folded = {k.lower(): k for k in known}
    near = [folded[match] for match in difflib.get_close_matches(word.lower(), folded, n=3, cutoff=0.5)]
    return f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"
