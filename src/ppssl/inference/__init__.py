"""Using an encoder: embeddings, nearest neighbours, saliency maps, export."""
