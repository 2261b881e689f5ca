"""The Twisted Web resource tree: one small leaf a route, generic in method, limits, authorization and time limits."""
