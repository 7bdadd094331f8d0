"""`spdk-ftl simulate`: the classes of the product on media without data."""
