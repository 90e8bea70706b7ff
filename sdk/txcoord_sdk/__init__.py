"""What service code imports."""
