"""OCI images: pull, import, unpack, keep; knows nothing of the API."""
