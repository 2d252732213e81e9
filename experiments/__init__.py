"""Programs: run, compare and train. The library in jaxpure/ knows nothing of them."""
