"""The commands, a file each. Parsing is in `main`."""
