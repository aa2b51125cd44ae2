"""Data sets and models by id, or by the name that a person remembers."""

from collections.abc import Collection

from app.client import Dataset, Failure, Foretune, Model


def find_dataset(client: Foretune, name: str) -> Dataset:
    """Return a data set by its id, or the newest one of this name.

    Raises:
        Failure: ``dataset_not_found``.
    """
    if name.startswith("ds_"):
        return client.datasets.get(name)
    for dataset in client.datasets.list():
        if dataset.name == name:
            return dataset
    message, hint = f"There is no data set named {name!r}.", "See `foretune dataset list`."
    raise Failure("dataset_not_found", message, param="dataset", hint=hint)


def find_model(client: Foretune, name: str, *preferred: Collection[str]) -> Model:
    """Return a model by its id, or a version of this name.

    Args:
        client: of the service.
        name: an id or a name.
        preferred: statuses. Of a name, the newest version with one of the first is meant, else the newest with one of
            the next and so on, else the newest at all. Where none is given, an active one comes first.

    Raises:
        Failure: ``model_not_found``.
    """
    if name.startswith("mdl_"):
        return client.models.get(name)
    versions = [model for model in client.models.list() if model.name == name]
    if versions:
        wanted = preferred or (("active",),)
        return max(versions, key=lambda model: (*(model.status in statuses for statuses in wanted), model.version))
    message, hint = f"There is no model named {name!r}.", "See `foretune models list`."
    raise Failure("model_not_found", message, param="model", hint=hint)
