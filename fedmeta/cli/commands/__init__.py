"""Commands; each is one module, found by its name.

It holds a function of that name (``list_`` in ``list.py``), or a `typer.Typer` called ``app``.
"""
