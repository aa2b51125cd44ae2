"""The header of a safetensors file, checked while the file passes by, without its tensors and without torch.

Eight bytes: the header's length, little-endian. Then so much JSON: for each tensor its type, its shape, and where it
begins and ends in what follows; the tensors fill that without a gap.
Source: https://github.com/huggingface/safetensors, "Format".
"""

import json
import math
import struct
from collections.abc import Mapping
from typing import Any, NoReturn, TypeGuard

from app.domain.errors import BadRequest

_LENGTH = struct.Struct("<Q")
_MOST_HEADER_BYTES = 1 << 24
_MOST_AXES = 64
_BITS = (
    dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8)
    | dict.fromkeys(("U16", "I16", "F16", "BF16"), 16)
    | dict.fromkeys(("U32", "I32", "F32"), 32)
    | dict.fromkeys(("U64", "I64", "F64", "C64"), 64)
    | {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
)
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


class NotSafetensors(BadRequest):
    """The file is no whole safetensors file.

    Attributes:
        why: in words that follow "it is refused: ".
    """

    def __init__(self, why: str) -> None:
        """Say so of an upload."""
        super().__init__(
            "unsafe_weights",
            f"The upload is no whole safetensors file: {why}.",
            param="file",
            hint="Save the tensors with safetensors.torch.save_file(model.state_dict(), ...), and send all of it.",
        )
        self.why = why


class SafetensorsHeader:
    """What the first bytes of a file say of the rest."""

    def __init__(self) -> None:
        """Know no byte yet."""
        self._bytes = bytearray()
        self._length: int | None = None

    def feed(self, chunk: bytes | bytearray) -> None:
        """Take the next bytes of the file; those behind the header are not kept.

        Raises:
            NotSafetensors: ``unsafe_weights``, as soon as the file cannot be one.
        """
        missing = _LENGTH.size + (self._length or 0) - len(self._bytes)
        if self._length is not None and missing <= 0:
            return
        self._bytes += chunk if self._length is None else chunk[:missing]
        if self._length is None and len(self._bytes) >= _LENGTH.size:
            (self._length,) = _LENGTH.unpack_from(self._bytes)
            if not 2 <= self._length <= _MOST_HEADER_BYTES:
                self._refuse(f"its header would have {self._length} bytes")
            del self._bytes[_LENGTH.size + self._length :]
        first = bytes(self._bytes[_LENGTH.size : _LENGTH.size + 1])
        if self._length is not None and first not in (b"", b"{"):
            self._refuse("its header does not begin with {")

    def _refuse(self, why: str) -> NoReturn:
        # Only here: the length of a header may begin with the same bytes.
        is_pickle = self._bytes.startswith(_PICKLES)
        raise NotSafetensors("it is a pickle, which runs code when it is read" if is_pickle else why)

    @property
    def is_complete(self) -> bool:
        """Whether all of it has come; what comes behind it is not looked at."""
        return self._length is not None and len(self._bytes) >= _LENGTH.size + self._length

    def check(self, size: int) -> int:
        """Return the number of tensors of a file that has passed by completely.

        Args:
            size: of the file, in bytes.

        Raises:
            NotSafetensors: ``unsafe_weights``: the header is none, or the file does not hold what it promises.
        """
        if self._length is None or not self.is_complete:
            header_bytes = "" if self._length is None else f", where its header ends at {_LENGTH.size + self._length}"
            raise NotSafetensors(f"it is truncated: it has {size} bytes{header_bytes}")
        try:
            header = json.loads(bytes(self._bytes[_LENGTH.size :]))
        except (ValueError, RecursionError) as error:
            raise NotSafetensors("its header is not JSON") from error
        if not isinstance(header, dict):
            raise NotSafetensors("its header is not an object")
        extents = sorted(_extent(name, tensor) for name, tensor in header.items() if name != "__metadata__")
        if not extents:
            raise NotSafetensors("it holds no tensor")
        end = 0
        for begins, ends, name in extents:
            if begins != end:
                found = f"tensor {name[:100]!r} begins at byte {begins}"
                raise NotSafetensors(f"{found}, where the one before it ends at {end}")
            end = ends
        there_are = size - _LENGTH.size - self._length
        if there_are != end:
            found = "it is truncated: it has" if there_are < end else "it is too long: it has"
            raise NotSafetensors(f"{found} {there_are} bytes of tensors, where its header says {end}")
        return len(extents)


def _extent(name: str, tensor: Any) -> tuple[int, int, str]:
    """Return where a tensor begins and ends."""
    stated = tensor if isinstance(tensor, Mapping) else {}
    bits, shape, offsets = _BITS.get(str(stated.get("dtype"))), stated.get("shape"), stated.get("data_offsets")
    if bits is None or not _is_counts(shape) or not _is_counts(offsets) or len(offsets) != 2:
        raise NotSafetensors(f"tensor {name[:100]!r} has no known type, shape or place")
    begins, ends = offsets
    if (ends - begins) * 8 != math.prod(shape) * bits:
        raise NotSafetensors(f"tensor {name[:100]!r} takes {ends - begins} bytes, which its type and shape do not")
    return begins, ends, name


def _is_counts(value: Any) -> TypeGuard[list[int]]:
    is_short = isinstance(value, list) and len(value) <= _MOST_AXES
    return is_short and all(type(one) is int and 0 <= one < 2**63 for one in value)
