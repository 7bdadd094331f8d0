"""What is on the base bdev, and where: geometry, layout, zones, bands, superblock."""
