"""OCI images: pull, import, unpack, keep; knows nothing of the API. Start at `store.ImageStore` (what is here) and `puller.pull` (how more comes)."""
