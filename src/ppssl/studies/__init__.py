"""Studies: recipes, ablations over seeds, benchmarks, and the demonstration."""
