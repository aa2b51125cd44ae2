"""What a fresh home needs before it can serve: tables, a place for objects, an admin key, the packaged zoo."""

from app.config import Settings, write_private
from app.manifest import PACKAGED, read_rows
from app.storage.database import Database
from app.storage.migrate import in_turn, upgrade
from app.storage.objects import Objects
from app.storage.repositories.keys import SCOPES, Keys
from app.storage.repositories.model_import import import_models
from app.storage.repositories.tenants import Tenants

FIRST_TENANT = "default"
ACTOR = "start of the service"


def prepare_stores(settings: Settings) -> Database:
    """Migrate the database and make the object store's folder or bucket, where they are missing; return the former."""
    settings.home.mkdir(parents=True, exist_ok=True)
    database = Database(settings.database_url)
    try:
        upgrade(
            database,
            lock_seconds=settings.migration_lock_seconds,
            statement_seconds=settings.migration_statement_seconds,
        )
        Objects(settings.objects_url, settings.s3).prepare()
    except BaseException:
        database.close()
        raise
    return database


def prepare_home(settings: Settings) -> bool:
    """Prepare the stores, make the admin key and register the packaged models where they are missing.

    Returns:
        Whether an admin key was made and written to ``settings.admin_key_file``.
    """
    database = prepare_stores(settings)
    try:
        with database.write() as session:
            in_turn(session.connection())
            Tenants(session, actor=ACTOR).ensure(FIRST_TENANT, settings.tenant_quotas)
            keys = Keys(session, settings.secret_bytes, actor=ACTOR)
            made_key = _admin_key(keys, settings.admin_key.get_secret_value())
            import_models(session, read_rows(settings.zoo_manifest or PACKAGED), actor=ACTOR)
            if made_key:
                settings.admin_key_file.unlink(missing_ok=True)  # of an older database, worthless now
                write_private(settings.admin_key_file, made_key)
    finally:
        database.close()
    return made_key is not None


def _admin_key(keys: Keys, given: str) -> str | None:
    """Accept the given admin key, or make one where no key was ever made; return the one made."""
    if given:
        keys.accept(given, tenant=FIRST_TENANT, name="admin key of the settings", scopes=list(SCOPES))
        return None
    if keys.exists_any():
        return None
    return keys.create(tenant=FIRST_TENANT, name="first admin", scopes=list(SCOPES))[1]
