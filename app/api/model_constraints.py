"""What models have to be, as the body of a selection or the query of a list asks for it."""

from typing import Annotated

from fastapi import Depends, Query
from pydantic import Field

from app.api.envelopes import StrictModel, Text
from app.domain.labels import LABEL
from app.domain.model_constraints import ModelConstraints
from app.domain.model_description import Capability

_Bound = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Choice = Annotated[Text, Field(min_length=1, max_length=200)]
_Choices = Annotated[list[_Choice], Field(min_length=1, max_length=100)]
_Label = Annotated[str, Field(pattern=f"^{LABEL}$")]

_PARAMETERS = "Number of parameters, at most."
_GFLOPS = "10^9 floating-point operations an image, at most."
_MEMORY = "Memory of the weights and of a forward pass of 32 images, at most."
_LICENSES = "One of these is the model's; the case does not matter."
_FAMILIES = "One of these is the model's, such as `resnet`."
_PRETRAINED_ON = "One of these data sets is among those it was pretrained on."
_CAPABILITIES = "It has all of these."
_TAGS = "It carries all of these."

ZooName = _Label


class ConstraintsRequest(StrictModel):
    """What a model has to be; one whose fact is not known satisfies no constraint on it."""

    max_parameters: _Bound | None = Field(default=None, description=_PARAMETERS)
    max_gflops: _Bound | None = Field(default=None, description=_GFLOPS)
    max_memory_bytes: _Bound | None = Field(default=None, description=_MEMORY)
    licenses: _Choices | None = Field(default=None, description=_LICENSES)
    families: _Choices | None = Field(default=None, description=_FAMILIES)
    pretrained_on: _Choices | None = Field(default=None, description=_PRETRAINED_ON)
    capabilities: Annotated[list[Capability], Field(min_length=1)] | None = Field(
        default=None, description=_CAPABILITIES
    )
    tags: Annotated[list[_Label], Field(min_length=1, max_length=20)] | None = Field(default=None, description=_TAGS)

    def read(self) -> ModelConstraints:
        """Return the constraints that are stated."""
        return ModelConstraints.from_dict(self.model_dump(exclude_none=True))


def _of_query(
    max_parameters: Annotated[float | None, Query(ge=0, allow_inf_nan=False, description=_PARAMETERS)] = None,
    max_gflops: Annotated[float | None, Query(ge=0, allow_inf_nan=False, description=_GFLOPS)] = None,
    max_memory_bytes: Annotated[float | None, Query(ge=0, allow_inf_nan=False, description=_MEMORY)] = None,
    licenses: Annotated[list[_Choice] | None, Query(max_length=100, description=_LICENSES)] = None,
    families: Annotated[list[_Choice] | None, Query(max_length=100, description=_FAMILIES)] = None,
    pretrained_on: Annotated[list[_Choice] | None, Query(max_length=100, description=_PRETRAINED_ON)] = None,
    capabilities: Annotated[list[Capability] | None, Query(description=_CAPABILITIES)] = None,
    tags: Annotated[list[_Label] | None, Query(max_length=20, description=_TAGS)] = None,
) -> ModelConstraints:
    return ModelConstraints(
        max_parameters=max_parameters,
        max_gflops=max_gflops,
        max_memory_bytes=max_memory_bytes,
        licenses=tuple(licenses or ()),
        families=tuple(families or ()),
        pretrained_on=tuple(pretrained_on or ()),
        capabilities=tuple(capabilities or ()),
        tags=tuple(tags or ()),
    )


ConstraintsQuery = Annotated[ModelConstraints, Depends(_of_query)]
