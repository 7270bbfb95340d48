"""HTTP: routes, negotiation, discovery, watch streams, errors to Status."""
