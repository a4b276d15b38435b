"""How catalogue operators become launches, one module a family."""
