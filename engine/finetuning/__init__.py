"""Fine-tuning: the fitted head first, then the backbone slowly, layer by layer. Nothing here knows the cache."""
