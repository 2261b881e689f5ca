"""A real OpenBao for tests, which speaks the API of HashiCorp Vault: built from source, started, set up and hindered.

`server` fixtures are the caller's: one server serves many tests, each with a mount, a policy and a role of its own.
"""
