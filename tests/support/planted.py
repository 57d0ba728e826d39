"""Secrets that tests plant and look for where they must not be."""

ACCESS_KEY, SECRET_KEY = "planted-access-key", "planted-secret-key"
