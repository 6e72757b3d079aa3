"""One module per annotation format: readers from files to records, writers from samples to files."""
