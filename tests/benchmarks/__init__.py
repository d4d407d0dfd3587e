"""Benchmarks: each module prints tables in Markdown; nothing else should run meanwhile."""
