"""Everything that could fail later, checked before the first stage: every problem found, one line each."""
