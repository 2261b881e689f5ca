"""What each key store needs to know to be opened: plain values, checked by whoever made them.

The config file's `keystore` section is parsed into one of these (`kes.config.keystores`), and the store of that kind
is opened from it. Nothing here reads a file or opens a connection.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FSSettings:
    """`keystore.fs`: one file per key in the directory `path`, not empty; relative to the working directory."""

    path: str


KeyStoreSettings = FSSettings  # grows into a union, one member per kind of store
