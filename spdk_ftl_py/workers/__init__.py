"""Work of many independent parts, spread over processes of this machine or a Dask cluster."""
