"""The search: files in the order of the flow, from cli.py to exporting.py."""
