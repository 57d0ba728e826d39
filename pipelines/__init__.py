"""Recipes, the stage graph, stages, store, tracking and Ray: what composes the method with the data."""
