"""How every component talks to the API; stands on apiserver.api alone."""
