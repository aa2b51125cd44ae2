"""Data sets and models by id, or by the name that a person remembers."""

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


def find_model(client: Foretune, name: str) -> Model:
    """Return a model by its id; of a name, the active version, else the newest one.

    Raises:
        Failure: ``model_not_found``.
    """
    if name.startswith("mdl_"):
        return client.models.get(name)
    versions = [model for model in client.models.list() if model.name == name]
    if versions:
        return max(versions, key=lambda model: (model.status == "active", model.version))
    message, hint = f"There is no model named {name!r}.", "See `foretune models list`."
    raise Failure("model_not_found", message, param="model", hint=hint)
