"""What the parameters of all kinds of answer share. Needs pydantic."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1, le=256)]
Seconds = Annotated[float, Field(gt=0.0, le=60.0, allow_inf_nan=False)]
Scale = Annotated[float, Field(gt=0.0, le=1e6, allow_inf_nan=False)]
Decimals = Annotated[int, Field(ge=0, le=6)]
Word = Annotated[str, Field(min_length=1, max_length=80)]


class Spec(BaseModel):
    """Parameters as they stand in a profile: no unknown keys, no other types, no infinite numbers, never changed."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
