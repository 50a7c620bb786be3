"""How much of a concept a student still has: measures inside the model, without pictures or judges."""
