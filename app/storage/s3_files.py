"""The S3 client: s3fs, with an end to every request."""

import asyncio
from typing import Any

from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem


class BoundedS3FileSystem(S3FileSystem):  # type: ignore[misc]
    """s3fs whose requests end in time, also those that send something.

    The timeouts of aiohttp begin once a request is sent. One whose body the server does not take, or does not say that
    it will take ("Expect: 100-continue"), would wait for ever.
    """

    retries = 1  # botocore tries again by itself; both together would take minutes

    def __init__(self, *, request_seconds: float, **options: Any) -> None:
        """Connect on first use.

        Args:
            request_seconds: how long one request may take, with what is tried again of it.
            options: those of s3fs.
        """
        super().__init__(**options)
        self._request_seconds = request_seconds

    async def _call_s3(self, method: str, *arguments: Any, **more: Any) -> Any:
        return await asyncio.wait_for(super()._call_s3(method, *arguments, **more), self._request_seconds)

    call_s3 = sync_wrapper(_call_s3)
