"""All settings, defined once: the schema, and the files and flags that fill it."""
