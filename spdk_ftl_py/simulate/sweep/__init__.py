"""`spdk-ftl simulate --sweep`: many simulations, on all cores or a Dask cluster."""
