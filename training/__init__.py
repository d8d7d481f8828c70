"""How the built-in models were made; nothing else of the package imports this."""
