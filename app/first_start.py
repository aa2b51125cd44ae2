"""What a fresh home needs before it can serve: tables, an admin key, the packaged zoo."""

from app.config import Settings, write_private
from app.manifest import PACKAGED, read_rows
from app.storage.database import Database
from app.storage.migrate import upgrade
from app.storage.repositories.keys import SCOPES, Keys
from app.storage.repositories.model_import import import_models


def prepare_home(settings: Settings) -> bool:
    """Migrate the database, make the admin key and register the packaged models where they are missing.

    Returns:
        Whether an admin key was made and written to ``settings.admin_key_file``.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    database = Database(settings.database_url)
    try:
        upgrade(database)
        with database.write() as session:
            keys = Keys(session, settings.secret_bytes)
            made_key = None
            if not keys.exists_any():
                _, made_key = keys.create(tenant="default", name="first admin", scopes=list(SCOPES))
            import_models(session, read_rows(settings.zoo_manifest or PACKAGED), actor="start of the service")
            if made_key:
                settings.admin_key_file.unlink(missing_ok=True)  # of an older database, worthless now
                write_private(settings.admin_key_file, made_key)
    finally:
        database.close()
    return made_key is not None
