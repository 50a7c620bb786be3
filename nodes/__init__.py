"""What the user sees: one file a node family, each class a schema and one call."""
