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


@dataclass(frozen=True, slots=True)
class MemorySettings:
    """Keys in memory, gone at exit: development mode's store, which no config file can name."""


KeyStoreSettings = FSSettings | MemorySettings  # grows by one member for each kind of store
