"""What a load reads: bands, what is held elsewhere than on media, the checkpoint."""
