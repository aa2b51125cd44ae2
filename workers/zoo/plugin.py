"""Sources of installed plug-ins: distributions with an entry point in the group ``foretune.sources``.

A plug-in runs in the worker as any installed package does; the file that it brings is trusted no more than any other.
It is looked up by name when a model needs it, so nothing has to be restarted when one is installed beside a new worker.
"""

from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

from app.domain.errors import ModelRejected
from app.domain.model_sources import PluginSource
from workers.zoo.disk_room import is_disk_full
from workers.zoo.download import verify_sha256
from workers.zoo.library_errors import first_line
from workers.zoo.transfer import Transfer

GROUP = "foretune.sources"


class SourcePlugin(Protocol):
    """What the entry point names: a module, an object or a class with these two functions."""

    def fetch(self, options: Mapping[str, Any], directory: Path) -> Path:
        """Write a safetensors file into ``directory``, which is empty, and return its path.

        Args:
            options: ``source.options`` of the specification, as the admin wrote them.
            directory: removed afterwards.
        """
        ...

    def describe(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return fields of the specification that the admin may leave out, such as ``architecture`` and ``license``.

        An empty mapping says nothing. What the specification states itself stays.
        """
        ...


def find_plugin(name: str) -> SourcePlugin:
    """Return the installed plug-in of this name.

    Raises:
        ModelRejected: ``unknown_plugin``, ``plugin_failed``.
    """
    installed = entry_points(group=GROUP)
    found = [entry for entry in installed if entry.name == name]
    if len(found) != 1:
        reason = "is installed by several packages" if found else "is not installed on this worker"
        raise ModelRejected(
            "unknown_plugin",
            f"the plug-in {name} {reason}",
            param="source.plugin",
            hint="Installed: " + (", ".join(sorted({entry.name for entry in installed})) or "none") + ".",
        )
    try:
        plugin: Any = found[0].load()
        plugin = plugin() if isinstance(plugin, type) else plugin
    except Exception as error:  # whatever a stranger's code raises is the plug-in's failure
        raise _failed(name, "cannot be loaded", error) from error
    return plugin  # type: ignore[no-any-return]


def fetch_by_plugin(source: PluginSource, transfer: Transfer) -> Path:
    """Have the plug-in bring the file into the transfer's directory; its hash is verified where it is stated.

    Raises:
        ModelRejected: ``unknown_plugin``, ``plugin_failed``, ``weights_hash_mismatch``.
    """
    plugin = find_plugin(source.plugin)
    try:
        path = Path(plugin.fetch(dict(source.options), transfer.directory))
    except ModelRejected:
        raise
    except Exception as error:
        if is_disk_full(error):
            raise
        raise _failed(source.plugin, "could not fetch the weights", error) from error
    if not path.is_file():
        raise _failed(source.plugin, f"returned {path}, which is no file")
    if source.sha256 is not None:
        verify_sha256(path, source.sha256, f"the file of plug-in {source.plugin}", "source.sha256")
    return path


def described_by_plugin(source: PluginSource) -> dict[str, Any]:
    """Return what the plug-in says of the model.

    Raises:
        ModelRejected: ``unknown_plugin``, ``plugin_failed``.
    """
    try:
        described = find_plugin(source.plugin).describe(dict(source.options))
    except ModelRejected:
        raise
    except Exception as error:
        raise _failed(source.plugin, "could not describe the model", error) from error
    if not isinstance(described, Mapping) or not all(isinstance(key, str) for key in described):
        raise _failed(source.plugin, "described the model by something other than a mapping")
    return dict(described)


def _failed(name: str, what: str, error: Exception | None = None) -> ModelRejected:
    reason = "" if error is None else f": {type(error).__name__}: {first_line(error)}"
    hint = "See the plug-in's documentation, and source.options."
    return ModelRejected("plugin_failed", f"the plug-in {name} {what}{reason}", param="source.plugin", hint=hint)
