"""Statistics, the paper's index and formulas, fits, predictions, verdicts and reports; no torch."""
