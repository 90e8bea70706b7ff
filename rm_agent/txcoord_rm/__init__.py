"""What sits beside a business database."""
