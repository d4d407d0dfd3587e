"""Processes, signals, errors, files, random streams. Imports nothing else of this project."""
