"""How a training is described in requests: a recipe, and what counts as trained."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from pydantic import Field

from app.api.envelopes import Name, StrictModel
from app.domain.errors import BadRequest
from app.domain.finetuning import Recipe

Rate = Annotated[float, Field(gt=0, le=1000)]


class RecipeRequest(StrictModel):
    """Stochastic gradient descent; what is left out is as in arXiv:2102.00084."""

    learning_rates: Annotated[list[Rate], Field(min_length=1, max_length=10)] | None = Field(
        default=None, description="Candidates, [0.01, 0.005, 0.001] by default; the best on validation images is taken."
    )
    momentum: float | None = Field(default=None, ge=0, lt=1, description="0.9 by default.")
    nesterov: bool | None = Field(default=None, description="True by default.")
    weight_decay: float | None = Field(default=None, ge=0, le=1, description="0.0001 by default.")
    batch_size: int | None = Field(default=None, ge=1, le=4096, description="32 by default.")
    epochs: int | None = Field(default=None, ge=1, le=1000, description="30 by default.")
    max_steps: int | None = Field(default=None, ge=1, le=1_000_000, description="Where the epochs would need more.")
    schedule: Literal["milestones", "constant"] | None = Field(
        default=None, description="By default the rate is divided by ten after a half and after five sixths."
    )
    loss: Literal["cross_entropy", "squared"] | None = None
    batch_norm: Literal["frozen", "live"] | None = Field(
        default=None, description="Whether batch normalisation keeps its pretrained statistics, as it does by default."
    )
    augmentation: Literal["none", "flip"] | None = None
    seed: int | None = Field(default=None, ge=0, lt=2**31)

    def read(self, path: str) -> Recipe:
        """Return the recipe, which stands at a path of the request.

        Raises:
            BadRequest: ``invalid_recipe``; ``param`` is the field as it stands in the request.
        """
        with _errors_below(path):
            return Recipe.from_dict(self.model_dump(exclude_none=True))


class HardwareRequest(StrictModel):
    """The machine that fine-tuning is forecast for; by default that of the worker."""

    name: Name | None = Field(default=None, description="For people.")
    speed: float = Field(
        default=1.0, gt=0, le=1e6, description="How many times as fast as the worker it does a training step."
    )
    price_per_hour: float | None = Field(default=None, ge=0, le=1e6, description="In any currency.")


class TargetRequest(StrictModel):
    """A fine-tuning to be forecast for every model."""

    kind: Literal["fraction_of_initial", "fraction_of_drop", "loss", "accuracy"] = Field(
        default="fraction_of_initial", description="What `value` is: of the training loss, or of the training accuracy."
    )
    value: float = Field(default=0.1, gt=0, le=1000)
    recipe: RecipeRequest | None = None

    def question(self, machine: HardwareRequest | None) -> dict[str, Any]:
        """Return the target as it is stored: ``app.forecasting.question.Question.as_dict``.

        Args:
            machine: whose seconds are asked for.

        Raises:
            BadRequest: ``invalid_target`` or ``invalid_recipe``; ``param`` is the field as it stands in the request.
        """
        from app.forecasting.question import Hardware, Question  # here, for it loads numpy and scipy
        from app.forecasting.target import Target

        recipe = self.recipe.read("target.recipe") if self.recipe else Recipe()
        with _errors_below("target"):
            target = Target(kind=self.kind, value=self.value)
        hardware = Hardware(**machine.model_dump()) if machine else Hardware()
        return Question(target=target, recipe=recipe, hardware=hardware).as_dict()


@contextmanager
def _errors_below(path: str) -> Iterator[None]:
    """Name the field at fault as it stands in the request: below ``path``."""
    try:
        yield
    except BadRequest as error:
        param = f"{path}.{error.param}" if error.param else path
        raise BadRequest(error.code, error.message, param=param, hint=error.hint) from error
