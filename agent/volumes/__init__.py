"""What a pod's volumes become on the node."""
