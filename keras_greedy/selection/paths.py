"""The result of a search: every group's path, good for any budget."""
