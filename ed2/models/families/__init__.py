"""The model families: a table of facts, and a module for each kind of model."""
