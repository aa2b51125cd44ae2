"""What a training run recorded."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Point:
    """Loss and accuracy after ``step`` steps, in eval mode, on a fixed set of training images and on the validation."""

    step: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float


@dataclass
class Curves:
    """The mean loss of every batch before its update, and the points between them."""

    batch_losses: list[float] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the curves as JSON-ready data."""
        return {"batch_losses": list(self.batch_losses), "points": [asdict(point) for point in self.points]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Curves":
        """Read what ``as_dict`` returned."""
        return cls(list(data["batch_losses"]), [Point(**point) for point in data["points"]])
