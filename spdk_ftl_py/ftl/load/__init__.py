"""The load of an FTL: reads bands, held writes outside of media, and the checkpoint."""
