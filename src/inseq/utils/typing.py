"""Names for annotations under the import path of Inseq 0.7.1: step functions that were written for it use them."""

from torch import Tensor

from inseq.text.tokens import Token as TokenWithId

EmbeddingsTensor = Tensor
"""[row, position, dim]"""

FullLogitsTensor = Tensor
"""[row, vocabulary]"""

IdsTensor = Tensor
"""[row, position]"""

SingleScorePerStepTensor = Tensor
"""[row]"""

TargetIdsTensor = Tensor
"""[row]"""

__all__ = [
    "EmbeddingsTensor",
    "FullLogitsTensor",
    "IdsTensor",
    "SingleScorePerStepTensor",
    "TargetIdsTensor",
    "TokenWithId",
]
