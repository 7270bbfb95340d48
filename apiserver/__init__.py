"""The API server: Kubernetes' wire format over a revisioned store. rest > registry, auth, admission > store > api; client stands on api; controllers see client and api only."""
