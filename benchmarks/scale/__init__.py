"""The model of docs/scaling.md: work counted, time and traffic modelled, what this machine measures."""
