"""The config file: YAML text in, checked and frozen values out, every error with its file, line and path.

`kes.config.loader.load` reads the file, `kes.config.model` says what comes out. Nothing is imported here, so that the
command line can use `duration`, `level` and `address` without loading YAML.
"""
