"""The running server: state, service, TLS, logs, metrics, and `http`: how bytes become requests."""
