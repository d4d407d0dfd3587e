"""Optimizers, learning rate schedules and the length of a run. Imports `utils.system` only."""
