"""What stands on the base bdev, and where: geometry, layout, zones, bands, superblock."""
