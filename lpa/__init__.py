"""The model and how it trains: placements, low-rank layers, costs, data and the one training loop."""
