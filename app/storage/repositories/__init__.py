"""The SQL of the service, one file a resource. A repository serves one session and, for private data, one tenant."""
