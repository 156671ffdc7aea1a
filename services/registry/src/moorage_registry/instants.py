"""Times in answers: held as seconds since 1970, said as RFC 3339."""

from typing import Annotated

from pydantic import PlainSerializer

from moorage_common.clock import rfc3339

Instant = Annotated[float, PlainSerializer(rfc3339, return_type=str)]
