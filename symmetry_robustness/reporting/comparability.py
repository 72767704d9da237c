"""Settings that a number depends on: when two runs may be averaged, and how they differ if not."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from symmetry_robustness.results.names import NORM_TITLES, SOUND, class_title, protocol_settings, reconstruction

Settings = Mapping[str, Any]

# Settings that decide no weights: names, places, evaluations beside the training.
_BESIDE = (
    "name", "title", "group", "tags", "seed", "output", "resume", "logger", "robustness", "callback", "checkpoint",
    "weights",  # of a network that was trained elsewhere: as a seed, they are one of several
)  # fmt: skip
# Settings of a data set that only place or feed it, and those that only the test images, or only the training, have.
_FEEDING = ("_convert_", "root", "evaluation_batch_size", "num_classes", "seed")
_TEST_ONLY = ("corruptions", "severities", "test_transform", "test_size")
_TRAINING_ONLY = ("batch_size", "train_size", "validation_size", "augmentation")
# A data set's settings that go without saying; others stand beside its name.
_USUAL: Settings = {"copy": "official", "severities": [1, 2, 3, 4, 5], "pose": "any", "drawing_seed": 0}
_KNOWN = ("symmetry_robustness.", "torch.")  # packages whose classes need no module beside their names
_UNSET = "unset"
_LENGTH = 48  # characters of a value that is named in a table


def training_settings(config: Settings) -> dict[str, Any]:
    """All that decides the weights, but for the seed: network, data, objective, optimisation, precision."""
    data = {key: value for key, value in config["data"].items() if key not in (*_FEEDING, *_TEST_ONLY)}
    return {key: value for key, value in config.items() if key not in _BESIDE} | {"data": data}


def evaluation_data(data: Settings, split: str) -> dict[str, Any]:
    """All of a data set's settings that decide which images of a split there are, but for the seed of its choice."""
    held = () if split == "test" else ("train_size", "validation_size")
    return {
        key: value for key, value in data.items() if key not in _FEEDING and (key not in _TRAINING_ONLY or key in held)
    }


def data_title(data: Settings) -> str:
    """A data set's name as in the configuration, and what is unusual about its test images: `shapes (upright)`."""
    name = str(data.get("_target_", "data")).rpartition(".")[2].removesuffix("DataModule").lower()
    unusual = []
    for key, value in data.items():
        if key in ("_target_", *_FEEDING, *_TRAINING_ONLY, "test_size") or value is None or value == _USUAL.get(key):
            continue
        if key == "corruptions" and value == "all":
            continue
        if key == "inexact":
            unusual.append(f"all but {len(value)} images exact")
        elif key != "copy" or data.get("inexact") is None:
            unusual.append({"copy": f"{value} copy", "pose": str(value)}.get(key, f"{key}={plain(value)}"))
    return f"{name} ({', '.join(unusual)})" if unusual else name


def images_per_test_set(data: Settings) -> int | None:
    """How many images each test set of a data module has; None for a data module that is not ours.

    Where there are several test sets (corruptions, views), they show the same images in the same order.
    """
    name = str(data.get("_target_", "")).rpartition(".")[2]
    if name.startswith("CIFAR"):
        return 10_000
    size = data.get("test_size") if name == "ShapesDataModule" else None
    return int(size) if size else None


def has_versions(data: Settings) -> bool:
    """Whether the test images show the same image more than once, corrupted or turned."""
    return bool(data.get("corruptions") or data.get("test_transform"))


def differing(several: Sequence[Settings]) -> list[str]:
    """Dotted names of the settings in which several differ, in order of appearance.

    An object that one of them has and another one lacks, such as an augmentation, is a single difference. So are two
    objects of different classes, whose settings are compared with those of the same class only.

    Examples:
        >>> pgd, n_fgsm = {"_target_": "PGDTraining", "steps": 10}, {"_target_": "NFGSM", "noise": 2}
        >>> differing([{"objective": pgd}, {"objective": n_fgsm}, {"objective": n_fgsm | {"noise": 1}}])
        ['objective._target_', 'objective.noise']
    """
    names = []
    for name in dict.fromkeys(name for one in several for name in one):
        values = [one.get(name, {}) for one in several]
        is_object = any(isinstance(value, Mapping) and "_target_" in value for value in values)
        if all(isinstance(value, Mapping) and (value or not is_object) for value in values):
            kinds: dict[str, list[Settings]] = {}
            for value in values:
                kinds.setdefault(str(value.get("_target_")), []).append(value)
            inner = [name for kind in kinds.values() for name in differing(kind)]
            names += [f"{name}.{one}" for one in dict.fromkeys(["_target_"] * (len(kinds) > 1) + inner)]
        elif any(one.get(name, names) != several[0].get(name, names) for one in several):
            names.append(name)
            alike: dict[str, list[Settings]] = {}  # objects of which the value in words tells no difference
            for value in values if is_object else ():
                if isinstance(value, Mapping) and value:
                    alike.setdefault(plain(value), []).append({name: value})
            names += dict.fromkeys(inner for kind in alike.values() for inner in differing(kind))
    return names


def name_differences(several: Sequence[Settings]) -> list[str]:
    """Of each the settings in which several differ, as in `optimizer.lr=0.01, trainer.max_epochs=3`; empty if in none.

    No more than three are named, and none that is null or missing where others are named, unless two that differ would
    read alike: these name all.

    Examples:
        >>> name_differences([{"lr": 1, "decay": None}, {"lr": 2}, {"lr": 2, "decay": 3}])
        ['lr=1', 'lr=2', 'lr=2, decay=3']
        >>> name_differences([{"lr": 1, "decay": None}, {"lr": 1}, {"lr": 2}])
        ['lr=1, decay=null', 'lr=1, decay=unset', 'lr=2']
    """
    names = differing(several)
    texts = [_name_difference(one, names) for one in several]
    owners: dict[str, list[Settings]] = {}
    for text, one in zip(texts, several, strict=True):
        if one not in owners.setdefault(text, []):
            owners[text].append(one)
    return [
        text if len(owners[text]) == 1 else _name_difference(one, names, whole=True)
        for text, one in zip(texts, several, strict=True)
    ]


def _name_difference(settings: Settings, names: Sequence[str], *, whole: bool = False) -> str:
    words = {
        f"{name.removesuffix('._target_')}={plain(value)}": value for name in names for value in [_at(settings, name)]
    }
    unsaid: tuple[Any, ...]
    for unsaid in ((None, _UNSET), (_UNSET,), ()):
        told = [word for word, value in words.items() if whole or value not in unsaid]
        if told:
            break
    return ", ".join(told if len(told) <= 3 or whole else [*told[:3], f"{len(told) - 3} more"])


def _at(settings: Settings, name: str) -> Any:
    """The setting of a dotted name; `_UNSET` where there is none."""
    here: Any = settings
    for part in name.split("."):
        if not isinstance(here, Mapping) or part not in here:
            return _UNSET
        here = here[part]
    return here


def plain(value: object) -> str:
    """A setting's value for a reader: class names without their modules, null as in YAML, long ones cut.

    Examples:
        >>> plain({"_target_": "torch.optim.Adam", "lr": 0.01, "_partial_": True})
        'Adam(lr=0.01)'
        >>> plain({"_target_": "Augmentations", "crop_flip": {"_target_": "RandomCropFlip", "padding": 4}})
        'crop_flip'
    """
    parts = [key for key, part in value.items() if key != "_target_"] if isinstance(value, Mapping) else []
    if isinstance(value, Mapping) and parts and all(isinstance(value[key], Mapping) for key in parts):
        text = " + ".join(parts)  # named objects
    elif isinstance(value, Mapping):
        inner = ", ".join(
            f"{key}={plain(entry)}" for key, entry in value.items() if key not in ("_target_", "_partial_")
        )
        target = str(value.get("_target_", ""))
        text = f"{class_title(value) if target.startswith(_KNOWN) else target}({inner})"
    elif isinstance(value, list | tuple):
        text = ",".join(map(plain, value))
    elif isinstance(value, str) and value.startswith(_KNOWN):
        text = class_title({"_target_": value})
    else:
        text = "null" if value is None else str(value)
    return text if len(text) <= _LENGTH else f"{text[: _LENGTH - 1]}…"


def readable(label: str) -> str:
    """A network's label for a reader; names without a title lose their underscores.

    Examples:
        >>> readable("standard_4layer (data.batch_size=64)")
        'standard, 4 layers (data.batch_size=64)'
    """
    name, bracket, rest = label.partition(" (")
    return name.replace("_4layer", ", 4 layers").replace("_", " ") + bracket + rest


def told_apart(names: Sequence[str], *details: Sequence[str], within: Sequence[str] = ()) -> list[str]:
    """Names; those that several have get one detail after the other, until they differ.

    Args:
        names: of things.
        details: of each thing, a sequence for each kind of detail.
        within: groups of the things in which names should differ; if empty they all should.

    Examples:
        >>> told_apart(["a", "a", "b"], ["seed 0", "seed 1", "seed 0"], ["last.ckpt"] * 3)
        ['a, seed 0', 'a, seed 1', 'b']
    """
    groups = within or [""] * len(names)
    for detail in details:
        keys = [*zip(groups, names, strict=True)]
        counts = Counter(keys)
        names = [
            f"{name}, {more}" if more and counts[group, name] > 1 else name
            for (group, name), more in zip(keys, detail, strict=True)
        ]
    return list(names)


def shown_data(title: str) -> str:
    """A data set's title as it is written; of a transform of the test images its name alone.

    Examples:
        >>> shown_data("cifar10c (severities=1)"), shown_data("shapes (test_transform=RotatedViews(angles=0,90))")
        ('CIFAR-10-C (severities=1)', 'shapes (RotatedViews)')
    """
    title = re.sub(r"test_transform=(\w+)\([^)…]*[)…]", r"\1", title)
    return re.sub(r"\bcifar(10{1,2})(c?)\b", lambda m: f"CIFAR-{m[1]}{'-C' if m[2] else ''}", title)


def describe_protocol(settings: Settings) -> str:
    """A protocol in a line: attacks, norm, and whatever differs from a sound protocol."""
    protocol = protocol_settings(settings)
    attacks = [describe_attack(name, attack) for name, attack in protocol.get("attacks", {}).items()]
    words = [", ".join(attacks) or "no attacks", NORM_TITLES.get(norm := protocol["norm"], norm)]
    if protocol["cascade"]:
        words.append("each attack on what those before it left")
    if protocol["judge"] == "returned":
        words.append("only the last iterate counts")
    if protocol["mode"] != "evaluation":
        words.append("batch norms use the attacked batch")
    if protocol["bounds"] != SOUND["bounds"]:
        low, high = protocol["bounds"]
        words.append(f"pixels clamped to [{low:g}, {high:g}]")
    return "; ".join(words)


def describe_attack(name: str, settings: Settings = MappingProxyType({})) -> str:
    """An attack by its name, number of steps and restarts, and whether it is a reconstruction.

    Examples:
        >>> describe_attack("pgd", {"steps": 40, "restarts": 2})
        'PGD-40 × 2'
    """
    steps, restarts = settings.get("steps"), settings.get("restarts", 1)
    title = name.replace("_", " ")
    title = title.upper() if title in ("fgsm", "pgd") else title
    return f"{title}{f'-{steps}' if steps else ''}{f' × {restarts}' if restarts > 1 else ''}{reconstruction(settings)}"
