"""How the playground's checkpoint and judges are made: `python run.py playground`."""
