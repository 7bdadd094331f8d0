"""What hosts do in a simulation."""
