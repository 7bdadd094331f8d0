"""The page of `spdk-ftl serve --web`: what its routes answer, and (in files/) what the browser gets."""
