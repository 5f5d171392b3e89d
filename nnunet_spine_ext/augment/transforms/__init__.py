"""One transform per file; a new file here is found without being listed anywhere."""
