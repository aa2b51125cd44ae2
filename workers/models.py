"""A registered model becomes an active one: its weights are fetched and verified, and its checks run."""

from app.domain.interruption import Interrupted
from app.domain.model_spec import ModelSpec
from app.domain.states import ModelState
from app.storage import leases
from app.storage.leases import Lease
from app.storage.repositories.model_twins import find_twin
from app.storage.repositories.models import Models
from app.storage.tables import Model
from workers.lease import HeldLease
from workers.runtime import Runtime
from workers.zoo.admission import CHECKS, Check, admit
from workers.zoo.transfer import Supervision


def check_model(runtime: Runtime, lease: Lease, held: HeldLease) -> None:
    """Run the admission checks of one model version and make it the active one of its name, unless a newer one is.

    Each check is stored as it ends, with the name of the next one: whoever looks meanwhile, or after the worker was
    lost, sees how far they came.

    Raises:
        ModelRejected: a check failed.
        Interrupted: the worker is to stop.
        LeaseLost: nothing more was stored.
    """
    with runtime.database.read() as session:
        spec = ModelSpec.from_dict(session.get_one(Model, lease.id).spec)
    done: list[Check] = []

    def begin(name: str) -> None:
        if held.should_stop():
            raise Interrupted(f"Stopped after {len(done)} checks.")
        held.report(name, len(done), len(CHECKS))

    def store(check: Check) -> None:
        done.append(check)
        following = CHECKS[len(done)] if len(done) < len(CHECKS) else check["name"]
        progress = {"stage": following, "done": len(done), "total": len(CHECKS)}
        with runtime.database.write() as session:
            leases.note(session, lease, checks=done, progress=progress)

    def twin(weights_sha256: str, tensors_sha256: str) -> str | None:
        with runtime.database.read() as session:
            return find_twin(session, session.get_one(Model, lease.id), weights_sha256, tensors_sha256)

    runtime.loaded.forget()  # the memory that it takes is measured
    with runtime.stage("check"):
        admission = admit(
            spec,
            runtime.weights,
            objects=runtime.objects,
            device=runtime.device,
            twins=twin,
            on_start=begin,
            on_check=store,
            supervision=Supervision.of(runtime.settings, held.should_stop),
        )
    facts = admission.facts | {"resolved": admission.spec.as_dict()}
    with runtime.database.write() as session:
        zoo = Models(session, actor=f"worker {runtime.holder}")
        model = zoo.get(lease.id)
        zoo.lock_versions(model.name)
        newer = zoo.newer_active_version(model)
        outcome = {"facts": facts, "checks": admission.checks}
        if newer is None:
            zoo.retire_other_versions(model)
        else:
            outcome |= {"state": ModelState.DISABLED, "reason": f"superseded by version {newer}"}
        leases.finish(session, lease, **outcome)
