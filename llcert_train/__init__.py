"""Training of certifiably robust networks, on the bounds of llcert; *the paper* is that of `llcert`."""
