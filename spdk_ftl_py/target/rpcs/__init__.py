"""The RPCs of the embedded target, by subject. Importing a module fills methods.METHODS."""
