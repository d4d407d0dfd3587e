"""From a folder of image pairs to batches."""
