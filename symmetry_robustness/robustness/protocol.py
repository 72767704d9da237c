"""Protocol of an evaluation: attacks, norm, grid of epsilons, CLEVER, other measures, seed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace
from itertools import pairwise
from typing import Any, Final, Literal, final

from torch import Tensor, nn

from symmetry_robustness.attacks.base import AttackCall, accepted_norms, as_attack
from symmetry_robustness.attacks.threat import Threat, ThreatModel, check_bounds, parse_epsilon
from symmetry_robustness.attacks.threats import ThreatName, make_threat
from symmetry_robustness.attacks.validation import check_count, check_norm
from symmetry_robustness.errors import UserError
from symmetry_robustness.results.names import WORST_CASE
from symmetry_robustness.robustness.measures.base import Measure, describe_measure
from symmetry_robustness.robustness.measures.clever import Clever
from symmetry_robustness.settings import checked

_CHOICES: Final = {
    "judge": ("any", "returned"),
    "checks": ("full", "cheap"),
    "mode": ("evaluation", "training_statistics"),
    "outside": ("discard", "count"),
}
# Members that a measure must have, and how to add them.
_MEMBERS: Final = {
    "images": "add the field images: int | None = None, on how many images it is taken",
    "compute": "add the method compute(self, inputs), which returns arrays with one entry per image by name",
}
# Names in logs, and in the summary of a run, that no measure with a headline may take.
_TAKEN: Final = (
    "clean", "clean_accuracy", "images", "checks_failed", "checks_warned", "share_of_epoch", "status", "name", "group",
    "seed", "data", "parameters", "test_accuracy", "test_images", "robustness_images", "flops", "epochs",
    "training_seconds", "images_per_second", "step_flops", "training_flops", "forward_passes", "backward_passes",
    "peak_memory", "hardware", "best",
)  # fmt: skip


@final
@checked
@dataclass(frozen=True)
class EvaluationProtocol:
    """Settings of an evaluation; two reports can be compared where these agree.

    Args:
        attacks: name to attack; names appear in the report. Empty for clean accuracy only. An attack that consists of
            several, such as `Transfer` from several sources, becomes several.
        norm: "linf", "l2" or "l1" for perturbations of pixels, or another kind of threat: "spatial".
        epsilons: radii in pixel units of [0, 1], numbers or fractions such as "8/255", in any order; sizes of another
            kind of threat.
        clever: settings of the CLEVER score: a shorthand for the measure named clever.
        seed: of every random draw, together with the number of the image.
        batch_size: images per pass through the network.
        keep_examples: of how many images (those with the lowest numbers) adversarial images are kept.
        clever_images: `images` of `clever`; None leaves it as it is.
        judge: "any" counts every iterate of a gradient attack and takes an image broken at one epsilon as broken at all
            larger ones; "returned" counts only what the attack returns, at each epsilon on its own.
        bounds: smallest and largest pixel value an attack may use.
        cascade: each attack gets only the images that all attacks before it left standing, and only at epsilons below
            the one that broke them; its row of the report is what stands after it and all before it. The last row is
            the worst case, at the price of the attacks that are needed.
        checks: "full" runs all soundness checks; "cheap" leaves out those that attack a few images once more.
        expected_clean_accuracy: clean accuracy known from elsewhere, such as the training; much less fails a check.
        mode: "evaluation", or "training_statistics" to let the network's batch norms use the batch at hand, which only
            re-enacts evaluations that did so by mistake.
        outside: "discard" counts what an attack returns outside of its ball or the bounds as no success; "count" judges
            it like the rest, which only re-enacts evaluations that clamp wrongly. A check fails either way.
        measures: name to a measure that is no attack; names appear in the report.

    Examples:
        >>> from symmetry_robustness.attacks import PGD
        >>> protocol = EvaluationProtocol(attacks={"pgd": PGD(steps=40)}, norm="linf", epsilons=["8/255", "2/255"])
        >>> [round(epsilon, 4) for epsilon in protocol.grid]
        [0.0078, 0.0314]
    """

    attacks: Mapping[str, AttackCall] = field(default_factory=dict)
    norm: ThreatName = "linf"
    epsilons: Sequence[float | str] = (2 / 255, 4 / 255, 8 / 255)
    clever: InitVar[Clever | None] = None
    seed: int = 0
    batch_size: int = 128
    keep_examples: int = 8
    clever_images: InitVar[int | None] = None
    judge: Literal["any", "returned"] = "any"
    bounds: tuple[float, float] = (0.0, 1.0)
    cascade: bool = False
    checks: Literal["full", "cheap"] = "full"
    expected_clean_accuracy: float | None = None
    mode: Literal["evaluation", "training_statistics"] = "evaluation"
    outside: Literal["discard", "count"] = "discard"
    measures: Mapping[str, Measure] = field(default_factory=dict)

    def __post_init__(self, clever: Clever | None, clever_images: int | None) -> None:
        # Plain containers, whatever the configuration library hands over.
        for parts in ("attacks", "measures"):
            if not isinstance(given := getattr(self, parts), Mapping):
                raise UserError(f"{parts} must be given by name, got {given!r}; write {{name: …}}")
            object.__setattr__(self, parts, dict(given))
        object.__setattr__(self, "attacks", dict(_singly(self.attacks)))
        if clever is not None:
            object.__setattr__(self, "measures", {"clever": _shortened(clever, clever_images), **self.measures})
        if isinstance(self.epsilons, str) or not hasattr(self.epsilons, "__iter__"):
            raise UserError(f"epsilons must be a list, got {self.epsilons!r}; write [{self.epsilons!r}]")
        grid = tuple(sorted(map(parse_epsilon, self.epsilons)))
        if len(set(grid)) != len(grid):
            raise UserError(f"epsilons must differ, got {list(self.epsilons)}; remove the repetition")
        object.__setattr__(self, "epsilons", grid)
        object.__setattr__(self, "bounds", check_bounds(self.bounds))
        make_threat(self.norm, 1.0, self.bounds)  # which refuses what is none
        alike = [f"{small} and {large}" for small, large in pairwise(grid) if f"{small:.4g}" == f"{large:.4g}"]
        if alike:
            raise UserError(f"epsilons {alike[0]} agree in four digits, by which results are named; leave one out")
        if self.attacks and not grid:
            raise UserError("epsilons must not be empty when attacks are given, got []; add one or remove the attacks")
        for name, attack in self.attacks.items():
            if not callable(attack) or isinstance(attack, type):
                raise UserError(f"attack {name} must be an attack, got {attack!r}; give it a _target_ such as PGD")
            check_norm(name, self.norm, accepted_norms(as_attack(attack)))
            if name in ("clean", WORST_CASE) or not str(name).isidentifier():
                taken = f"letters, digits and _, and neither clean nor {WORST_CASE}"
                raise UserError(f"attacks: {name!r} cannot name an attack; use {taken}")
        self._check_measures()
        if self.cascade and self.judge == "returned":
            raise UserError("cascade needs judge any, got returned; set judge=any or cascade=false")
        for option, values in _CHOICES.items():
            if (value := getattr(self, option)) not in values:
                raise UserError(f"{option} must be {' or '.join(values)}, got {value!r}; choose one of them")
        if self.outside == "count" and self.judge == "any":
            raise UserError("outside=count needs judge=returned; set both to re-enact an evaluation")
        if self.expected_clean_accuracy is not None and not 0 <= self.expected_clean_accuracy <= 1:
            raise UserError(
                f"expected_clean_accuracy must lie in [0, 1], got {self.expected_clean_accuracy}; give 95 % as 0.95"
            )
        check_count("seed", self.seed, least=0)
        check_count("batch_size", self.batch_size)
        check_count("keep_examples", self.keep_examples, least=0)

    def _check_measures(self) -> None:
        for name, measure in self.measures.items():
            alone = isinstance(measure, type)
            missing = [member for member in ("images", "compute") if alone or not hasattr(measure, member)]
            if len(missing) == 1:
                raise UserError(f"measure {name}: {type(measure).__name__} has no {missing[0]}; {_MEMBERS[missing[0]]}")
            if missing:
                raise UserError(
                    f"measure {name} must be a measure, got {measure!r}; give it a _target_ such as GradientNorm"
                )
            if not str(name).isidentifier():
                raise UserError(f"measures: {name!r} cannot name a measure; use letters, digits and _")
            if getattr(measure, "headline", None) and name in _TAKEN:
                raise UserError(f"measures: {name!r} is the name of another number; choose another name")
            if measure.images is not None and measure.images < 1:
                raise UserError(
                    f"measures.{name}.images must be at least 1, got {measure.images}; leave it out for all"
                )
        if self.measures and self.mode != "evaluation":
            raise UserError(f"measures need mode=evaluation, got {self.mode}; leave them out of a re-enactment")

    @property
    def grid(self) -> tuple[float, ...]:
        """Epsilons as numbers, increasing; since the protocol was made the same as `epsilons`."""
        return self.epsilons  # type: ignore[return-value]

    @property
    def origins(self) -> dict[str, Mapping[str, Any]]:
        """Other networks from which images come, by name, with their provenance."""
        return {name: origin for attack in self.attacks.values() for name, origin in as_attack(attack).origins.items()}

    @property
    def calibration_images(self) -> int:
        """How many clean images, none of those evaluated, the measures need."""
        return max((getattr(measure, "calibration_images", 0) for measure in self.measures.values()), default=0)

    def threat(self, epsilon: float) -> Threat:
        """The threat of one epsilon."""
        return make_threat(self.norm, epsilon, self.bounds)

    def ball(self, epsilon: float) -> ThreatModel:
        """The threat of one epsilon, where it allows perturbations of pixels.

        Raises:
            UserError: for a threat of another kind.
        """
        return ThreatModel(self.norm, epsilon, self.bounds)  # type: ignore[arg-type]

    def against(self, network: nn.Module, images: Tensor) -> "EvaluationProtocol":
        """The protocol with each attack as it is used against a network.

        Raises:
            UserError: where an attack cannot attack this network, or such images; names the attack.
        """
        ready = {}
        for name, attack in self.attacks.items():
            try:
                ready[name] = as_attack(attack).against(network, images)
            except UserError as error:
                raise UserError(f"attack {name}: {error}") from error
        return replace(self, attacks=ready)

    def describe(self) -> dict[str, Any]:
        """Settings as plain values for a JSON file."""
        return {
            "attacks": {name: as_attack(attack).describe() for name, attack in self.attacks.items()},
            "norm": self.norm,
            "epsilons": list(self.grid),
            "seed": self.seed,
            "judge": self.judge,
            "bounds": list(self.bounds),
            "cascade": self.cascade,
            "checks": self.checks,
            "expected_clean_accuracy": self.expected_clean_accuracy,
            "mode": self.mode,
            "outside": self.outside,
            "measures": {name: describe_measure(measure) for name, measure in self.measures.items()},
        }


def require_protocol(protocol: EvaluationProtocol) -> None:
    """Refuse what is no protocol, such as its class or a mapping of its settings.

    Raises:
        UserError: names what came.
    """
    if not isinstance(protocol, EvaluationProtocol):
        kind = protocol.__name__ if isinstance(protocol, type) else type(protocol).__name__
        raise UserError(f"protocol must be an EvaluationProtocol, got {kind}; write EvaluationProtocol(attacks=…)")


def _singly(attacks: Mapping[str, AttackCall]) -> Iterator[tuple[str, AttackCall]]:
    """Attacks by name, those that consist of several one by one."""
    for name, attack in attacks.items():
        parts = getattr(attack, "parts", None)
        yield from ((f"{name}_{part}", single) for part, single in parts.items()) if parts else ((name, attack),)


def _shortened(clever: Clever, images: int | None) -> Clever:
    """CLEVER on no more than some images.

    Raises:
        UserError: for a measure that is not CLEVER, or a negative number.
    """
    if not isinstance(clever, Clever):
        raise UserError(f"clever must be settings of CLEVER, got {clever!r}; give it the _target_ Clever")
    if images is not None and images < 1:
        raise UserError(f"clever_images must be at least 1, got {images}; leave clever out instead")
    return clever if images is None else replace(clever, images=images)
