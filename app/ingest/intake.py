"""Every candidate of an archive, read one at a time, decoded, and written to the spool or given its reason."""

import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from hashlib import sha256
from pathlib import PurePosixPath

from app.ingest.archive import Archive, Member, MemberDamaged, MemberStream
from app.ingest.canonical_image import CanonicalImage, DeepGrey, ImageRefused, canonical_image
from app.ingest.colour import grey_bits
from app.ingest.image_format import HEAD_BYTES, sniff
from app.ingest.layout import IMAGE_SUFFIXES, Layout, Place
from app.ingest.limits import MIB, Limits
from app.ingest.progress import Progress
from app.ingest.report import Outcome, Row
from app.ingest.spool import Spool

_DECODERS = min(4, os.cpu_count() or 1)
_IN_FLIGHT_BYTES = 64 * MIB
_CHUNK = MIB

_Pending = tuple[Member, Place, bytes, str, Future[CanonicalImage | DeepGrey]]


class Intake:
    """Turns members into rows and outcomes, in the archive's order; what it holds in memory is bounded."""

    def __init__(self, layout: Layout, spool: Spool, limits: Limits) -> None:
        """Prepare to write accepted images to ``spool``."""
        self.rows: list[Row] = []
        self.outcomes: list[Outcome] = []
        self._layout = layout
        self._spool = spool
        self._limits = limits
        self._deep: list[tuple[Member, Place, str, int, int]] = []
        self._peak = 0

    def run(self, archive: Archive, members: Sequence[Member], progress: Progress) -> None:
        """Check ``members``, all from ``archive``.

        Raises:
            DatasetRejected: the archive itself cannot be read on.
            Interrupted: the caller wants to stop.
        """
        pending: deque[_Pending] = deque()
        in_flight = 0
        with (
            ThreadPoolExecutor(_DECODERS, thread_name_prefix="decode") as pool,
            closing(archive.read({member.index for member in members})) as entries,
        ):
            for member, stream in entries:
                progress.check()
                place = self._layout.place(member.path)
                try:
                    data, file_format = _loaded(member, stream, place)
                except ImageRefused as refused:
                    self._refuse(member, refused)
                    progress.advance()
                    continue
                assert place is not None, "an image outside the class folders is refused"
                future = pool.submit(canonical_image, data, file_format, self._limits)
                pending.append((member, place, data, file_format, future))
                in_flight += len(data)
                while len(pending) > 2 * _DECODERS or in_flight > _IN_FLIGHT_BYTES:
                    in_flight -= len(pending[0][2])
                    self._settle(*pending.popleft())
                    progress.advance()
            while pending:
                progress.check()
                self._settle(*pending.popleft())
                progress.advance()
        self._scale_deep_greys(progress)

    def _settle(
        self, member: Member, place: Place, data: bytes, file_format: str, future: "Future[CanonicalImage | DeepGrey]"
    ) -> None:
        try:
            image = future.result()
        except ImageRefused as refused:
            self._refuse(member, refused)
            return
        if isinstance(image, DeepGrey):
            self._peak = max(self._peak, image.peak)
            self._deep.append((member, place, file_format, self._spool.append(data), len(data)))
        else:
            self._accept(member, place, image)

    def _scale_deep_greys(self, progress: Progress) -> None:
        """Decode the deep grey images again, now that the largest value among them tells the scale of them all."""
        bits = grey_bits(self._peak)
        for member, place, file_format, offset, length in self._deep:
            progress.check()
            try:
                image = canonical_image(self._spool.read(offset, length), file_format, self._limits, bits=bits)
            except ImageRefused as refused:
                self._refuse(member, refused)
                continue
            assert isinstance(image, CanonicalImage), "the bit depth is given"
            self._accept(member, place, image)

    def _refuse(self, member: Member, refused: ImageRefused) -> None:
        self.outcomes.append(Outcome(member.path, refused.outcome, refused.reason, refused.detail))

    def _accept(self, member: Member, place: Place, image: CanonicalImage) -> None:
        self.rows.append(
            Row(
                path=member.path,
                name=self._layout.relative(member.path) or member.path,
                split=place.split,
                class_name=place.class_name,
                offset=self._spool.append(image.data),
                length=len(image.data),
                sha256=sha256(image.data).hexdigest(),
                pixels_sha256=image.pixels_sha256,
                width=image.width,
                height=image.height,
                mode=image.mode,
                resized=image.resized,
                nested=place.nested,
                notes=image.notes,
            )
        )


def _loaded(member: Member, stream: MemberStream, place: Place | None) -> tuple[bytes, str]:
    """Return the member's bytes and Pillow's name of their format; a file that is no image is not read to its end."""
    try:
        head = stream.read(HEAD_BYTES)
        file_format = _image_format(head, member.path, place)
        chunks = [head]
        while chunk := stream.read(_CHUNK):
            chunks.append(chunk)
    except MemberDamaged as error:
        raise ImageRefused("corrupt" if place else "ignored", "corrupt_entry", str(error)) from error
    return b"".join(chunks), file_format


def _image_format(head: bytes, path: str, place: Place | None) -> str:
    kind = sniff(head, path)
    if kind.family == "archive":
        raise ImageRefused("ignored", "nested_archive_ignored", "an archive inside the archive is not unpacked")
    if kind.family == "other":
        if place is None or PurePosixPath(path).suffix.casefold() not in IMAGE_SUFFIXES:
            raise ImageRefused("ignored", "not_an_image", "")
        if not head:
            raise ImageRefused("corrupt", "empty_file", "0 bytes")
        raise ImageRefused("corrupt", "not_an_image", "named like an image, and its content is none")
    if place is None:
        raise ImageRefused("ignored", "no_class_folder", "an image outside the class folders has no label")
    if kind.family == "unsupported_image":
        raise ImageRefused("excluded", "unsupported_image_format", f"{kind.name}: convert it to JPEG or PNG")
    return kind.name
