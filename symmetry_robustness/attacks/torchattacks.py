"""Any attack of torchattacks by name, with everything it does to its surroundings fenced off."""

import contextlib
import difflib
import inspect
import io
import random
from collections.abc import Iterator, Mapping
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks.gradient import check_evaluation_mode, check_labels
from symmetry_robustness.attacks.rng import RandomSource, example_generator
from symmetry_robustness.attacks.threat import ThreatModel, check_images, parse_epsilon, per_image
from symmetry_robustness.errors import UserError, one_line
from symmetry_robustness.precision import float32

_NORMS = {"linf": "Linf", "l2": "L2"}
# Classes without a `norm` argument work in linf unless listed here; see the "Distance Measure" of their documentation.
_L2_CLASSES = frozenset({"PGDL2", "PGDRSL2"})
_RESERVED = frozenset({"self", "model", "eps", "norm", "max_epsilon"})
# With less an attack would do nothing, and say nothing.
_LEAST = {"steps": 1, "n_queries": 1, "n_restarts": 1, "n_classes": 2}
# What comes of values that nobody has looked at.
_MISUSE = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError, ValueError)
_NOT_ATTACKS = frozenset({"MultiAttack", "LGV"})


@final
class LibraryAttack:
    """An attack class of torchattacks 3.5, chosen by its name; epsilon and norm come from the threat.

    Fenced off: the network's mode, gradients and parameters (the library sees a view of it), normalisation (the
    network's own first layer does it), the device, all global random states, and everything printed. Results outside
    the ball are handed over as they are when the attack was given an epsilon, for the evaluator to find. An attack
    that knows no epsilon (CW, DeepFool) fails on an image when its result lies outside, and returns the image.

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

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"LibraryAttack is immutable; make a new one to change {name}")

    def __repr__(self) -> str:
        return f"LibraryAttack({', '.join([repr(self.name), *(f'{k}={v!r}' for k, v in self.settings.items())])})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LibraryAttack) and (self.name, self.settings) == (other.name, other.settings)

    def __hash__(self) -> int:
        return hash(repr(self))

    def setting(self, name: str) -> Any:
        """Value of a keyword argument, the library's own where none was given; None where there is none."""
        parameter = _parameters(self.name).get(name)
        own = None if parameter is None or parameter.default is parameter.empty else parameter.default
        return self.settings.get(name, own)

    @property
    def minimal(self) -> bool:
        """Whether the attack looks for the smallest change instead of being given an epsilon."""
        return not {"eps", "max_epsilon"} & set(_parameters(self.name))

    def __call__(
        self,
        network: nn.Module,
        images: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        generator: RandomSource | None = None,
    ) -> Tensor:
        """Return adversarial images (B, C, H, W) as the library makes them.

        Args:
            network: images in [0, 1] to logits, in evaluation mode.
            images: float32 (B, C, H, W) in [0, 1].
            labels: (B,) int64, true classes.
            threat: norm, epsilon, bounds; bounds must be [0, 1], the only ones the library knows.
            generator: seeds the global random states the library draws from, for the duration of the call.

        Raises:
            UserError: for a norm the attack does not know, unsuitable images, or a call inside inference mode.
        """
        check_images(images, threat.bounds)
        check_labels(labels, images)
        check_evaluation_mode(network)
        if torch.is_inference_mode_enabled():
            raise UserError("attack called inside torch.inference_mode, where no gradients exist; call it outside")
        if tuple(threat.bounds) != (0.0, 1.0):
            raise UserError(f"attack {self.name} knows only the bounds [0, 1], got {list(threat.bounds)}; use PGD")
        if not len(images):
            return images.detach().clone()
        images = images.detach().clone(memory_format=torch.contiguous_format)
        with _fenced(images.device, _seed(generator)), float32(images.device):
            try:
                attack = self._build(network, images, threat, _seed(generator))
                adversarial: Tensor = attack(images.clone(), labels.clone())
            except UserError:
                raise
            except _MISUSE as error:  # how the library meets values that it cannot work with
                chosen = ", ".join(f"{name}={value!r}" for name, value in self.settings.items()) or "its own settings"
                line = f"{type(error).__name__}: {one_line(error)}"
                raise UserError(f"attack {self.name} fails with {chosen} ({line}); mend its settings") from error
        adversarial = adversarial.detach()
        if self.minimal:
            inside = threat.ball.length(adversarial - images) <= threat.epsilon
            adversarial = torch.where(per_image(inside, images), adversarial, images)
        return adversarial

    def _build(self, network: nn.Module, images: Tensor, threat: ThreatModel, seed: int) -> Any:
        parameters = _parameters(self.name)
        arguments = dict(self.settings)
        if "norm" in parameters:
            arguments["norm"] = _NORMS[threat.norm]
        elif not self.minimal and threat.norm != ("l2" if self.name in _L2_CLASSES else "linf"):
            raise UserError(f"attack {self.name} does not work in norm {threat.norm}; use the other norm or PGD")
        arguments |= {name: threat.epsilon for name in ("eps", "max_epsilon") if name in parameters}
        if "seed" in parameters:
            arguments.setdefault("seed", seed)
        view = _View(network)
        if "n_classes" in parameters and "n_classes" not in arguments:
            with torch.no_grad():
                arguments["n_classes"] = view(images[:1]).shape[1]
        attack = _library_class(self.name)(view, **arguments)
        attack.set_device(images.device)
        return attack


class _View(nn.Module):
    """The network seen from outside: always in evaluation mode, with parameters that take no gradients."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.eval()
        # In a tuple, so that switching the view's mode or zeroing its gradients never reaches the network.
        self._network = (network,)
        self._state = {n: p.detach() for n, p in network.named_parameters(remove_duplicate=False)}

    def forward(self, images: Tensor) -> Tensor:
        images = _Contiguous.apply(images)  # type: ignore[no-untyped-call]
        logits: Tensor = torch.func.functional_call(self._network[0], self._state, (images,), tie_weights=False)
        return logits.float()


class _Contiguous(torch.autograd.Function):
    """The identity, with a gradient in the memory order that the library's calls of `view` rely on."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.view_as(images)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.contiguous()


@contextlib.contextmanager
def _fenced(device: torch.device, seed: int) -> Iterator[None]:
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


def _seed(generator: RandomSource | None) -> int:
    """Seed of 32 bits (numpy's limit) from a generator, which is not advanced; of a sequence the first decides."""
    source = example_generator(0) if generator is None else generator
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
