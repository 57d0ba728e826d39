"""Getting named collections from where they are published."""
