"""Files, locks and arithmetic that every layer may use."""
