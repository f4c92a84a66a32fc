"""Who learns and how updates travel: Flower client, server, strategy, grid and admission gate."""
