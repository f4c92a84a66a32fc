"""First-order model-agnostic meta-learning."""

from fedmeta.about import About
from fedmeta.learning.algorithms.maml import MAML


class FOMAML(MAML):
    """First-order MAML: the query gradient at the adapted weights, applied to the initial ones.

    Finn et al. 2017, section 5.2 ("first-order approximation"); Nichol, Achiam, Schulman 2018,
    "On First-Order Meta-Learning Algorithms", section 3.
    """

    about = About(
        paper="Finn, Abbeel, Levine 2017, "
        '"Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks"',
        year=2017,
        family="gradient",
        learns="initial weights",
        sends="the query gradient of the adapted weights",
    )
    second_order = False
