"""The machine: processes of one run, free memory, threads, and what the environment says of them."""
