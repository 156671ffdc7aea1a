"""The parent of every contract: frozen, tolerant of fields added later."""

from pydantic import BaseModel, ConfigDict


class Contract(BaseModel):
    """A frozen message. Unknown fields are ignored, so a reader survives a newer writer."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null")
