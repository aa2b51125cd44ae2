"""How Alembic reaches the database: by the connection that ``app.storage.migrate`` hands it."""

from alembic import context

from app.storage import webhook_tables  # noqa: F401  (its tables are to be known)
from app.storage.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
    compare_type=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
