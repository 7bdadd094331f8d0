"""The other users of the machine: who they are, and what they cannot access."""
