"""What an S3 store is reached with, and how long it may take to answer."""

from dataclasses import dataclass, field
from typing import Any

BLOCK_BYTES = 8 << 20
"""A part of an upload, and what is read ahead: 10,000 parts, the most there are, make 80 GiB."""
_CONNECT_SECONDS = 3
_ATTEMPTS = 2
_REQUEST_TIMEOUTS = 3  # with 10 s of each, a part of an upload is sent at 280 kB/s or given up
_CONNECTIONS = 50  # an API process serves 40 requests at a time
_PARTS_AT_ONCE = 4


@dataclass(frozen=True)
class S3Access:
    """An address, a pair of keys, and patience.

    Without an endpoint the store is Amazon's; without keys they are found as Amazon's own tools find them.
    """

    endpoint: str = ""
    access_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)
    timeout_seconds: float = 10

    def options(self) -> dict[str, Any]:
        """Return what ``BoundedS3FileSystem`` is made with."""
        config: dict[str, Any] = {
            "connect_timeout": min(_CONNECT_SECONDS, self.timeout_seconds),
            "read_timeout": self.timeout_seconds,
            "retries": {"mode": "standard", "total_max_attempts": _ATTEMPTS},
            "max_pool_connections": _CONNECTIONS,
        }
        if self.endpoint:
            # Other stores seldom answer under the bucket's own host name, and not all know Amazon's newer checksums.
            config["s3"] = {"addressing_style": "path"}
            config["request_checksum_calculation"] = config["response_checksum_validation"] = "when_required"
        return {
            "request_seconds": self.timeout_seconds * _REQUEST_TIMEOUTS,
            "endpoint_url": self.endpoint or None,
            "key": self.access_key or None,
            "secret": self.secret_key or None,
            "config_kwargs": config,
            "default_block_size": BLOCK_BYTES,
            "max_concurrency": _PARTS_AT_ONCE,
            "use_listings_cache": False,  # other processes write, too
            "skip_instance_cache": True,
        }
