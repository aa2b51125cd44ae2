"""The service as a team runs it: PostgreSQL, Redis, S3, several API processes and workers."""
