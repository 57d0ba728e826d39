"""Collections of images: what they list, how each kind is opened, and those known by name."""
