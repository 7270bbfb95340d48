"""Service and EndpointSlice to nftables."""
