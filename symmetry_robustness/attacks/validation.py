"""Inputs that a user gives, checked or converted once, and the one place where a network is called."""

from collections.abc import Mapping, Sequence
from typing import Final
from weakref import WeakSet

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from symmetry_robustness.errors import UserError, one_line
from symmetry_robustness.precision import float32

# Words of torch's messages about images that do not fit a network's layers.
_MISFIT: Final = ("shape", "size", "channel", "dimension")
# Networks that have refused images in another memory order than (B, C, H, W), because they view them as rows.
_ORDERED: Final[WeakSet[nn.Module]] = WeakSet()


def check_images(images: Tensor, bounds: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Return images as a float32 tensor (B, C, H, W); numpy arrays and lists are converted.

    Raises:
        UserError: where images are not float32 (B, C, H, W) within the bounds.
    """
    images = _as_tensor(images, "images")
    if images.dtype != torch.float32:
        raise UserError(f"images must be float32, got {images.dtype}; convert them, uint8 by images.float() / 255")
    if images.dim() != 4:
        raise UserError(f"images must have the shape (B, C, H, W), got {tuple(images.shape)}; add the missing axes")
    if images.numel() == 0 or images.is_meta:
        return images
    low, high = (float(value) for value in torch.aminmax(images))
    if low != low:
        raise UserError("images contain NaN; check the data")
    if not (bounds[0] <= low and high <= bounds[1]):
        raise UserError(
            f"images must lie in [{bounds[0]:g}, {bounds[1]:g}], got [{low:.4g}, {high:.4g}]; "
            "leave normalisation to the network's first layer"
        )
    return images


def check_labels(labels: Tensor, images: Tensor) -> Tensor:
    """Return labels as an int64 tensor (B,); numpy arrays, lists and other integer types are converted.

    Raises:
        UserError: where labels are not one class number per image.
    """
    labels = _as_tensor(labels, "labels")
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if not whole or labels.shape != images.shape[:1]:
        raise UserError(
            f"labels must be int64 of shape ({len(images)},), got {labels.dtype} of shape {tuple(labels.shape)}; "
            "give one class per image"
        )
    return labels.to(torch.int64)


def _as_tensor(values: object, name: str) -> Tensor:
    if isinstance(values, Tensor):
        if values.layout is not torch.strided or values.is_nested:
            raise UserError(f"{name} must be a dense tensor, got a sparse or nested one; stack its rows, or to_dense()")
        return values.clone() if values.is_inference() and not torch.is_inference_mode_enabled() else values
    try:
        array = np.asarray(values)
        own = not isinstance(values, np.ndarray) and array.dtype == np.float64  # Python's numbers
        dtype = np.dtype(np.float32) if own else array.dtype.newbyteorder("=")
        return torch.from_numpy(np.require(array, dtype, ["C", "W"]))  # torch takes no reversed or read-only arrays
    except (TypeError, ValueError) as error:
        kind = type(values).__name__
        raise UserError(f"{name} must be a tensor, got {kind}; convert them by torch.tensor") from error


def check_indices(indices: Tensor | Sequence[int] | npt.NDArray[np.int64] | None, count: int) -> npt.NDArray[np.int64]:
    """Numbers of the images, (N,); without any 0, 1, 2, ...

    Raises:
        UserError: where they are not as many different numbers as there are images.
    """
    if indices is None:
        return np.arange(count)
    given = _as_tensor(indices, "indices").numpy(force=True)
    numbers = given.astype(np.int64) if given.dtype.kind in "iu" else np.full(1, -1)
    if numbers.shape != (count,) or len(np.unique(numbers)) != count or (count and numbers.min() < 0):
        raise UserError(
            f"indices must be {count} different numbers of images, got {given.dtype} of shape {given.shape}; "
            "give a whole number for each image, none of them twice"
        )
    return numbers


def check_network(network: nn.Module) -> None:
    """Refuse what is no network.

    Raises:
        UserError: names what came, and how it becomes one.
    """
    if isinstance(network, type):
        raise UserError(f"network must be a torch.nn.Module, got the class {network.__name__}; make an object of it")
    if not isinstance(network, nn.Module):
        kind, remedy = type(network).__name__, "wrap it in a module whose forward calls it"
        raise UserError(f"network must be a torch.nn.Module, got {kind}; {remedy}")
    if getattr(network.forward, "__func__", None) is nn.Module.forward:
        raise UserError(f"network must compute logits, but {type(network).__name__} has no forward; give it one")
    if any(is_lazy(tensor) for tensor in (*network.parameters(), *network.buffers())):
        raise UserError("network has lazy layers without weights; call it on images once, as its constructor may")


def check_logits(logits: Tensor) -> None:
    """Refuse logits an attack cannot work with.

    Raises:
        UserError: where some are not finite.
    """
    broken = int((~torch.isfinite(logits)).any(1).sum())
    if broken:
        raise UserError(
            f"network gives non-finite logits for {broken} of {len(logits)} images; check its weights and its training"
        )


def check_classes(labels: Tensor, classes: int) -> None:
    """Refuse labels (B,) without a logit, of which a GPU would tell by aborting.

    Raises:
        UserError: names the range.
    """
    if len(labels):
        low, high = (int(value) for value in torch.aminmax(labels))
        if low < 0 or high >= classes:
            raise UserError(
                f"labels must lie in 0 ... {classes - 1}, got {low} ... {high}; use the data the network is for"
            )


def training_layers(network: nn.Module) -> list[str]:
    """Names of the layers whose training mode changes their output: batch norm, instance norm, dropout."""
    check_network(network)
    kinds = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)
    return [name or type(m).__name__ for name, m in network.named_modules() if isinstance(m, kinds) and m.training]


def check_evaluation_mode(network: nn.Module) -> None:
    """Refuse a network that would compute something else than at test time.

    Raises:
        UserError: where a normalisation or dropout layer is in training mode.
    """
    names = training_layers(network)
    if names:
        raise UserError(f"network is in training mode ({len(names)} layers, first {names[0]}); call network.eval()")


def check_gradients_exist(caller: str) -> None:
    """Refuse to work inside inference mode.

    Raises:
        UserError: inside `torch.inference_mode`.
    """
    if torch.is_inference_mode_enabled():
        raise UserError(f"{caller} called inside torch.inference_mode, where no gradients exist; call it outside")


def check_count(name: str, count: int, least: int = 1) -> None:
    """Refuse a setting that counts and is no whole number of at least `least`.

    Raises:
        UserError: names the setting.
    """
    if not (isinstance(count, int | float | np.integer) and count >= least and count % 1 == 0):
        raise UserError(f"{name} must be a whole number of at least {least}, got {count!r}; set it to {least} or more")


def check_norm(attack: str, norm: str, known: Sequence[str]) -> None:
    """Refuse a norm that an attack does not know.

    Raises:
        UserError: names those it knows.
    """
    if norm not in known:
        norms = " or ".join(known)
        raise UserError(f"attack {attack} does not work in norm {norm}; choose norm {norms}, or another attack")


def device_of(network: nn.Module, images: Tensor) -> torch.device:
    """The device of a network; that of the images for a network without tensors."""
    check_network(network)
    return next((tensor.device for tensor in (*network.parameters(), *network.buffers())), images.device)


def forward(network: nn.Module, images: Tensor) -> Tensor:
    """Logits (B, K) of images (B, C, H, W) in float32, for a network of any kind that has such logits.

    The network gets a copy, so that layers which work in place change nothing; a float64 network gets float64. One that
    refuses images laid out channels last, as `x.view(len(x), -1)` does, gets contiguous ones from then on.

    Raises:
        UserError: where the network returns no logits (B, K), takes images of another shape, or has weights in half
            precision.
    """
    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
    if dtype.itemsize < 4:
        raise UserError(
            f"network has {_name(dtype)} weights, whose rounding hides small perturbations; evaluate network.float()"
        )
    try:
        logits = _call(network, images, dtype)
    except Exception as error:
        if images.shape[3] in (1, 3) and images.shape[1] not in (1, 3):
            raise UserError(
                f"images of shape {tuple(images.shape)} have their channels last; give images.permute(0, 3, 1, 2)"
            ) from error
        if _is_misfit(error):
            reason = one_line(error)[:200]
            raise UserError(
                f"network takes no images of shape {tuple(images.shape)} ({reason}); give images as in its training"
            ) from error
        raise
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(images) or logits.shape[1] < 2:
        mode = " in training mode" if getattr(network, "training", False) else ""
        raise UserError(_wrong_output(logits, len(images), mode))
    if not logits.is_floating_point():
        raise UserError(f"network returns {_name(logits.dtype)}, not logits; return the values before argmax")
    return logits.float()


def _call(network: nn.Module, images: Tensor, dtype: torch.dtype) -> object:
    """The network's output for a copy of the images, a contiguous one where it has refused others."""
    if network not in _ORDERED:
        try:
            return network(images.to(dtype, copy=True))
        except Exception as error:
            if images.is_contiguous() or isinstance(error, torch.OutOfMemoryError):
                raise
    output = network(images.to(dtype, copy=True, memory_format=torch.contiguous_format))
    _ORDERED.add(network)
    return output


def lay_out(network: nn.Module, images: Tensor) -> nn.Module:
    """Lay out weights channels last, where convolutions are faster, unless the network then refuses the images.

    Args:
        network: in evaluation mode; changed in place.
        images: (B, C, H, W), a few, on its device.

    Returns:
        The network.
    """
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
            predict(network, images)
    except Exception:  # whatever it objects to; if not to the layout, it does so again where it is called
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return network


def _is_misfit(error: Exception) -> bool:
    """Whether torch complains that images do not fit a layer."""
    torchs_own = isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError)
    return torchs_own and any(word in str(error) for word in _MISFIT)


def predict(network: nn.Module, images: Tensor) -> Tensor:
    """Logits (B, K) in float32 without gradients."""
    with torch.no_grad(), float32(images.device):
        return forward(network, images).detach()


def are_probabilities(outputs: Tensor) -> bool:
    """Whether outputs (B, K) lie in [0, 1] and sum to 1 for each image, as those after a softmax do."""
    inside = len(outputs) > 0 and bool(((outputs >= -1e-5) & (outputs <= 1 + 1e-5)).all())
    return inside and bool(((outputs.sum(1) - 1).abs() <= 1e-5 * outputs.shape[1]).all())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _wrong_output(output: object, count: int, mode: str) -> str:
    """One line on an output that is no matrix of logits: its kind, and the wrapper that makes logits of it."""
    if isinstance(output, Tensor):
        shape = tuple(output.shape)
        found = f"a tensor of shape {shape}"
        if shape in ((count,), (count, 1)):
            remedy = "one value per image is no classification; return torch.stack([-z, z], 1) of the value z"
        elif len(shape) > 2 and shape[0] == count and sum(size > 1 for size in shape[1:]) == 1:
            remedy = "return output.flatten(1)"
        else:
            remedy = "return one row of logits per image"
    elif isinstance(output, Mapping):
        found = f"a {type(output).__name__} with {', '.join(map(repr, output)) or 'no keys'}"
        key = next((key for key, value in output.items() if isinstance(value, Tensor) and value.dim() == 2), "logits")
        remedy = f"wrap it in a module whose forward returns network(images)[{key!r}]"
    elif isinstance(output, tuple | list):
        found = f"a {type(output).__name__} of {len(output)}"
        remedy = "wrap it in a module whose forward returns network(images)[0]"
    else:
        found = f"{type(output).__name__}"
        remedy = "wrap it in a module whose forward returns its logits, such as network(images).logits"
    return f"network must return logits ({count}, K) for {count} images, got {found}{mode}; {remedy}"
