"""Pictures. Knows torch, numpy and matplotlib, and nothing of training."""
