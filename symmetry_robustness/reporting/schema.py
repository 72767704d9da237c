"""What must stand in the files of a run before any number is taken from them."""

import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, FiniteFloat, ValidationError

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=2**62)]
Positive = Annotated[FiniteFloat, Field(ge=0)]


class RunSummary(BaseModel):
    """summary.json of a run that is done."""

    name: str
    seed: Count
    parameters: Count
    clean_accuracy: Share
    robustness_images: Count
    group: str | None = None
    data: str | None = None
    test_accuracy: dict[str, Share] = {}
    clever: FiniteFloat | None = None
    epochs: Count | None = None
    flops: Count | None = None
    training_seconds: Positive | None = None
    images_per_second: Positive | None = None


class Provenance(BaseModel):
    """provenance.json of a run."""

    commit: str | None = None
    changed_since_commit: bool = False


Model = TypeVar("Model", bound=BaseModel)


def read_checked(path: Path, model: type[Model]) -> dict[str, Any]:
    """The content of a JSON file, if it is what the model says; what is not a number is null in it.

    Raises:
        ValueError: it is something else; the message names the first place.
    """
    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    try:
        model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path.name}{place and f', {place}'}: {first['msg']}") from None
    mapping: dict[str, Any] = content
    return mapping
