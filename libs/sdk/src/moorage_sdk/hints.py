"""What is wrong with a file that people wrote: each place by its path, an unknown field with the closest valid one."""

import difflib
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from moorage_sdk.errors import InvalidManifest

Place = tuple[int | str, ...]

_UNION_STEPS = frozenset({"int", "float", "str", "bool", "literal['latest']"})
"""What pydantic adds to a place for each alternative of a union."""


class _Loader(yaml.SafeLoader):
    """Booleans are true and false alone, as in YAML 1.2: `on` is the name of a field."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def read_text(path: Path) -> str:
    """Raises InvalidManifest where the file cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidManifest(f"{path} cannot be read: {error}") from error


def read_yaml(text: str, source: str) -> list[Any]:
    """Every document of `text` that is not empty.

    Raises:
        InvalidManifest: it is no YAML, or nothing.
    """
    try:
        documents = [document for document in yaml.load_all(text, _Loader) if document is not None]
    except yaml.YAMLError as error:
        raise InvalidManifest(f"{source} is not YAML: {' '.join(str(error).split())}") from error
    if not documents:
        raise InvalidManifest(f"{source} is empty")
    return documents


def explain(
    error: ValidationError, model: type[BaseModel], *, more: Collection[str] = (), unsaid: Sequence[int | str] = ()
) -> str:
    """Every problem in one line.

    Args:
        error: what validating as `model` raised.
        model: the outermost part.
        more: fields that stand at the top of the file beside the model's own.
        unsaid: steps at the beginning of a place that the file does not have.
    """
    texts: dict[str, list[str]] = {}
    for problem in error.errors():
        place: Place = problem["loc"]
        unknown = problem["type"] == "extra_forbidden"
        text = _unknown_field(place, model, more) if unknown else problem["msg"].removeprefix("Value error, ")
        if unsaid and place[: len(unsaid)] == tuple(unsaid):
            place = place[len(unsaid) :]
        where = ".".join(str(step) for step in place if step not in _UNION_STEPS)
        texts.setdefault(where, []).append(text)
    told = ((where, ", or ".join(alternatives)) for where, alternatives in texts.items())
    return "; ".join(f"{where}: {text}" if where else text for where, text in told)


def _unknown_field(place: Place, model: type[BaseModel], more: Collection[str]) -> str:
    name, known = str(place[-1]), [*fields_at(model, place[:-1]), *(more if len(place) == 1 else ())]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
    return f"unknown field; {hint}"


def fields_at(model: type[BaseModel], place: Place) -> list[str]:
    """The fields of what stands at `place` within `model`."""
    parts: list[type[BaseModel]] = [model]
    for step in place:
        inner = [parts_of(part.model_fields[step].annotation) for part in parts if step in part.model_fields]
        parts = [part for found in inner for part in found] or parts
    return [name for part in parts for name in part.model_fields]


def parts_of(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models within an annotation, however deep in unions, lists and mappings."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from parts_of(inner)
