"""One idea per file, in folders by what the idea changes."""
