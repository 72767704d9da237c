"""Bounds of the margins of a traced network over balls around images: intervals, and CROWN backward from the logits.

Everything is float64. Intervals are widened by more than float64 can lose (`operations.ROUNDING`); a linear bound is
lowered by `SLACK` of the sum of the absolute values of its terms. That is 1.7 times float32's unit roundoff, in which
the network is evaluated, and ten million times that of float64, in which the bound is computed.

Source: intervals arXiv 1810.12715, sec. 3; CROWN arXiv 1811.00866, sec. 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor

from symmetry_robustness.attacks.norms import find_norm, per_image
from symmetry_robustness.bounds.graph import Graph, Node
from symmetry_robustness.bounds.operations import (
    ROUNDING,
    Affine,
    Bend,
    Interval,
    Lines,
    Maximum,
    Relu,
)

SLACK: Final = 1e-7

# Numbers of one tensor in a backward pass, few enough for a processor's cache; more rows are taken in parts.
_NUMBERS: Final = 2**20

Norm = Literal["linf", "l2"]
Method = Literal["interval", "crown_ibp", "crown"]


class Balls(NamedTuple):
    """Balls around images (B, C, H, W), float64, of radii (B,) in a norm; `clip` keeps pixels inside [0, 1] in linf."""

    images: Tensor
    radii: Tensor
    norm: Norm
    clip: bool = True

    @property
    def box(self) -> Interval:
        """Least and largest value of every pixel."""
        radius = per_image(self.radii, self.images)
        box = Interval(self.images - radius, self.images + radius)
        return Interval(box.lower.clamp_min(0), box.upper.clamp_max(1)) if self.clip and self.norm == "linf" else box

    def take(self, rows: Tensor) -> Balls:
        """Some of the balls."""
        return self._replace(images=self.images[rows], radii=self.radii[rows])

    def least(self, slopes: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
        """Least value of linear functions with slopes (R, C, H, W) over the balls of images `owner` (R,).

        Returns:
            (R,) the values, and the sums of the absolute values of their terms.
        """
        if self.norm == "linf":
            box = self.box
            terms = slopes.clamp_min(0) * box.lower[owner] + slopes.clamp_max(0) * box.upper[owner]
            return _total(terms), _total(terms.abs())
        terms = slopes * self.images[owner]
        reach = self.radii[owner] * find_norm("l2").length(slopes)
        return _total(terms) - reach, _total(terms.abs()) + reach


class Linear(NamedTuple):
    """R linear functions of values of nodes.

    Attributes:
        rows: coefficients (R, *out) by node.
        constants: (R,).
        size: (R,) sums of the absolute values of what the constants are sums of.
    """

    rows: dict[int, Tensor]
    constants: Tensor
    size: Tensor

    def take(self, chosen: Tensor, sign: int) -> Linear:
        """Some of the functions, (M,), or their negatives."""
        rows = {number: sign * rows[chosen] for number, rows in self.rows.items()}
        return Linear(rows, sign * self.constants[chosen], self.size[chosen])

    def replace(self, number: int, terms: Tensor | None, parents: Sequence[int], parts: Sequence[Tensor]) -> Linear:
        """With constant terms (R, ...) and coefficients of the parents in place of those of a node."""
        rows = {other: given for other, given in self.rows.items() if other != number}
        for parent, part in zip(parents, parts, strict=True):
            rows[parent] = rows[parent] + part if parent in rows else part
        if terms is None:
            return self._replace(rows=rows)
        return Linear(rows, self.constants + _total(terms), self.size + _total(terms.abs()))


def margin_bounds(graph: Graph, balls: Balls, labels: Tensor, method: Method, norms: Mapping[int, Tensor]) -> Tensor:
    """Lower bounds (B, K-1) of the logit of the label minus each other logit, over the balls.

    Args:
        graph: of the network.
        balls: around B images.
        labels: (B,).
        method: "interval" takes intervals up to the last affine operations; "crown_ibp" goes back from the logits
            through lines that enclose the operations between intervals; "crown" finds the ends of these intervals
            in the same way, where an interval does not decide an operation. Later ones are never worse.
        norms: see `first_norms`.
    """
    intervals = propagate(graph, balls, norms, refine=method == "crown")
    last, classes = len(graph) - 1, graph[-1].shape[0]
    rows, owner = margin_rows(labels, classes)
    bounds = [rows.new_zeros(0)]
    for part in _parts(graph, len(rows)):
        functions, whose = past_affine(graph, last, rows[part]), owner[part]
        bounds.append(_least(graph, intervals, balls, functions, whose, through=False))
        if method != "interval":
            better = _least(graph, intervals, balls, functions, whose, through=True)
            bounds[-1] = torch.maximum(bounds[-1], better)
    return torch.cat(bounds).view(len(labels), classes - 1)


def margin_rows(labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """For each image the label's logit minus each other one, as coefficients (B · (K-1), K), and whose they are."""
    others = torch.arange(classes, device=labels.device).expand(len(labels), -1)
    others = others[others != labels[:, None]].view(-1, 1)
    owner = torch.arange(len(labels), device=labels.device).repeat_interleave(classes - 1)
    rows = torch.zeros((len(others), classes), dtype=torch.float64, device=labels.device)
    return rows.scatter_(1, labels[owner, None], 1.0).scatter_(1, others, -1.0), owner


def margins_and_slopes(graph: Graph, images: Tensor, labels: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """Margins (B, K-1) at the images themselves, and the dual norms of their gradients."""
    still = Balls(images, torch.zeros(len(images), dtype=torch.float64, device=images.device), norm, clip=False)
    intervals = propagate(graph, still, {}, refine=False)
    rows, owner = margin_rows(labels, graph[-1].shape[0])
    shape = (len(labels), -1)
    values, slopes = [], []
    for part in _parts(graph, len(rows)):
        functions = past_affine(graph, len(graph) - 1, rows[part])
        linear = minorants(graph, intervals, functions, owner[part], through=True)
        values.append(_total(linear.rows[0] * images[owner[part]]) + linear.constants)
        slopes.append(find_norm(norm).dual.length(linear.rows[0]))
    return torch.cat(values).view(shape), torch.cat(slopes).view(shape)


def first_norms(graph: Graph, norm: Norm, device: torch.device) -> dict[int, Tensor]:
    """Dual norms (1, *out) of the coefficients of affine operations on the image that feed one that is not affine.

    With them the ends of the first intervals are exact. They depend on neither image nor radius; each pixel is passed
    through the network's beginning once.
    """
    affine = _affine(graph)
    fed = {source for node in graph if _bends(node) for source in _sources(graph, node.inputs[0])}
    chosen, pixels = sorted(fed & affine), math.prod(graph[0].shape)
    totals: dict[int, Tensor] = {}
    step = max(1, _NUMBERS // _largest(graph))
    for start in range(0, pixels if chosen else 0, step):
        places = torch.arange(start, min(start + step, pixels), device=device)
        spots = torch.nn.functional.one_hot(places, pixels).double().view(-1, *graph[0].shape)
        found = _apply_affine(graph, spots, chosen[-1], affine)
        nothing = _apply_affine(graph, torch.zeros_like(spots[:1]), chosen[-1], affine)
        for number in chosen:
            slopes = found[number] - nothing[number]
            power = slopes.square() if norm == "l2" else slopes.abs()
            totals[number] = power.sum(0, keepdim=True) + totals.get(number, 0.0)
    return {number: total.sqrt() if norm == "l2" else total for number, total in totals.items()}


def propagate(graph: Graph, balls: Balls, norms: Mapping[int, Tensor], *, refine: bool) -> list[Interval]:
    """Interval of every node; with `refine` CROWN bounds where an interval leaves an operation undecided."""
    intervals = [balls.box]
    values = _apply_affine(graph, balls.images, max(norms, default=0), _affine(graph))
    for number, node in enumerate(graph[1:], start=1):
        operation = node.operation
        assert operation is not None
        if refine and isinstance(operation, Bend):
            _refine_below(graph, intervals, balls, norms, number)
        interval = operation.interval(*(intervals[parent] for parent in node.inputs))
        intervals.append(interval)
        if number in norms:
            intervals[number] = interval.meet(_around(values[number], norms[number], balls))
    return intervals


def _around(values: Tensor, norms: Tensor, balls: Balls) -> Interval:
    """Extremes of affine functions in balls, from their values at the images and their dual norms."""
    length = find_norm(balls.norm).length(balls.images)
    width = (
        per_image(balls.radii * (1 + ROUNDING) + 2 * ROUNDING * length, values) * norms + 2 * ROUNDING * values.abs()
    )
    return Interval(values - width, values + width)


def past_affine(graph: Graph, number: int, rows: Tensor) -> Linear:
    """Rows (R, *out) of a node's values as functions of the image and of the nearest operations that are not affine."""
    nothing = rows.new_zeros(len(rows))
    return _past_affine(graph, Linear({number: rows}, nothing, nothing))


def _past_affine(graph: Graph, functions: Linear) -> Linear:
    """Functions whose last node is the image, or one that is not affine."""
    while isinstance(operation := graph[number := max(functions.rows, default=0)].operation, Affine):
        given = functions.rows[number]
        terms = None if operation.constant is None else given * operation.constant
        functions = functions.replace(number, terms, graph[number].inputs, operation.adjoint(given))
    return functions


def minorants(graph: Graph, intervals: list[Interval], functions: Linear, owner: Tensor, *, through: bool) -> Linear:
    """Linear functions of the image that lie below others, `past_affine`, over the balls of `owner` (R,).

    Without `through` they end, as constants, at the first operations that are not affine.
    """
    while number := max(functions.rows, default=0):
        given, node = functions.rows[number], graph[number]
        positive, negative = given.clamp_min(0), given.clamp_max(0)
        if through:
            assert isinstance(node.operation, Bend)
            lines: Lines = node.operation.lines(intervals[node.inputs[0]])
            pull = node.operation.pull
            part = pull(positive, lines.low[owner]) + pull(negative, lines.high[owner])
            functions = functions.replace(number, negative * lines.offset[owner], node.inputs, (part,))
        else:
            box = intervals[number]
            functions = functions.replace(number, positive * box.lower[owner] + negative * box.upper[owner], (), ())
        functions = _past_affine(graph, functions)
    if functions.rows:
        return functions
    return functions._replace(rows={0: functions.constants.new_zeros((len(owner), *graph[0].shape))})


def _least(
    graph: Graph, intervals: list[Interval], balls: Balls, functions: Linear, owner: Tensor, *, through: bool
) -> Tensor:
    """Lower bounds (R,) of functions, `past_affine`, over the balls of `owner` (R,), after the slack for rounding."""
    linear = minorants(graph, intervals, functions, owner, through=through)
    value, size = balls.least(linear.rows[0], owner)
    return value + linear.constants - SLACK * (size + linear.size)


def _refine_below(
    graph: Graph, intervals: list[Interval], balls: Balls, norms: Mapping[int, Tensor], number: int
) -> None:
    """Narrow, in place, the interval that an operation is applied to, where it leaves the operation undecided.

    Of what is rectified for a maximum alone only the candidates that may be the largest matter: they wait for it.
    """
    operation, (below,) = graph[number].operation, graph[number].inputs
    assert isinstance(operation, Bend)
    if isinstance(operation, Relu) and _feeds_maxima_alone(graph, number):
        return
    marks = {below: operation.undecided(intervals[below]).double()}
    passed = []
    for place in range(below, 0, -1):
        step = graph[place].operation
        if place not in marks or (isinstance(step, Affine) and step.mixes) or isinstance(step, Maximum):
            if place in marks and isinstance(step, Affine) and place not in norms:
                intervals[place] = _narrowed(graph, intervals, balls, place, marks[place] > 0)
            continue
        passed.append(place)
        parts = (
            step.adjoint(marks[place]) if isinstance(step, Affine) else (marks[place] * (intervals[place].upper > 0),)
        )
        for parent, part in zip(graph[place].inputs, parts, strict=True):
            marks[parent] = marks[parent] + part if parent in marks else part
    for place in reversed(passed):
        step = graph[place].operation
        assert step is not None
        intervals[place] = step.interval(*(intervals[parent] for parent in graph[place].inputs))


def _feeds_maxima_alone(graph: Graph, number: int) -> bool:
    """Whether the values of a node go to maxima and nowhere else, possibly by way of other places."""
    if number == len(graph) - 1:
        return False
    followers = [place for place, node in enumerate(graph) if number in node.inputs]
    return all(
        isinstance(graph[place].operation, Maximum) or (_moves(graph[place]) and _feeds_maxima_alone(graph, place))
        for place in followers
    )


def _narrowed(graph: Graph, intervals: list[Interval], balls: Balls, number: int, chosen: Tensor) -> Interval:
    """The interval of a node, with CROWN bounds of chosen components (B, *out)."""
    owner, place = chosen.flatten(1).nonzero(as_tuple=True)
    lower, upper = (end.flatten(1).clone() for end in intervals[number])
    for part in _parts(graph, len(owner)):
        # One row for all images, and for both ends.
        places, component = place[part].unique(return_inverse=True)  # type: ignore[no-untyped-call]
        rows = torch.nn.functional.one_hot(places, lower.shape[1]).double().view(-1, *graph[number].shape)
        functions = past_affine(graph, number, rows)
        ends = [
            sign * _least(graph, intervals, balls, functions.take(component, sign), owner[part], through=True)
            for sign in (1, -1)
        ]
        lower[owner[part], place[part]], upper[owner[part], place[part]] = ends
    shape = intervals[number].lower.shape
    return intervals[number].meet(Interval(lower.view(shape), upper.view(shape)))


def _apply_affine(graph: Graph, images: Tensor, last: int, affine: set[int]) -> dict[int, Tensor]:
    """Values of the affine operations on the image, up to a node."""
    values = {0: images}
    for number in sorted(affine - {0}):
        operation = graph[number].operation
        if number <= last and isinstance(operation, Affine):
            values[number] = operation.apply(*(values[parent] for parent in graph[number].inputs))
    return values


def _affine(graph: Graph) -> set[int]:
    """Nodes that are affine functions of the image, which is one of them."""
    found = {0}
    for number, node in enumerate(graph[1:], start=1):
        if isinstance(node.operation, Affine) and found.issuperset(node.inputs):
            found.add(number)
    return found


def _sources(graph: Graph, number: int) -> set[int]:
    """Nodes whose values a node has, in other places."""
    if not _moves(graph[number]):
        return {number}
    return {source for parent in graph[number].inputs for source in _sources(graph, parent)}


def _moves(node: Node) -> bool:
    return isinstance(node.operation, Affine) and not node.operation.mixes


def _bends(node: Node) -> bool:
    return isinstance(node.operation, Bend)


def refinable(graph: Graph) -> int:
    """Values of a network that "crown" may bound by backward passes of their own, for each image and radius."""
    fed = {source for node in graph if _bends(node) for source in _sources(graph, node.inputs[0])}
    chosen = [graph[number] for number in fed - _affine(graph)]
    return sum(math.prod(node.shape) for node in chosen if isinstance(node.operation, Affine))


def _largest(graph: Graph) -> int:
    return max(math.prod(node.shape) for node in graph)


def _parts(graph: Graph, count: int) -> Iterator[slice]:
    """Runs of so many rows as fit into one pass."""
    step = max(1, _NUMBERS // _largest(graph))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _total(terms: Tensor) -> Tensor:
    return terms.flatten(1).sum(1)
