"""Policies of rollouts as YAML: read strictly, and written with what each number means."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

from moorage_common.contracts.rollouts import RolloutPolicy
from moorage_sdk.errors import InvalidManifest
from moorage_sdk.hints import explain, read_text, read_yaml

_WIDE = 118
_COMMENT_AT = 28


def parse_policy(text: str, source: str = "policy") -> RolloutPolicy:
    """What one YAML document says; what it leaves out is as in the default.

    Raises:
        InvalidManifest: no YAML, an unknown field (with the closest valid one), a value of the wrong form.
    """
    documents = read_yaml(text, source)
    if len(documents) > 1 or not isinstance(documents[0], dict):
        raise InvalidManifest(f"{source}: a policy is one mapping; print the default with: moorage rollout policy")
    return _checked(documents[0], source)


def _checked(written: Mapping[str, Any], source: str) -> RolloutPolicy:
    try:
        return RolloutPolicy.model_validate(written)
    except ValidationError as error:
        raise InvalidManifest(f"{source}: {explain(error, RolloutPolicy)}") from error


def read_policy(path: Path) -> RolloutPolicy:
    """`parse_policy` of a file.

    Raises:
        InvalidManifest: also when the file cannot be read.
    """
    return parse_policy(read_text(path), str(path))


def policy_of(given: RolloutPolicy | Mapping[str, Any] | str | Path) -> RolloutPolicy:
    """A policy given as a value, as nested mappings, or as the path of a file.

    Raises:
        InvalidManifest: as `parse_policy` does.
    """
    if isinstance(given, RolloutPolicy):
        return given
    return read_policy(Path(given)) if isinstance(given, str | Path) else _checked(given, "policy")


def policy_yaml(policy: RolloutPolicy | None = None) -> str:
    """The policy, the default if None, as YAML that `parse_policy` reads, each field with its description."""
    return "\n".join(_part(policy if policy is not None else RolloutPolicy(), "")) + "\n"


def _part(part: BaseModel, indent: str, first: str | None = None) -> Iterator[str]:
    """A line a field; `first` begins the first line in place of `indent`."""
    begin, was_part = indent if first is None else first, False
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        if isinstance(value, BaseModel) or was_part:
            yield ""
        was_part = isinstance(value, BaseModel)
        if isinstance(value, BaseModel):
            yield from _comment(_words(type(value).__doc__), indent)
            yield f"{begin}{name}:"
            yield from _part(value, indent + "  ")
        elif isinstance(value, list):
            yield from _comment(_words(field.description), indent)
            yield f"{begin}{name}:"
            yield from _items(value, indent)
        else:
            yield _line(f"{begin}{name}: {_scalar(value)}", _choices(field.annotation) + _words(field.description))
        begin = indent


def _items(items: list[Any], indent: str) -> Iterator[str]:
    """The first with its comments, the others as short as they go."""
    for number, item in enumerate(items):
        if number == 0:
            yield from _part(item, indent + "    ", first=f"{indent}  - ")
        else:
            said = {name: value for name, value in item.model_dump().items() if value is not None}
            told = ", ".join(f"{name}: {_scalar(value)}" for name, value in said.items())
            yield f"{indent}  - {{{told}}}"


def _line(text: str, description: str) -> str:
    return f"{text:<{_COMMENT_AT}}  # {description}" if description else text


def _comment(text: str, indent: str) -> Iterator[str]:
    line = ""
    for word in text.split():
        if line and len(indent) + len(line) + len(word) + 3 > _WIDE:
            yield f"{indent}# {line}"
            line = ""
        line = f"{line} {word}".strip()
    if line:
        yield f"{indent}# {line}"


def _words(text: str | None) -> str:
    return " ".join((text or "").replace("`", "").split())


def _choices(annotation: Any) -> str:
    choices = get_args(annotation) if get_origin(annotation) is Literal else ()
    return f"{' | '.join(choices)}: " if choices else ""


def _scalar(value: Any) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
