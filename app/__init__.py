"""The Foretune service: everything that answers a user, and nothing that needs torch."""
