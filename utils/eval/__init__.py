"""Run a network on whole images, score the outputs, write the results."""
