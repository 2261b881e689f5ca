"""The `kes` command."""
