"""A run: planned, trained, shown, and kept on the disk."""
