"""Searches over pipelines: the fourth room. It imports `pipelines`; nobody imports it."""
