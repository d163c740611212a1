"""Models that are made here: small GPT-2s, many at once, fine-tuned ones, planted mechanisms, random weights."""
