"""How the bundled model ``tiny`` was made: tokenizer, packed batches, training loop."""
