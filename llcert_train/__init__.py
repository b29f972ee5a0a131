"""Training of certifiably robust networks, on the bounds of llcert."""
