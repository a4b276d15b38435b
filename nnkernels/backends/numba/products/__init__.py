"""Matrix products: register tiles, blocked loops, bfloat16, and who computes what."""
