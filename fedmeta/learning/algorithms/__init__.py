"""Meta-learning algorithms, one per module."""

from fedmeta.learning.algorithms.anil import ANIL
from fedmeta.learning.algorithms.boil import BOIL
from fedmeta.learning.algorithms.coordinatewise_lstm import CoordinatewiseLSTM
from fedmeta.learning.algorithms.fedavg import FedAvg
from fedmeta.learning.algorithms.fedprox import FedProx
from fedmeta.learning.algorithms.fomaml import FOMAML
from fedmeta.learning.algorithms.gnn import GNN
from fedmeta.learning.algorithms.imaml import IMAML
from fedmeta.learning.algorithms.lstm_optimizer import LSTMOptimizer
from fedmeta.learning.algorithms.maml import MAML
from fedmeta.learning.algorithms.maml_pp import MAMLPP
from fedmeta.learning.algorithms.mann import MANN
from fedmeta.learning.algorithms.matching import Matching
from fedmeta.learning.algorithms.meta_sgd import MetaSGD
from fedmeta.learning.algorithms.metanet import MetaNet
from fedmeta.learning.algorithms.metaoptnet import MetaOptNet
from fedmeta.learning.algorithms.pretrained import Pretrained
from fedmeta.learning.algorithms.protonet import ProtoNet
from fedmeta.learning.algorithms.r2d2 import R2D2
from fedmeta.learning.algorithms.relation import Relation
from fedmeta.learning.algorithms.reptile import Reptile
from fedmeta.learning.algorithms.scaffold import Scaffold
from fedmeta.learning.algorithms.snail import SNAIL
from fedmeta.learning.algorithms.transformer import Transformer

__all__ = [
    "ANIL",
    "BOIL",
    "FOMAML",
    "GNN",
    "IMAML",
    "MAML",
    "MAMLPP",
    "MANN",
    "R2D2",
    "SNAIL",
    "CoordinatewiseLSTM",
    "FedAvg",
    "FedProx",
    "LSTMOptimizer",
    "Matching",
    "MetaNet",
    "MetaOptNet",
    "MetaSGD",
    "Pretrained",
    "ProtoNet",
    "Relation",
    "Reptile",
    "Scaffold",
    "Transformer",
]
