"""Image files to pairs, samples and batches."""
