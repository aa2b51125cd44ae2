"""How a training is described in requests: a recipe, and what counts as trained."""

from typing import Annotated, Any, Literal

from pydantic import Field

from app.api.envelopes import StrictModel
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

    def recipe(self) -> Recipe:
        """Return the recipe.

        Raises:
            BadRequest: ``invalid_recipe``.
        """
        return Recipe.from_dict(self.model_dump(exclude_none=True))


class TargetRequest(StrictModel):
    """A fine-tuning to be forecast for every model."""

    kind: Literal["fraction_of_initial", "fraction_of_drop", "loss", "accuracy"] = Field(
        default="fraction_of_initial", description="What `value` is: of the training loss, or of the training accuracy."
    )
    value: float = Field(default=0.1, gt=0, le=1000)
    recipe: RecipeRequest | None = None
    price_per_hour: float | None = Field(default=None, ge=0, le=1e6, description="Of the machine, in any currency.")

    def question(self) -> dict[str, Any]:
        """Return the target as it is stored: ``app.forecasting.question.Question.as_dict``.

        Raises:
            BadRequest: ``invalid_target`` or ``invalid_recipe``.
        """
        from app.forecasting.question import Question  # here, for it loads numpy and scipy
        from app.forecasting.target import Target

        recipe = self.recipe.recipe() if self.recipe else Recipe()
        target = Target(kind=self.kind, value=self.value)
        return Question(target=target, recipe=recipe, price_per_hour=self.price_per_hour).as_dict()
