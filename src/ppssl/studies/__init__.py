"""Studies: recipes, ablation studies over seeds, benchmarks, and the demonstration."""
