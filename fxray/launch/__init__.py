"""The joint of configuration, actors and phases: what the command line calls. Each file is imported by itself."""
