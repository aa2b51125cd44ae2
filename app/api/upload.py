"""Receiving a file: straight from the socket to the object store, hashed on the way, in constant memory."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from anyio import CapacityLimiter, to_thread
from fastapi import Request
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect

from app.api.envelopes import MAX_NAME_LENGTH, is_storable
from app.domain.errors import BadRequest, PayloadTooLarge

_WRITE_BYTES = 1 << 20
_MAX_FIELD_BYTES = 4096
_MAX_FORM_BYTES = 1 << 16  # what boundaries, part headers and short fields may add to a file


class Target(Protocol):
    """Where the bytes go."""

    def write(self, data: bytearray, /) -> object:
        """Take the next bytes."""


@dataclass
class Received:
    """What an upload consisted of."""

    sha256: str
    size: int
    name: str | None


async def receive(request: Request, target: Target, *, max_bytes: int, writers: CapacityLimiter) -> Received:
    """Write the uploaded file to ``target``: the multipart field ``file``, or the raw body.

    Args:
        request: whose body it is.
        target: where the bytes go.
        max_bytes: that the file may have.
        writers: the threads that write; they are not those of other requests.

    Raises:
        PayloadTooLarge: ``upload_too_large``.
        BadRequest: ``missing_file``, ``empty_upload``, ``upload_incomplete``, ``malformed_multipart``,
            ``unknown_field``, ``invalid_request``.
    """
    sink = _Sink(target, max_bytes, writers)
    kind, options = parse_options_header(request.headers.get("content-type"))
    is_form = kind == b"multipart/form-data"
    chunks = _at_most(max_bytes, request, overhead=_MAX_FORM_BYTES if is_form else 0)
    if is_form:
        name = await _receive_form(chunks, options.get(b"boundary"), sink)
    else:
        name = None
        async for chunk in chunks:
            await sink.write(chunk)
    await sink.flush()
    if sink.size == 0:
        raise BadRequest(
            "empty_upload",
            "The upload has no bytes.",
            param="file",
            hint="Send the file as the multipart field `file` or as the raw body.",
        )
    return Received(sink.digest.hexdigest(), sink.size, name)


async def _at_most(max_bytes: int, request: Request, *, overhead: int) -> AsyncIterator[bytes]:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes + overhead:
        raise _too_large(max_bytes)
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > max_bytes + overhead:
                raise _too_large(max_bytes)
            yield chunk
    except ClientDisconnect as error:
        raise BadRequest(
            "upload_incomplete",
            f"The connection broke off after {size} bytes.",
            param="file",
            hint="Send the upload again.",
            status=400,
        ) from error


async def _receive_form(chunks: AsyncIterator[bytes], boundary: bytes | None, sink: "_Sink") -> str | None:
    if not boundary:
        raise BadRequest(
            "malformed_multipart",
            "The multipart body names no boundary.",
            param="Content-Type",
            hint="Let the HTTP library set the Content-Type of a form.",
        )
    form = _Form()
    try:
        parser = MultipartParser(boundary, form.callbacks())
        async for chunk in chunks:
            parser.write(chunk)
            for part in form.take_file_bytes():
                await sink.write(part)
        parser.finalize()
    except FormParserError as error:
        raise BadRequest(
            "malformed_multipart",
            f"The multipart body cannot be read: {error}.",
            param="body",
            hint="Let the HTTP library write the form, or send the archive as the raw body.",
        ) from error
    if not form.ended:
        raise BadRequest(
            "malformed_multipart",
            "The multipart body breaks off before its closing boundary.",
            param="body",
            hint="Send the upload again.",
        )
    if not form.saw_file:
        raise BadRequest(
            "missing_file",
            "The form has no field `file`.",
            param="file",
            hint="curl: -F file=@photos.zip",
        )
    return form.name or form.filename or None


@dataclass
class _Sink:
    """Hashes and writes in blocks, in a thread, so that the disk never holds up other requests."""

    target: Target
    max_bytes: int
    writers: CapacityLimiter
    size: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    _block: bytearray = field(default_factory=bytearray)

    async def write(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self.size > self.max_bytes:
            raise _too_large(self.max_bytes)
        self._block += chunk
        if len(self._block) >= _WRITE_BYTES:
            await self.flush()

    async def flush(self) -> None:
        block, self._block = self._block, bytearray()
        await to_thread.run_sync(self._store, block, limiter=self.writers)

    def _store(self, block: bytearray) -> None:
        self.digest.update(block)
        self.target.write(block)


@dataclass
class _Form:
    """Takes apart a form as it arrives: the bytes of ``file`` pass through, short fields are kept."""

    name: str | None = None
    filename: str = ""
    saw_file: bool = False
    ended: bool = False
    _field: str = ""
    _headers: dict[bytes, bytes] = field(default_factory=dict)
    _header: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    _value: bytearray = field(default_factory=bytearray)
    _file_bytes: list[bytes] = field(default_factory=list)

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def take_file_bytes(self) -> list[bytes]:
        taken, self._file_bytes = self._file_bytes, []
        return taken

    def _begin(self) -> None:
        self._headers, self._value = {}, bytearray()

    def _end_header(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)
        self._header = (bytearray(), bytearray())

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._field = options.get(b"name", b"").decode("utf-8", "replace")
        if self._field == "file":
            if self.saw_file:
                raise BadRequest(
                    "malformed_multipart",
                    "The form has more than one field `file`.",
                    param="file",
                    hint="Send one archive in one request.",
                )
            self.saw_file = True
            filename = options.get(b"filename", b"").decode("utf-8", "replace")
            self.filename = filename if len(filename) <= MAX_NAME_LENGTH and is_storable(filename) else ""
        elif self._field != "name":
            raise BadRequest(
                "unknown_field",
                f"The form has a field {self._field!r} that this route does not know.",
                param=self._field,
                hint="The fields are `file` and `name`.",
            )

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._field == "file":
            self._file_bytes.append(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > _MAX_FIELD_BYTES:
            raise _invalid_name()

    def _end_part(self) -> None:
        if self._field != "name":
            return
        name = self._value.decode("utf-8", "replace")
        if len(name) > MAX_NAME_LENGTH or not is_storable(name):
            raise _invalid_name()
        self.name = name or None

    def _end(self) -> None:
        self.ended = True


def _invalid_name() -> BadRequest:
    return BadRequest(
        "invalid_request",
        f"The field 'name' has more than {MAX_NAME_LENGTH} characters or a NUL in it.",
        param="name",
        hint="Choose a shorter name.",
    )


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        "upload_too_large",
        f"The upload is larger than the {max_bytes} bytes that this service accepts of you.",
        param="file",
        hint="Of images, 512 pixels on the shorter side are enough; FORETUNE_MAX_UPLOAD_BYTES sets the limit, or the "
        "bytes that your tenant may store.",
    )
