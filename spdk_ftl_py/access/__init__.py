"""The machine's other users: who they are, and what they can't get at."""
