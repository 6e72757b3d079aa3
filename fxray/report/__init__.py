"""What a run, a dataset or an experiment comes to: pages, tables and figures. Each file is imported by itself."""
