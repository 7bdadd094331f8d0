"""The layout of the base bdev: geometry, blocks, zones, bands, superblock."""
