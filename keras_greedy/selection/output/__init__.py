"""Selection on what the whole network answers."""
