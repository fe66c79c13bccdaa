"""Text corpora, the teachers that embed them, and the bank of their embeddings."""
