"""minikctl: the client. Sees apiserver.api and apiserver.client only."""
