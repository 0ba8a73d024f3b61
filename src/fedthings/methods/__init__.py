"""Methods: what a device does beside averaging, and what the server makes of it. One file an idea."""
