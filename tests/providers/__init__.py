"""Stand-ins for model providers: real HTTP servers on loopback that speak as the real ones do."""
