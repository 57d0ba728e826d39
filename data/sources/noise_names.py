"""Names of the noise sources, apart from torch, so that they are known without importing it."""

KINDS = ("noise-smooth", "noise-uniform")
