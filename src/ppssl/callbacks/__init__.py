"""Callbacks for all models: monitors, throughput, figures."""
