"""Results for people: numbers, tables and cards. Nothing here computes a result."""
