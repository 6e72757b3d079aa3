"""The configuration: its tree, how it is read from YAML, and what else must hold before a run starts."""
