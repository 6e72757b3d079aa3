"""What the sections of a YAML file are made of: their base, and the bounds that many fields share."""

from typing import Annotated, Literal, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Deadline = Annotated[float, Field(gt=0, le=10**6)]
"""Seconds, up to 11 days: a wait of 10**300 is no time to Python, one of 10**7 none to poll(2)."""
Units = Annotated[float, Field(ge=0, le=4096)]
"""GPUs or processors of one process."""
Threads = Annotated[int, Field(ge=0, le=4096)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Workers = Annotated[int, Field(ge=1, le=4096)]
"""Processes of one role: four times the most that docs/scaling.md simulates."""


class Section(BaseModel):
    """A part of the tree: frozen, closed to unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False, protected_namespaces=()
    )

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        annotation = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and (annotation in (int, float) or get_origin(annotation) is Literal):
            raise PydanticCustomError("truth_value", "Input should be no truth value")
        return value
