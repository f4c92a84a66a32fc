"""Settlement: records frozen rounds on the chain and pays them.

Functions that take a `folder` and `options` mean a run's ``chain`` folder and the options of its chain.
"""
