"""What an archive may cost, and what an image must be to count."""

from dataclasses import dataclass, field

from app.domain.errors import DatasetRejected

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one preparation; the defaults suit a worker with 4 GiB of memory."""

    max_entries: int = 200_000
    max_entry_bytes: int = 256 * MIB
    max_total_bytes: int = 16 * 1024 * MIB
    max_ratio: float = 200.0
    """Uncompressed bytes for each byte of the archive. Deflate reaches 1032 on zeros; photographs stay below 2."""
    ratio_from_bytes: int = 64 * MIB
    """Less than this cannot hurt, whatever its ratio: a few flat bitmaps compress as well as a bomb does."""
    max_pixels: int = 100_000_000
    min_side: int = 8
    """Pixels of the shorter side below which an image is excluded."""
    max_aspect_ratio: float = 32.0
    stored_side: int = 512
    """An image whose shorter side is longer than this is resized to it."""
    max_corrupt_share: float = 0.20
    max_conflict_share: float = 0.01
    """Share of images that may sit in two classes; product practice: an error above 1 %."""


DEFAULT_LIMITS = Limits()


@dataclass(slots=True)
class Allowance:
    """Counts the uncompressed bytes of one pass over an archive and ends the pass when they are too many."""

    limits: Limits
    archive_bytes: int
    spent: int = field(default=0, init=False)

    def spend(self, count: int) -> None:
        """Add ``count`` uncompressed bytes.

        Raises:
            DatasetRejected: ``archive_bomb``, over the total or over the compression ratio.
        """
        self.spent += count
        if self.spent > self.limits.max_total_bytes:
            raise bomb(f"The archive unpacks to more than {self.limits.max_total_bytes // MIB} MiB.")
        if self.spent > max(self.limits.ratio_from_bytes, self.limits.max_ratio * self.archive_bytes):
            raise bomb(
                f"The archive unpacks to more than {self.limits.max_ratio:g} times its {self.archive_bytes} bytes."
            )

    def admit(self, path: str, declared: int) -> None:
        """Refuse an entry by its declared size, before a byte of it is read, and count it."""
        self.check_entry(path, declared)
        self.spend(declared)

    def check_entry(self, path: str, size: int) -> None:
        """Refuse an entry of ``size`` uncompressed bytes, declared or read, that is over the limit for one entry.

        Raises:
            DatasetRejected: ``archive_bomb``.
        """
        if size > self.limits.max_entry_bytes:
            limit = self.limits.max_entry_bytes // MIB
            raise bomb(f"The entry {path!r} unpacks to more than {limit} MiB.", param=path)


def bomb(message: str, *, param: str | None = None) -> DatasetRejected:
    """Return the rejection of an archive that would unpack to too much."""
    return DatasetRejected(
        "archive_bomb",
        message,
        param=param,
        hint="Upload the images alone, or fewer of them, in a plain zip or tar.gz.",
    )
