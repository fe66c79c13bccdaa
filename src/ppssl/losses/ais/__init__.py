"""AIS, the Anti-Interference Strategy: distillation over a text corpus."""
