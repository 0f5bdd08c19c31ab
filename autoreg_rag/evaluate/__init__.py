"""How well a model retrieves and compares texts, by the usual measures."""
