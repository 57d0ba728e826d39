"""Architectures and the registry that builds them."""
