"""The published methods: which channels to keep, and what weights they get."""
