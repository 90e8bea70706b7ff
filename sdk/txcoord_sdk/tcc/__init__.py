"""TCC: a try that reserves, a confirm that uses the reservation, a cancel that gives it back."""
