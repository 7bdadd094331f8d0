"""`spdk-ftl simulate`: the band manager, its policy and limits on media without data."""
