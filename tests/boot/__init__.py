"""A whole machine with systemd, in an emulator, and the service on it as `kes install` or its units set it up."""
