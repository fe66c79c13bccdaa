"""Text corpora, teachers (frozen image-text models) and the bank of their embeddings."""
