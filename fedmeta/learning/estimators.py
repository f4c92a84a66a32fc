"""Reads scikit-learn estimators from text, which is parsed and never evaluated."""

import ast
from importlib import import_module
from typing import Any

from fedmeta.errors import ConfigError
from fedmeta.files import one_line

_DEPTH = 3
"""Parts of a dotted name: ``sklearn``, a public module, a class."""


def read_estimator(text: str, seed: int) -> Any:
    """Return the estimator that `text` describes, such as ``sklearn.svm.SVC(C=10)``.

    It is one call of an estimator class in a public module of scikit-learn. Arguments are literals,
    other such calls, and lists, tuples and dicts of these, as in
    ``sklearn.pipeline.Pipeline([("svm", sklearn.svm.SVC())])``.

    Args:
        text: The description.
        seed: Value of every ``random_state`` that the description leaves unset.

    Raises:
        ConfigError: If it is anything else.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ConfigError(f"head '{one_line(text)}' is not one call of a scikit-learn class") from None
    if not isinstance(tree.body, ast.Call):
        raise _refusal(tree.body)
    return _estimator(tree.body, seed)


def _estimator(call: ast.Call, seed: int) -> Any:
    """Make the estimator of a call; parameters are checked here, also inside a grid of a search."""
    kind = _class(call.func)
    if any(keyword.arg is None for keyword in call.keywords):
        raise _refusal(call)
    arguments = [_value(one, seed) for one in call.args]
    named = {str(keyword.arg): _value(keyword.value, seed) for keyword in call.keywords}
    try:
        made = kind(*arguments, **named)
        own = made.get_params(deep=False)
        if own.get("memory") is not None:
            raise _no_memory()
        return made.set_params(random_state=seed) if own.get("random_state", seed) is None else made
    except ConfigError:
        raise
    except Exception as error:
        reason = one_line(f"{type(error).__name__}: {error}")
        raise ConfigError(f"head: {ast.unparse(call.func)} cannot be created ({reason})") from None


def _class(node: ast.expr) -> type[Any]:
    import sklearn
    from sklearn.base import BaseEstimator

    name = ast.unparse(node)
    parts = name.split(".")
    public = len(parts) == _DEPTH and parts[0] == "sklearn" and parts[1] in sklearn.__all__
    found: Any = None
    if public and all(part.isidentifier() and not part.startswith("_") for part in parts):
        try:
            found = getattr(import_module(f"sklearn.{parts[1]}"), parts[2], None)
        except ImportError:
            found = None
    if isinstance(found, type) and issubclass(found, BaseEstimator):
        return found
    raise ConfigError(
        f"head: '{one_line(name)}' is not an estimator class of scikit-learn; write it as "
        "sklearn.MODULE.CLASS(...), for example sklearn.svm.SVC(C=10)"
    )


def _value(node: ast.expr, seed: int) -> Any:
    if isinstance(node, ast.Call):
        return _estimator(node, seed)
    if isinstance(node, ast.List | ast.Tuple):
        values = [_value(one, seed) for one in node.elts]
        return values if isinstance(node, ast.List) else tuple(values)
    if isinstance(node, ast.Dict) and all(isinstance(key, ast.Constant) for key in node.keys):
        keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
        if any(str(key).endswith("memory") for key in keys):
            raise _no_memory()  # a grid of a search would set it later
        return dict(zip(keys, [_value(one, seed) for one in node.values], strict=True))
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise _refusal(node) from None


def _no_memory() -> ConfigError:
    # A cache folder holds pickles, which run code when they are read.
    return ConfigError("head: 'memory' cannot be set: estimators read no files")


def _refusal(node: ast.AST) -> ConfigError:
    text = one_line(ast.unparse(node))
    return ConfigError(f"head: '{text}' is neither a literal nor a call of a scikit-learn class")
