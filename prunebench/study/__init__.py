"""A study on disk: what its records hold and what is computed from them, free of torch."""
