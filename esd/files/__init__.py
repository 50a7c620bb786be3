"""Files of weights: what they hold, read lazily and checked first, and writing that is all or nothing."""
