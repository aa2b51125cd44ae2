"""Licences as the SPDX list writes them, so that a filter finds them whoever stated them."""

_SPDX = ("Apache-2.0", "BSD-3-Clause", "CC-BY-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "CC0-1.0", "MIT")
_BY_LOWER = {name.lower(): name for name in _SPDX}


def spdx(name: str) -> str:
    """Return a licence in the spelling of the SPDX list; one that is not known here as it is."""
    return _BY_LOWER.get(name.lower(), name)
