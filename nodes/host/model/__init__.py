"""The model: its network, what it is conditioned on, and the memory it takes."""
