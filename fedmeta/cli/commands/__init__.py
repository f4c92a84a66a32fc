"""Commands; each is one module, found by its name: a function or a `typer.Typer` called ``app``."""
