"""What the project's own loops are measured against."""
