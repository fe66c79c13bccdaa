"""Benchmark of saliency maps: attributions, scores, tables and figures (``ppssl bench saliency``)."""
