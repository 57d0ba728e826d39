"""MLflow: what of a run goes there, and how it gets there however often the server goes away."""
