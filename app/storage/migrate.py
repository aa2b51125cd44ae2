"""Bring a database to the schema of this release."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import text

from app.storage.database import Database

MIGRATIONS = Path(__file__).parents[2] / "migrations"
_LOCK = 7_304_115_002  # any number, the same for every process that migrates


def alembic_config() -> Config:
    """Return Alembic's configuration; it needs no ini file."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def upgrade(database: Database) -> None:
    """Apply every missing migration; processes that start together take turns."""
    config = alembic_config()
    with database.writing_engine.begin() as connection:
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
