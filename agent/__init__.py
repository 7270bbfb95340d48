"""The node: observe, plan (pure), execute. Only execute and __main__ compose the parts below."""
