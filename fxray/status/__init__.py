"""What a run is doing, read from its directory alone: without Ray, without torch, on any machine."""
