"""A small world to erase things from: a 64-pixel checkpoint, what it draws, and a judge of its pictures."""
