"""Revisioned key-value stores (SQLite, etcd) behind one Protocol, and the watch cache over them."""
