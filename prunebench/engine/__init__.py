"""The engine: runs a pruner inside a stock transformers model, through hooks alone."""
