"""Control groups behind one interface: base.Driver, implemented for v1 (a hierarchy per controller) and v2 (one tree); detect.driver() looks which this host has. Knows paths
relative to the runtime's own parent and OCI linux.resources, never containers. Standard library only: the zygote imports it.
"""
