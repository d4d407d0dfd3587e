"""Support packages of the two scripts, and the commands `python -m utils.NAME`."""
