"""Hard negatives: passages that look like the answer to a query and are not."""
