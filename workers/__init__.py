"""The compute: processes that claim work from the database and run networks over images."""
