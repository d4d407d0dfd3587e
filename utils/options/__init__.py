"""Command-line flags: one row each, parsed once, resolved against presets and saved runs."""
