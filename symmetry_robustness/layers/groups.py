"""The groups C_N and D_N: their elements, and what these do to images and to fields.

Elements are numbers: 0 to N-1 are the rotations by that many N-ths of a turn, counter-clockwise; N + k, in D_N, is
the reflection of left and right followed by rotation k. A field is a feature map on which the group acts: it moves with
the image, and its channels are mixed by the matrices of a representation,

- `trivial`: one channel that only moves;
- `regular`: one channel per group element, which the group permutes;
- `irrepK`: a vector of two channels that turns K times while the image turns once, 0 < K < N/2;
- several of these joined by +, as in `trivial+irrep1`.

Channels are ordered by component: first the first component of all fields, then the second of all fields. Components of
one field then stand as many channels apart as there are fields, and statistics over a whole field are those of a plain
batch norm (see `fields.py`).
"""

import math
import re
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from symmetry_robustness.errors import UserError
from symmetry_robustness.layers.validation import require_positive

# Bases of larger groups take long, and kernels of a few pixels hardly distinguish their rotations.
MAX_ORDER = 16

Kind = Literal["trivial", "regular", "irrep"]


@dataclass(frozen=True)
class Group:
    """C_N, the rotations by multiples of 1/N turn, or D_N, with as many reflections.

    Args:
        name: as in "C8" or "D4".

    Raises:
        UserError: the name is not such a group, or the group is too large.
    """

    name: str

    def __post_init__(self) -> None:
        match = re.fullmatch(r"([CD])([1-9][0-9]*)", str(self.name))
        if not match or int(match[2]) * (2 if match[1] == "D" else 1) > MAX_ORDER:
            raise UserError(
                f"group must be C1 to C{MAX_ORDER} or D1 to D{MAX_ORDER // 2}, got {self.name!r}; "
                "write C4 for quarter turns, D4 for quarter turns and reflections"
            )

    @property
    def rotations(self) -> int:
        """N, the number of rotations."""
        return int(self.name[1:])

    @property
    def reflects(self) -> bool:
        """Whether the group holds reflections."""
        return self.name[0] == "D"

    @property
    def order(self) -> int:
        """Number of elements."""
        return self.rotations * (2 if self.reflects else 1)

    @property
    def exact_elements(self) -> tuple[int, ...]:
        """The elements that map the pixel grid onto itself: quarter turns and their reflections."""
        return tuple(element for element in range(self.order) if self.split(element)[1] * 4 % self.rotations == 0)

    def split(self, element: int) -> tuple[bool, int]:
        """Whether an element reflects, and the number of the rotation that follows.

        Raises:
            UserError: there is no such element.
        """
        if not 0 <= element < self.order:
            raise UserError(f"element must be 0 to {self.order - 1} in {self.name}, got {element}; choose one of them")
        return element >= self.rotations, element % self.rotations

    def join(self, reflects: bool, rotation: int) -> int:
        """The number of the element that reflects or not, and then rotates; undoes `split`."""
        return rotation % self.rotations + (self.rotations if reflects else 0)

    def compose(self, second: int, first: int) -> int:
        """The element that does `first`, then `second`."""
        (after, outer), (before, inner) = self.split(second), self.split(first)
        # A reflection turns what came before it the other way.
        return self.join(after != before, outer - inner if after else outer + inner)

    def inverse(self, element: int) -> int:
        """The element that undoes another."""
        reflects, rotation = self.split(element)
        return element if reflects else self.join(False, -rotation)

    def transform_images(self, images: Tensor, element: int) -> Tensor:
        """Reflect and rotate images (B, C, H, W): exactly on the grid if it can be, bilinearly otherwise."""
        reflects, rotation = self.split(element)
        images = images.flip(-1) if reflects else images
        if rotation * 4 % self.rotations == 0:
            return torch.rot90(images, rotation * 4 // self.rotations, dims=(-2, -1))
        angle = 2 * math.pi * rotation / self.rotations
        # From the place in the turned image to that in the given one; the second axis points down.
        back = [[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]]
        theta = images.new_tensor(back).expand(len(images), 2, 3)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)


@dataclass(frozen=True)
class FieldType:
    """A number of fields of one representation of a group, in channels ordered by component.

    Args:
        group: C_N or D_N.
        representation: see above.
        fields: how many.

    Raises:
        UserError: unknown group or representation, or no positive number of fields.
    """

    group: str
    representation: str
    fields: int

    def __post_init__(self) -> None:
        require_positive(fields=self.fields)
        for name in str(self.representation).split("+"):
            _kind(Group(self.group), name)

    @property
    def parts(self) -> tuple["FieldType", ...]:
        """The types that are joined in this one; their channels follow one another."""
        names = [name.strip() for name in self.representation.split("+")]
        return tuple(FieldType(self.group, name, self.fields) for name in names)

    @property
    def kind(self) -> Kind | None:
        """Which representation this is; None if several are joined."""
        return None if len(self.parts) > 1 else _kind(Group(self.group), self.representation)[0]

    @property
    def frequency(self) -> int:
        """How often a vector turns while the image turns once; 0 for what is no vector."""
        return 0 if len(self.parts) > 1 else _kind(Group(self.group), self.representation)[1]

    @property
    def size(self) -> int:
        """Channels of one field."""
        if len(self.parts) > 1:
            return sum(part.size for part in self.parts)
        return {"trivial": 1, "regular": Group(self.group).order, "irrep": 2}[self.kind or "trivial"]

    @property
    def channels(self) -> int:
        """Channels of all fields."""
        return self.size * self.fields

    @property
    def is_permuted(self) -> bool:
        """Whether the group at most permutes the channels, so that what treats all alike commutes with it."""
        return all(part.kind != "irrep" for part in self.parts)

    def matrix(self, element: int) -> Tensor:
        """Matrix (size, size) of an element, acting on the components of a field."""
        group = Group(self.group)
        reflects, rotation = group.split(element)
        if len(self.parts) > 1:
            matrices: Tensor = torch.block_diag(*(part.matrix(element) for part in self.parts))  # type: ignore[no-untyped-call]
            return matrices
        if self.kind == "trivial":
            return torch.ones(1, 1)
        if self.kind == "regular":
            moved = [group.compose(element, other) for other in range(group.order)]
            return torch.eye(group.order)[moved].T  # column h is the unit vector of element·h
        angle = 2 * math.pi * self.frequency * rotation / group.rotations
        cosine, sine = math.cos(angle), math.sin(angle)
        return torch.tensor([[cosine, -sine], [sine, cosine]]) * torch.tensor([1.0, -1.0 if reflects else 1.0])

    def act_on_channels(self, features: Tensor, element: int) -> Tensor:
        """Act with an element on the channels of features (B, channels, H, W), at each pixel alone."""
        matrix = self.matrix(element).to(features)
        components = features.reshape(len(features), self.size, self.fields, *features.shape[2:])
        return torch.einsum("oi,bi...->bo...", matrix, components).flatten(1, 2)

    def act(self, features: Tensor, element: int) -> Tensor:
        """Act on features (B, channels, H, W) with an element: transform the images, then act on the channels."""
        return self.act_on_channels(Group(self.group).transform_images(features, element), element)

    def permute_fields(self, features: Tensor, angle: float, scale: float = 1.0) -> Tensor | None:
        """Mix the channels of features that were turned by an angle in degrees; None if no group element does that."""
        steps = angle * Group(self.group).rotations / 360
        if scale != 1 or not math.isclose(steps, round(steps), abs_tol=1e-6):
            return None
        return self.act_on_channels(features, Group(self.group).join(False, round(steps)))


def _kind(group: Group, name: str) -> tuple[Kind, int]:
    """Kind and frequency of a representation that joins no others.

    Raises:
        UserError: there is none of that name.
    """
    name = name.strip()
    if name == "trivial":
        return "trivial", 0
    if name == "regular":
        return "regular", 0
    highest = (group.rotations - 1) // 2
    match = re.fullmatch(r"(?:irrep|frequency)([1-9][0-9]*)", name)  # frequencyK in checkpoints before 0.1
    if match and int(match[1]) <= highest:
        return "irrep", int(match[1])
    vectors = f"irrep1 to irrep{highest}" if highest else f"no irrepK for {group.name}"
    raise UserError(
        f"representation must be trivial, regular or {vectors}, or several joined by +, got {name!r}; choose among them"
    )
