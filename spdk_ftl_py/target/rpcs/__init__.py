"""The RPCs of the embedded target, by subject. Importing a module adds its methods to methods.METHODS."""
