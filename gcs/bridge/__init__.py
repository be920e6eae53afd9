"""The bridge: connection, framing loop, router, one handler per request (spec chapter 1)."""
