"""What operating systems and tools leave in archives, and a user never means as an image."""

_SYSTEM_FOLDERS = {"__macosx", "@eadir"}
_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "icon\r"}


def clutter_reason(path: str) -> str | None:
    """Return why the member at this path is ignored unseen: ``os_metadata``, ``hidden_file``, or None to look at it."""
    parts = path.casefold().split("/")
    if not _SYSTEM_FOLDERS.isdisjoint(parts[:-1]) or parts[-1] in _SYSTEM_FILES:
        return "os_metadata"
    if parts[-1].startswith("._") or parts[-1] == ".ds_store":
        return "os_metadata"
    if any(part.startswith(".") for part in parts):
        return "hidden_file"
    return None
