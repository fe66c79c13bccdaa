"""AIS, the Anti-Interference Strategy: a text corpus and what CLIP makes of it (METHOD, "AIS")."""
