"""llcert: certified L2 robustness of trained networks by local Lipschitz bounds."""
