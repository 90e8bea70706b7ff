"""What a statement of the application does, read from its text; its text is never made anew."""
