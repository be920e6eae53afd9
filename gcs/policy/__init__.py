"""What a host may ask for."""
