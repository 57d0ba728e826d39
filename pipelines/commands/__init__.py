"""What a user can call: each module is one command of `python -m pipelines`."""
