"""One model on one data set, as all parts of an evaluation share it: fetched once, and only if something needs it."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from PIL import Image

from app.domain.errors import EvaluationFailed
from app.domain.model_spec import ModelSpec
from app.ingest.shard import iter_image_files, iter_images
from workers.extract.memory import is_out_of_memory
from workers.extract.part_size import PartSize
from workers.extract.precision import Precision
from workers.feature_cache import CacheKey
from workers.images import EvaluatedImages, choose_images
from workers.lease import HeldLease
from workers.runtime import Runtime
from workers.zoo.network import Network, load_network
from workers.zoo.sources import held_weights
from workers.zoo.transfer import Supervision


class Subject:
    """A context: the data set's file, once fetched, is there until its end.

    Attributes:
        runtime: of this worker.
        spec: of the model.
        key: names what is computed of the evaluated images. Its precision is the wanted one until features are there.
        held: told of the progress, and asked whether to stop.
        ran: what the network was run for, and not found where it is kept: ``features``, ``gradients``, ``forecast``.
    """

    def __init__(self, runtime: Runtime, spec: ModelSpec, key: CacheKey, held: HeldLease) -> None:
        """Fetch nothing yet."""
        self.runtime, self.spec, self.key, self.held = runtime, spec, key, held
        self.ran: set[str] = set()
        self._files = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()

    @cached_property
    def shard(self) -> Path:
        """The data set's file on this machine."""
        objects = self.runtime.objects
        return self._files.enter_context(objects.as_file(f"datasets/{self.key.dataset_digest}.parquet"))

    @cached_property
    def network(self) -> Network:
        """The model, loaded onto this worker's device.

        Raises:
            ModelRejected: as ``load_network`` and ``held_weights`` say.
            Interrupted: the worker is to stop.
        """
        return load_on(self.runtime, self.spec, self.held.should_stop)

    @cached_property
    def evaluated(self) -> EvaluatedImages:
        """The images that are evaluated."""
        return self.chosen(self.key.max_images)

    def chosen(self, max_images: int) -> EvaluatedImages:
        """Return the images of an evaluation of at most so many."""
        return choose_images(self.shard, max_images)

    def settle(self, precision: Precision) -> None:
        """Note in which precision the features are."""
        self.key = dataclasses.replace(self.key, precision=precision)

    def part_size(self, work: str, largest: int | None = None) -> PartSize:
        """Return what this worker knows of the parts in which the model takes images, at one kind of work.

        ``largest``, by default the batch size, is the first guess.
        """
        return self.runtime.part_sizes.of(self.spec.digest, work, largest or self.runtime.settings.batch_size)

    def files(self, rows: Sequence[int]) -> Iterator[bytes]:
        """Read the image files of these rows, one by one."""
        return iter_image_files(self.shard, rows)

    def decoded(self, rows: Sequence[int]) -> Iterator[Image.Image]:
        """Decode images of these rows, one by one."""
        return iter_images(self.shard, rows)


def load_on(runtime: Runtime, spec: ModelSpec, should_stop: Callable[[], bool]) -> Network:
    """Return a model on this worker's device, its weights fetched if they are not there; leave its weights as they are.

    Args:
        runtime: of this worker.
        spec: of the model.
        should_stop: asked while weights are fetched.

    Raises:
        ModelRejected: as ``load_network`` and ``held_weights`` say.
        EvaluationFailed: ``out_of_memory``.
        Interrupted: ``should_stop`` said so.
    """
    supervision = Supervision.of(runtime.settings, should_stop)

    def load() -> Network:
        try:
            with (
                runtime.stage("load"),
                held_weights(spec.source, runtime.weights, runtime.objects, supervision) as weights,
            ):
                return load_network(spec, weights, runtime.device)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            hint = "Use a worker with more memory, or a smaller model."
            raise EvaluationFailed(
                "out_of_memory", f"{spec.name} does not fit into memory ({runtime.device})", hint=hint
            ) from error

    return runtime.loaded.get(spec, load)
