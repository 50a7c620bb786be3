"""What nodes draw: charts and grids of labelled pictures."""
