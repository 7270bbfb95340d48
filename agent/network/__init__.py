"""Pod addresses, veth, bridge, routes; knows nothing of the API."""
