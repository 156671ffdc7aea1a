"""What is said about rings over HTTP."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from moorage_common.contracts.names import Name
from moorage_registry.headers import fault_of
from moorage_registry.instants import Instant

MEMBERS_MAX = 1000
VALUE_MAX = 128
_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")
_KID = re.compile(r"[0-9A-Za-z]{1,64}")


def _header(name: str) -> str:
    lowered = name.lower()
    fault = fault_of(lowered) if lowered else None
    if fault is not None:
        raise ValueError(fault)
    return lowered


def _value(text: str) -> str:
    if len(text) > VALUE_MAX or not _VALUE.fullmatch(text):
        message = f"a value is 1 to {VALUE_MAX} printable ASCII characters, without blanks around it"
        raise ValueError(message)
    return text


def _kid(text: str) -> str:
    if not _KID.fullmatch(text):
        message = "a key's id is letters and digits; `moorage keys list` shows yours"
        raise ValueError(message)
    return text


class RingSpec(BaseModel):
    """Body of `PUT /v1/rings/{name}`: callers by the values of a header, or by the ids of their keys."""

    model_config = ConfigDict(extra="forbid")

    header: Annotated[str, AfterValidator(_header)] = ""
    values: list[Annotated[str, AfterValidator(_value)]] = Field(default=[], max_length=MEMBERS_MAX)
    kids: list[Annotated[str, AfterValidator(_kid)]] = Field(default=[], max_length=MEMBERS_MAX)

    @model_validator(mode="after")
    def _one_kind(self) -> "RingSpec":
        by_header = bool(self.header) and bool(self.values) and not self.kids
        by_key = bool(self.kids) and not self.header and not self.values
        if not by_header and not by_key:
            message = "give either header and values, or kids"
            raise ValueError(message)
        return self


class Ring(BaseModel):
    """`used_by` are the models whose traffic, or whose running rollout, names it."""

    name: Name
    header: str
    values: list[str]
    kids: list[str]
    used_by: list[str]
    updated_at: Instant


class RingList(BaseModel):
    rings: list[Ring]
