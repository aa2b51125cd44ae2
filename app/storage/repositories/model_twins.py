"""Models with the same weights under different names."""

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from app.storage.tables import Model


def find_twin(session: Session, model: Model, weights_sha256: str, tensors_sha256: str) -> str | None:
    """Return the name and version of another model that passed its checks with the same weights, if there is one.

    Versions of the same name are no twins: they may well differ in their preprocessing alone.

    Args:
        session: any transaction.
        model: the one that is being checked.
        weights_sha256: of its original file.
        tensors_sha256: of its tensors under the architecture's own names.
    """
    facts = Model.facts
    same = or_(
        facts["weights_sha256"].as_string() == weights_sha256, facts["tensors_sha256"].as_string() == tensors_sha256
    )
    query = select(Model.name, Model.version).where(Model.name != model.name, same)
    row = session.execute(query.order_by(Model.created_at, Model.id).limit(1)).one_or_none()
    return None if row is None else f"{row.name} (version {row.version})"
