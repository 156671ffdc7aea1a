"""A model ready to be uploaded."""

from dataclasses import dataclass, field

from moorage_common.contracts.examples import Examples
from moorage_common.contracts.tensors import Format, Signature


@dataclass(frozen=True, slots=True)
class Packaged:
    """The artifact's bytes with all that is recorded beside it. `examples` is None where no example was given."""

    format: Format
    content: bytes = field(repr=False)
    signature: Signature
    libraries: dict[str, str]
    examples: Examples | None = field(default=None, repr=False)
