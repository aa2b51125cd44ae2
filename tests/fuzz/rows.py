"""What a fuzzed service has from the start, so that requests get past "not found": rows in every state of interest."""

from dataclasses import dataclass, field

import httpx

from app.domain.states import ModelState
from tests.api.test_explanations import stored
from tests.api.worker import SelectionWork, add_zoo, make_ready, set_dataset
from tests.fixtures.recorded import FinetuneWork, measured_network, store_forecast
from tests.fixtures.rows import add_model
from tests.fixtures.service import RunningService

ZOO = ("alpha", "beta", "gamma")
_CLASSES = [{"name": name, "count": 100, "example": f"{name}/1.png"} for name in ("bag", "boot", "coat")]
_REPORT = {"layout": "class_folders", "classes": _CLASSES, "splits": {"train": 300}}


@dataclass
class Rows:
    """Ids and names that requests may use, by the parameter that takes them."""

    dataset_id: list[str] = field(default_factory=list)
    selection_id: list[str] = field(default_factory=list)
    finetune_id: list[str] = field(default_factory=list)
    webhook_id: list[str] = field(default_factory=list)
    model_id: list[str] = field(default_factory=list)
    model: list[str] = field(default_factory=list)
    key_id: list[str] = field(default_factory=list)
    tenant: list[str] = field(default_factory=list)
    zoo: list[str] = field(default_factory=list)


def add_rows(service: RunningService, tenant: str) -> Rows:
    """Add rows of a tenant, and models, zoos, keys and other tenants beside it."""
    user = service.client(service.key("read", "write", tenant=tenant))
    admin = service.client(service.admin_key)
    rows = Rows(model=list(ZOO), model_id=add_zoo(service, *ZOO))
    rows.model_id += [add_model(service.database, f"checked-{number}", state=ModelState.PENDING) for number in range(4)]
    for content in "abcdef":
        rows.dataset_id.append(make_ready(service, tenant, content))
        set_dataset(service, rows.dataset_id[-1], report=_REPORT)
    rows.dataset_id.append(_made(user.post("/v1/datasets", content=b"no worker has looked at it")))
    rows.selection_id = [
        _ranked(service, user, rows.dataset_id[0], with_forecasts=False),
        _ranked(service, user, rows.dataset_id[1], with_forecasts=True),
        _made(user.post("/v1/selections", json={"dataset": rows.dataset_id[2], "race": {"keep": 1}})),
        _cancelled(user, rows.dataset_id[2]),
    ]
    rows.finetune_id = [_finetuned(service, user, rows.dataset_id[0]), _asked_to_train(user, rows.dataset_id[1])]
    for number in range(4):
        hook = {"url": f"https://example.com/{number}"}
        rows.webhook_id.append(_made(user.post("/v1/webhooks", json=hook)))
        rows.tenant.append(f"other-{number}")
        key = {"name": "spare", "tenant": rows.tenant[-1], "user": "anna@lab.example"}
        rows.key_id.append(_made(admin.post("/v1/keys", json=key)))
        rows.zoo.append(f"edge-{number}")
        _made(admin.put(f"/v1/zoos/{rows.zoo[-1]}", json={"models": list(ZOO)}), "name")
    rows.key_id.append("me")
    service.close_clients()
    return rows


def _made(answer: httpx.Response, name: str = "id") -> str:
    assert answer.is_success, answer.text
    return str(answer.json()[name])


def _ranked(service: RunningService, user: httpx.Client, dataset: str, *, with_forecasts: bool) -> str:
    target = {"target": {"value": 0.5, "recipe": {"epochs": 2, "batch_size": 8, "learning_rates": [0.05]}}}
    asked = {"dataset": dataset, "models": list(ZOO), **(target if with_forecasts else {})}
    work = SelectionWork(service, _made(user.post("/v1/selections", json=asked)))
    for place, name in enumerate(ZOO[:2]):
        work.finish(name, {"lfc": 0.5}, stored(98 - place, 90, 60))
        if with_forecasts:
            store_forecast(service.database, service.objects, work.selection_id, name, measured_network())
    work.fail(ZOO[2])
    work.rank(3, *ZOO[:2])
    return work.selection_id


def _cancelled(user: httpx.Client, dataset: str) -> str:
    selection = _made(user.post("/v1/selections", json={"dataset": dataset, "models": [ZOO[0]]}))
    return _made(user.post(f"/v1/selections/{selection}/cancel"))


def _asked_to_train(user: httpx.Client, dataset: str) -> str:
    return _made(user.post("/v1/finetunes", json={"dataset": dataset, "models": list(ZOO[:2])}))


def _finetuned(service: RunningService, user: httpx.Client, dataset: str) -> str:
    work = FinetuneWork(service.database, service.objects, _asked_to_train(user, dataset))
    work.finish(work.claim(), **dict.fromkeys(ZOO[:2], 0.8))
    return work.finetune_id
