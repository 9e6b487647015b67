"""Reading: values of names over all workers, and all of them together."""
