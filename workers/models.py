"""A registered model becomes an active one: its weights are fetched and verified, and its checks run."""

from app.domain.interruption import Interrupted
from app.domain.model_spec import ModelSpec
from app.domain.states import ModelState
from app.storage import leases
from app.storage.leases import Lease
from app.storage.repositories.models import Models
from app.storage.tables import Model
from workers.lease import HeldLease
from workers.runtime import Runtime
from workers.zoo.admission import admit


def check_model(runtime: Runtime, lease: Lease, held: HeldLease) -> None:
    """Run the admission checks of one model version and make it the active one of its name, unless a newer one is.

    Raises:
        ModelRejected: a check failed.
        Interrupted: the worker is to stop.
        LeaseLost: nothing was stored.
    """
    with runtime.database.read() as session:
        spec = ModelSpec.from_dict(session.get_one(Model, lease.id).spec)
    checks_done = 0

    def count(_check: object) -> None:
        nonlocal checks_done
        checks_done += 1
        held.report("checking", checks_done, 0)
        if held.should_stop():
            raise Interrupted(f"Stopped after {checks_done} checks.")

    admission = admit(spec, runtime.settings.weights, on_check=count)
    facts = admission.facts | {"resolved": admission.spec.as_dict()}
    with runtime.database.write() as session:
        zoo = Models(session)
        model = zoo.get(lease.id)
        newer = zoo.newer_active_version(model)
        outcome = {"facts": facts, "checks": admission.checks}
        if newer is None:
            zoo.retire_other_versions(model)
        else:
            outcome |= {"state": ModelState.DISABLED, "reason": f"superseded by version {newer}"}
        leases.finish(session, lease, **outcome)
