"""The regression gate: two sides, measured in pairs, until the difference is known or it is not."""
