"""torchmetrics Metrics: retrieval, kNN, RankMe and classification."""
