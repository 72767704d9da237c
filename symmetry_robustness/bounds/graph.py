"""A network as a list of operations whose bounds are known, traced from what it computes on a few images."""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from symmetry_robustness.attacks.validation import check_evaluation_mode
from symmetry_robustness.bounds.operations import (
    Affine,
    Maximum,
    Operation,
    Relu,
    combination,
    convolution,
    moving,
    product,
    scaling,
)
from symmetry_robustness.errors import UserError, one_line

# Images that are traced; an odd number, so that no operation takes their axis for another one.
_TRACED: Final = 3

Shape = tuple[int, ...]


class Node(NamedTuple):
    """One operation: numbers of the nodes that it is applied to, and the shape of its result for one image.

    The first node is the image itself, without an operation.
    """

    inputs: tuple[int, ...]
    operation: Operation | None
    shape: Shape


Graph = Sequence[Node]


class Variable(NamedTuple):
    """The result of a node, as opposed to a constant."""

    number: int
    shape: Shape


def trace(network: nn.Module, images: Tensor) -> list[Node]:
    """The operations of a network, in an order in which they can be applied; the last gives the logits.

    Operations are those that torch executes, so that it does not matter how the network is written. Weights become
    float64.

    Args:
        network: images (B, C, H, W) to logits, in evaluation mode.
        images: some of the images, for their shape and device.

    Raises:
        UserError: for a network in training mode, or with an operation whose bounds are not known.
    """
    check_evaluation_mode(network)
    sample = torch.full((_TRACED, *images.shape[1:]), 0.5, dtype=torch.float32, device=images.device)
    try:
        with torch.no_grad():
            traced = make_fx(torch.func.functionalize(network))(sample)
    except Exception as error:
        raise UserError(
            f"network cannot be traced for bounds ({one_line(error)}); leave certified bounds out of the protocol"
        ) from error
    nodes = _Builder(traced, tuple(images.shape[1:])).build()
    if not nodes:
        raise UserError(_why_constant(network, sample))
    return nodes


def _why_constant(network: nn.Module, sample: Tensor) -> str:
    """Says why nothing leads from the image to the logits in a trace: they ignore it, or torch does not see how."""
    other = torch.rand(sample.shape, generator=torch.Generator().manual_seed(0)).to(sample.device)
    with torch.no_grad():
        same = torch.equal(network(sample), network(other))
    if same:
        return "network gives logits that do not depend on the image; check its forward"
    return (
        "network leaves torch between image and logits, as by numpy, and cannot be traced for bounds; leave certified "
        "bounds out of the protocol"
    )


def values_at(graph: Graph, images: Tensor) -> Tensor:
    """Logits (B, K) of images (B, C, H, W) in float64."""
    found: list[Tensor] = [images.double()]
    for node in graph[1:]:
        given = [found[number] for number in node.inputs]
        if isinstance(node.operation, Affine):
            found.append(node.operation.apply(*given))
        else:
            found.append(given[0].amax(1) if isinstance(node.operation, Maximum) else given[0].clamp_min(0))
    return found[-1]


class _Builder:
    """Turns a traced network into nodes; `values` holds constants and variables by their node in the trace."""

    def __init__(self, traced: fx.GraphModule, shape: Shape) -> None:
        self.traced = traced
        self.nodes = [Node((), None, shape)]
        self.values: dict[fx.Node, Any] = {}

    def build(self) -> list[Node]:
        """The nodes; none where the logits are a constant."""
        for node in self.traced.graph.nodes:
            if node.op == "output":
                (result,) = node.all_input_nodes
                if not isinstance(self.values[result], Variable):
                    return []
                last = self.values[result].number  # may lie before what is not used
                return self.nodes[: last + 1]
            self.values[node] = self._value(node)
        raise AssertionError("a traced network has an output")

    def add(self, operation: Operation, *inputs: Variable, shape: Shape) -> Variable:
        self.nodes.append(Node(tuple(part.number for part in inputs), operation, shape))
        return Variable(len(self.nodes) - 1, shape)

    def move(self, apply: Callable[..., Tensor], *inputs: Variable, mixes: bool = False) -> Variable:
        """A map without constant and without negative coefficients; its shape is found by applying it."""
        shapes = [part.shape for part in inputs]
        (rows, *shape) = apply(*(torch.zeros((_TRACED, *one), dtype=torch.float64) for one in shapes)).shape
        if rows != _TRACED:
            raise _refusal("an operation across images")
        return self.add(moving(apply, *shapes, mixes=mixes), *inputs, shape=tuple(shape))

    def _value(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return Variable(0, self.nodes[0].shape)
        if node.op == "get_attr":
            return _exact(operator.attrgetter(str(node.target))(self.traced))
        args: Any = fx.node.map_arg(node.args, self.values.__getitem__)
        kwargs: Any = fx.node.map_arg(node.kwargs, self.values.__getitem__)
        target: Any = node.target
        if target is operator.getitem:
            part = args[0][args[1]]
            if part is None and node.users:
                raise _refusal(f"{_name(node.all_input_nodes[0].target)} (its other results than the first)")
            return part
        depends = any(_varies(self.values[part]) for part in node.all_input_nodes)
        name = _name(target)
        if not depends:
            if torch.Tag.nondeterministic_seeded in target.tags:
                raise _refusal(name)
            return torch.utils._pytree.tree_map(_exact, target(*args, **kwargs))
        rule = _RULES.get(name)
        result = None if rule is None else rule(self, target, *args, **kwargs)
        if result is None:
            raise _refusal(name)
        return result


def _exact(value: Any) -> Any:
    return value.detach().double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _name(target: Any) -> str:
    return str(target.name()).removeprefix("aten::").partition(".")[0]


def _varies(value: object) -> bool:
    return isinstance(value, Variable) or (isinstance(value, list | tuple) and any(map(_varies, value)))


def _refusal(name: str) -> UserError:
    return UserError(
        f"network has the operation {name!r}, for which no bounds are known; leave certified bounds out of the protocol"
    )


# Each rule is given the builder, torch's operation and its arguments, and returns variables, or None to refuse.
def _reshape(builder: _Builder, target: Any, x: Variable, sizes: Sequence[int]) -> Variable | None:
    images, *shape = torch.empty((_TRACED, *x.shape), device="meta").reshape(tuple(sizes)).shape  # without -1
    return builder.move(lambda rows: rows.reshape(len(rows), *shape), x) if images == _TRACED else None


def _same(builder: _Builder, target: Any, x: Variable, *args: Any, dtype: Any = None, **kwargs: Any) -> Variable | None:
    return x if dtype in (None, torch.float32, torch.float64) else None


def _restrided(
    builder: _Builder, target: Any, x: Variable, sizes: Sequence[int], strides: Sequence[int], *offset: int
) -> Variable | None:
    """A mean of channels-last maps, which torch ends with other strides for the same numbers."""
    long = [stride for size, stride in zip(x.shape, strides[1:], strict=True) if size > 1]
    same = [*sizes] == [_TRACED, *x.shape] and strides[0] == math.prod(x.shape) and not any(offset)
    return x if same and long in ([], [1]) else None


def _placed(builder: _Builder, target: Any, x: Variable, *args: Any, **kwargs: Any) -> Variable | None:
    """Numbers in other places; `move` refuses what changes the number of images, this what permutes them."""
    mark = torch.arange(_TRACED, dtype=torch.float64).view(-1, *[1] * len(x.shape)).expand(_TRACED, *x.shape)
    moved = target(mark, *args, **kwargs)
    if len(moved) != _TRACED or not all(bool((moved[row] == row).all()) for row in range(_TRACED)):
        return None
    return builder.move(lambda rows: target(rows, *args, **kwargs), x)


def _pieces(builder: _Builder, target: Any, x: Variable, *args: Any, **kwargs: Any) -> list[Variable] | None:
    count = len(target(torch.zeros((_TRACED, *x.shape), dtype=torch.float64), *args, **kwargs))

    def piece(place: int) -> Callable[[Tensor], Tensor]:
        return lambda rows: target(rows, *args, **kwargs)[place]

    return [builder.move(piece(place), x) for place in range(count)]


def _averaged(builder: _Builder, target: Any, x: Variable, *args: Any, **kwargs: Any) -> Variable:
    return builder.move(lambda rows: target(rows, *args, **kwargs), x, mixes=True)


def _reduced(builder: _Builder, target: Any, x: Variable, dims: Any = None, *args: Any, **kwargs: Any) -> Any:
    if not dims or 0 in _positive(dims, x):
        return None
    return _averaged(builder, target, x, dims, *args, **kwargs)


def _joined(builder: _Builder, target: Any, parts: Sequence[Any], dim: int = 0) -> Variable | None:
    if not all(isinstance(part, Variable) for part in parts) or dim % (len(parts[0].shape) + 1) == 0:
        return None
    return builder.move(lambda *rows: target(list(rows), dim), *parts)


def _padded(builder: _Builder, target: Any, x: Variable, sizes: Sequence[int], value: float = 0.0) -> Variable | None:
    return builder.move(lambda rows: target(rows, sizes, 0.0), x) if value == 0 else None


def _repeated(builder: _Builder, target: Any, x: Variable, sizes: Sequence[int], **kwargs: Any) -> Variable | None:
    if target.name().startswith("aten::repeat"):
        return builder.move(lambda rows: rows.repeat(*sizes), x) if sizes[0] == 1 else None
    return builder.move(lambda rows: rows.expand(len(rows), *sizes[1:]).contiguous(), x)


def _conv(builder: _Builder, target: Any, x: Any, weight: Any, bias: Any, *settings: Any) -> Variable | None:
    stride, padding, dilation, transposed, _, groups = settings
    if not isinstance(x, Variable) or not isinstance(weight, Tensor) or weight.dim() != 4 or transposed:
        return None
    operation = convolution(weight, bias, x.shape, stride, padding, dilation, groups)
    shape = operation.apply(weight.new_zeros((1, *x.shape))).shape[1:]
    return builder.add(operation, x, shape=tuple(shape))


def _addmm(builder: _Builder, target: Any, bias: Any, x: Any, weight: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    if (beta, alpha) != (1, 1) or not isinstance(bias, Tensor):
        return None
    return _mm(builder, target, x, weight, bias)


def _mm(builder: _Builder, target: Any, x: Any, weight: Any, bias: Tensor | None = None) -> Variable | None:
    if not isinstance(x, Variable) or not isinstance(weight, Tensor):
        return None
    return builder.add(product(weight, bias), x, shape=(*x.shape[:-1], weight.shape[1]))


def _batch_norm(builder: _Builder, target: Any, x: Variable, weight: Any, bias: Any, *rest: Any) -> Any:
    mean, variance, *more = rest
    no_training = "no_training" in target.name()
    if not (no_training or more[0] is False) or mean is None:
        return None
    scale = (variance + more[-1]).rsqrt() * (1.0 if weight is None else weight)
    shift = (0.0 if bias is None else bias) - mean * scale
    view = (-1, *[1] * (len(x.shape) - 1))
    result = builder.add(scaling(scale.view(view), shift.view(view)), x, shape=x.shape)
    return result, None, None


def _scaled(builder: _Builder, x: Variable, scale: Any, shift: Any = None) -> Variable | None:
    """Multiply by a constant and add one; both must broadcast to x."""
    device = next((part.device for part in (scale, shift) if isinstance(part, Tensor)), None)
    factors = [
        None if one is None else torch.as_tensor(one, dtype=torch.float64, device=device) for one in (scale, shift)
    ]
    for factor in factors:
        if factor is not None and np.broadcast_shapes(factor.shape, (1, *x.shape)) != (1, *x.shape):
            return None
    assert factors[0] is not None
    return builder.add(scaling(factors[0], factors[1]), x, shape=x.shape)


def _added(builder: _Builder, target: Any, x: Any, y: Any, *, alpha: float = 1) -> Variable | None:
    sign = -1.0 if "sub" in target.name() else 1.0
    if target.name().startswith("aten::rsub"):
        x, y = y, x
    if not isinstance(y, Variable):
        return _scaled(builder, x, 1.0, sign * alpha * y)
    if not isinstance(x, Variable):
        return _scaled(builder, y, sign * alpha, x) if alpha == 1 else None
    if x.shape != y.shape or alpha != 1:
        return None
    return builder.add(combination((1.0, sign)), x, y, shape=x.shape)


def _multiplied(builder: _Builder, target: Any, x: Any, y: Any) -> Variable | None:
    if isinstance(x, Variable) and isinstance(y, Variable):
        return None
    return _scaled(builder, *((x, y) if isinstance(x, Variable) else (y, x)))


def _divided(builder: _Builder, target: Any, x: Any, y: Any, **kwargs: Any) -> Variable | None:
    if kwargs or not isinstance(x, Variable) or isinstance(y, Variable):
        return None
    return _scaled(builder, x, 1 / y)


def _negated(builder: _Builder, target: Any, x: Variable) -> Variable | None:
    return _scaled(builder, x, -1.0)


def _fused(builder: _Builder, target: Any, shift: Any, x: Any, y: Any, *, value: float = 1) -> Variable | None:
    if isinstance(shift, Variable):
        return None
    scaled = _multiplied(builder, target, x, y)
    scaled = _scaled(builder, scaled, value) if scaled is not None and value != 1 else scaled
    return None if scaled is None else _scaled(builder, scaled, 1.0, shift)


def _relu(builder: _Builder, target: Any, x: Variable) -> Variable:
    return builder.add(Relu(), x, shape=x.shape)


def _largest(builder: _Builder, target: Any, x: Variable, dims: Any = None, keepdim: bool = False) -> Any:
    """Maximum over some axes, or over one axis with the places, which nothing may use."""
    if isinstance(dims, Variable):
        return None
    places = sorted(_positive([dims] if isinstance(dims, int) else dims or (), x))
    if not places or 0 in places:
        return None
    others = [axis for axis in range(1, len(x.shape) + 1) if axis not in places]
    left = [x.shape[axis - 1] for axis in others]

    def candidates(rows: Tensor) -> Tensor:
        return rows.permute(0, *places, *others).reshape(len(rows), -1, *left)

    result = _over_candidates(builder, builder.move(candidates, x))
    if keepdim:
        sizes = [1 if axis in places else x.shape[axis - 1] for axis in range(1, len(x.shape) + 1)]
        result = builder.move(lambda rows: rows.reshape(len(rows), *sizes), result)
    return (result, None) if isinstance(dims, int) else result


def _max_pool(
    builder: _Builder,
    target: Any,
    x: Variable,
    size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> Any:
    """Maximum over windows. Padding repeats the border, which every padded window holds anyway."""
    if ceil_mode or any(one != 1 for one in dilation):
        return None
    (high, wide), (down, across) = _pair(size), _pair(stride or size)
    (top, left) = _pair(padding)

    def candidates(rows: Tensor) -> Tensor:
        padded = functional.pad(rows, (left, left, top, top), mode="replicate") if top or left else rows
        height, width = padded.shape[-2] - high, padded.shape[-1] - wide
        return torch.stack(
            [
                padded[..., row : row + height + 1 : down, column : column + width + 1 : across]
                for row in range(high)
                for column in range(wide)
            ],
            dim=1,
        )

    return _over_candidates(builder, builder.move(candidates, x)), None


def _over_candidates(builder: _Builder, candidates: Variable) -> Variable:
    return builder.add(Maximum(), candidates, shape=candidates.shape[1:])


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    sizes = (value,) if isinstance(value, int) else tuple(value)
    return (sizes[0], sizes[-1])


def _positive(dims: Sequence[int], x: Variable) -> list[int]:
    return [dim % (len(x.shape) + 1) for dim in dims]


_GROUPS: Final[Sequence[tuple[str, Callable[..., Any]]]] = (
    ("view _unsafe_view reshape view_copy", _reshape),
    ("clone alias detach contiguous lift_fresh _to_copy", _same),
    ("as_strided_", _restrided),
    ("permute transpose slice unsqueeze squeeze select flip roll pixel_shuffle pixel_unshuffle narrow", _placed),
    ("split split_with_sizes unbind chunk", _pieces),
    ("avg_pool2d _adaptive_avg_pool2d upsample_bilinear2d upsample_nearest2d", _averaged),
    ("mean sum", _reduced),
    ("cat stack", _joined),
    ("constant_pad_nd", _padded),
    ("expand repeat", _repeated),
    ("convolution", _conv),
    ("addmm", _addmm),
    ("mm", _mm),
    ("native_batch_norm _native_batch_norm_legit_no_training cudnn_batch_norm", _batch_norm),
    ("add sub rsub", _added),
    ("mul", _multiplied),
    ("div", _divided),
    ("neg", _negated),
    ("addcmul", _fused),
    ("relu", _relu),
    ("amax max", _largest),
    ("max_pool2d_with_indices", _max_pool),
)
_RULES: Final = {name: rule for names, rule in _GROUPS for name in names.split()}
