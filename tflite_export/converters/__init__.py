"""The converters there are, a file each, and the choice among them."""
