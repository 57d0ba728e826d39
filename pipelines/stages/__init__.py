"""One module a stage: `run(context)` turns declared inputs into one artifact and returns its metrics."""
