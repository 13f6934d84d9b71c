"""What a recipe will need: memory by part and time by part, from its configuration alone."""
