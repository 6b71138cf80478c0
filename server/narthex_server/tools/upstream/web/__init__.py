"""HTTP as our upstreams need it: TLS, secrets, tokens."""
