"""Files: where they are, what they come from, and what is loaded from and saved to them."""
