"""Networks that were trained elsewhere: their weights, fitted key by key, and the normalisation before them."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

from torch import Tensor, nn

from symmetry_robustness.errors import UserError, one_line
from symmetry_robustness.layers.normalize import Normalize
from symmetry_robustness.models.state_dict_file import read_state_dict, some

Network = TypeVar("Network", bound=nn.Module)

# Words that DataParallel and torch.compile put anywhere into keys, and what else stands before all keys of a network in
# Lightning's modules and the like, in any order.
_INNER: Final = ("module", "_orig_mod")
_OUTER: Final = ("state_dict", "model", "net", "network")
_COUNTERS: Final = ("n_averaged",)  # of AveragedModel, beside the keys of its network


def wrap(
    network: nn.Module,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    channels: int = 3,
) -> nn.Module:
    """A network as evaluations take it: images in [0, 1], evaluation mode, no gradients of parameters.

    Args:
        network: changed in place.
        mean: of the normalisation that becomes the first layer; one value or one per channel. With neither mean nor std
            the network gets images in [0, 1] as they are.
        std: likewise.
        channels: of the images.

    Raises:
        UserError: no network; one of mean and std without the other, or neither one number nor one per channel.

    Examples:
        >>> network = wrap(nn.Sequential(nn.Flatten(), nn.Linear(12, 10)), mean=0.5, std=0.5)
        >>> network(torch.rand(2, 3, 2, 2)).shape, network.training
        (torch.Size([2, 10]), False)
    """
    if not isinstance(network, nn.Module):
        raise UserError(f"network must be a torch.nn.Module, got {type(network).__name__}; give an object of its class")
    network.eval().requires_grad_(False)
    if mean is None and std is None:
        return network
    if mean is None or std is None:
        given, absent = ("mean", "std") if std is None else ("std", "mean")
        raise UserError(f"{given}={mean if std is None else std} comes without {absent}; give both, or neither")
    return nn.Sequential(Normalize(mean, std, channels), network).eval()


def load_weights(network: Network, path: Path | str, prefix: str = "") -> Network:
    """Load weights that were trained elsewhere; no code of the file runs, and every key must fit.

    Wrappers are undone in any nesting: dictionaries such as `{"state_dict": …}`, and the prefixes of DataParallel
    (`module.`), torch.compile (`_orig_mod.`), Lightning and others (`network.`, `model.`, `net.`).

    Args:
        network: of the class that the weights are of; changed in place.
        path: `.safetensors`, or what torch.save wrote (`.pt`, `.pth`).
        prefix: of the network's keys, where it is another one, or where the file holds more than the network.

    Returns:
        The network.

    Raises:
        UserError: no such file, no state dict in it, or keys or shapes that do not fit.

    Examples:
        >>> from tempfile import mkdtemp
        >>> from symmetry_robustness.attacks import PGD
        >>> from symmetry_robustness.robustness import EvaluationProtocol, evaluate_robustness
        >>> network, path = nn.Sequential(nn.Flatten(), nn.Linear(12, 10)), mkdtemp() + "/model.pt"
        >>> torch.save({"state_dict": nn.DataParallel(network).state_dict()}, path)
        >>> images, labels = torch.rand(8, 3, 2, 2), torch.arange(8)

        Weights in a file, and a class, are evaluated in three lines:

        >>> network = wrap(load_weights(network, path), mean=0.5, std=0.25)
        >>> protocol = EvaluationProtocol(attacks={"pgd": PGD(steps=10)}, epsilons=["8/255"])
        >>> len(evaluate_robustness(network, images, labels, protocol))
        8
    """
    path = Path(path)
    tensors = fit_weights(network, read_state_dict(path), str(path), prefix)
    try:
        network.load_state_dict(tensors)
    except (RuntimeError, ValueError, TypeError) as error:  # of a network that loads in a way of its own
        name = type(network).__name__
        raise UserError(
            f"weights {path} cannot be loaded by {name}: {one_line(error)[:300]}; choose its file"
        ) from error
    return network


def fit_weights(network: nn.Module, found: Mapping[str, Tensor], source: str, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a state dict by the keys of a network.

    Args:
        network: all its keys and shapes must be met.
        found: of a file.
        source: of the weights, for messages.
        prefix: below which the network's keys stand; what stands elsewhere is then left out.

    Raises:
        UserError: keys are missing or unexpected, shapes differ, or numbers are complex where the network's are real.
    """
    own = network.state_dict()
    given = {key: key for key in found if key not in _COUNTERS}
    if prefix:
        given = below(given, _with_dot(prefix))
        if not given:
            raise UserError(f"weights {source} hold no key below {_with_dot(prefix)}; they hold {some(found)}")
    if given.keys() != own.keys():
        given, expected = bare(given), bare({key: key for key in own})
        if not _fits(given, expected):
            raise UserError(f"weights {source} do not fit {type(network).__name__}: {_misfit(given, expected)}")
        given = {expected[key]: name for key, name in given.items()}
    tensors = {key: found[name] for key, name in given.items()}
    tensors |= {key: value for key, value in own.items() if key not in tensors}  # counters that old files lack
    other = [
        f"{key} is {tuple(tensors[key].shape)} in the file and {tuple(value.shape)} in the network"
        for key, value in own.items()
        if isinstance(value, Tensor) and tensors[key].shape != value.shape
    ]
    if other:
        raise UserError(
            f"weights {source}: {len(other)} of {len(own)} shapes do not fit {type(network).__name__} ({some(other)}); "
            "build it with the settings that it was trained with, such as classes and widths"
        )
    unreal = [k for k, v in own.items() if isinstance(v, Tensor) and tensors[k].is_complex() and not v.is_complex()]
    if unreal:
        raise UserError(f"weights {source} are complex ({some(unreal)}), the network's are not; save real ones")
    return tensors


def bare(names: Mapping[str, str]) -> dict[str, str]:
    """Keys without what wrappers put into or before them.

    Examples:
        >>> bare({"model.module.a.weight": "1", "model.b._orig_mod.weight": "2"})
        {'a.weight': '1', 'b.weight': '2'}
    """
    bared = {".".join(w for w in key.split(".") if w not in _INNER) or key: name for key, name in names.items()}
    if len(bared) < len(names):
        return dict(names)
    first = {key.partition(".")[0] for key in bared}
    while len(first) == 1 and first <= {*_OUTER} and all("." in key for key in bared):
        bared = {key.partition(".")[2]: name for key, name in bared.items()}
        first = {key.partition(".")[0] for key in bared}
    return bared


def below(names: Mapping[str, str], start: str) -> dict[str, str]:
    """Keys that begin with a prefix, without it."""
    return {key.removeprefix(start): name for key, name in names.items() if key.startswith(start)}


def _with_dot(prefix: str) -> str:
    return prefix.rstrip(".") + "."


def _fits(given: Mapping[str, str], expected: Mapping[str, str]) -> bool:
    return not given.keys() - expected.keys() and all(_is_counter(key) for key in expected.keys() - given.keys())


def _is_counter(key: str) -> bool:
    return key.rpartition(".")[2] == "num_batches_tracked"


def _misfit(given: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """How keys do not fit, and the prefix below which more of them would."""
    missing = [key for key in expected if key not in given and not _is_counter(key)]
    unexpected = [key for key in given if key not in expected]
    parts = [f"{len(missing)} of {len(expected)} keys are missing ({some(missing)})"] if missing else []
    parts += [f"{len(unexpected)} are unexpected ({some(unexpected)})"] if unexpected else []
    fitting = len(given.keys() & expected.keys())
    nearest, most = _nearest_prefix(given.values(), expected)
    if most > fitting:
        beside = [name for name in given.values() if not name.startswith(f"{nearest}.")]
        more = f", and the file holds {some(beside)} beside them" if beside else ""
        remedy = f"below {nearest}. {most} fit{more}; set weights_prefix={nearest}"
    else:
        remedy = f"{fitting or 'none'} fit; give the class and the settings that the weights were saved from"
    return f"{', '.join(parts)}; {remedy}"


def _nearest_prefix(names: Collection[str], expected: Mapping[str, str]) -> tuple[str, int]:
    """The prefix of a file's keys below which most keys of the network stand, and how many."""
    words = [name.split(".") for name in names]
    prefixes = sorted({".".join(parts[:count]) for parts in words for count in range(1, len(parts))})
    fits = {p: len(bare(below(dict.fromkeys(names, ""), f"{p}.")).keys() & expected.keys()) for p in prefixes}
    nearest = max(prefixes, key=lambda p: fits[p], default="")
    return nearest, fits.get(nearest, 0)
