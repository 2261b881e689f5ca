"""How bytes become requests, and answers bytes. This room knows framing and limits, not keys."""
