"""Use of a trained encoder: embeddings, nearest neighbours, saliency maps, export."""
