"""Models, problems, quantized linears, the decode engine and the chain runner."""
