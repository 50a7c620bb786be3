"""What is never shipped: set-up of a test host, benches, the recipe of the playground, references, pictures."""
