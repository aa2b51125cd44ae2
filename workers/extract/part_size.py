"""How many images go through a network at once: as many as fit into memory, and as are done soon."""

SECONDS = 2.0
"""How long a part may take: work is asked to stop between two parts."""
_FIRST = 4  # images, of a network whose speed is not known


class PartSize:
    """The parts that batches of one network are computed in on one device; kept from one data set to the next.

    Sizes are the batch size, halved again and again, so that few different ones occur. A size that did not fit into
    memory is not tried again.
    """

    def __init__(self, batch_size: int, *, seconds: float = SECONDS) -> None:
        """Know nothing of the network yet.

        Args:
            batch_size: the largest part.
            seconds: that a part may take.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.fitting = batch_size
        self._seconds = seconds
        self._images_per_second: float | None = None

    @property
    def images(self) -> int:
        """The size of the next part."""
        if self._images_per_second is None:
            return min(self.fitting, _FIRST)
        size = self.fitting
        while size > 1 and size > self._images_per_second * self._seconds:
            size = (size + 1) // 2
        return size

    def took(self, images: int, seconds: float) -> None:
        """Note how long a part took.

        A small part's rate is a lower bound of a large one's, so that a first part slowed down by a device that wakes
        up makes the next one small, and not those after it.
        """
        self._images_per_second = images / max(seconds, 1e-9)

    def does_not_fit(self, images: int) -> bool:
        """Note that memory ran out on so many images; return whether there is a smaller size."""
        self.fitting = max(1, min(self.fitting, images) // 2)
        return images > 1


class PartSizes:
    """The part sizes of a worker's networks, by what they compute."""

    def __init__(self) -> None:
        """Know no network yet."""
        self._sizes: dict[tuple[str, str], PartSize] = {}

    def of(self, model_digest: str, work: str, largest: int) -> PartSize:
        """Return the part size of a model at one kind of work: features in a precision, or gradients.

        Args:
            model_digest: names the network.
            work: names the kind.
            largest: images of a part of a network that is not known yet.
        """
        return self._sizes.setdefault((model_digest, work), PartSize(largest))
