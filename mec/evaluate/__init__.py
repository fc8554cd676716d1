"""What a backbone is worth: one file a protocol, each taking features or a subject and returning results."""

from mec.evaluate.features import Features, extract
from mec.evaluate.fewshot import fewshot
from mec.evaluate.knn import knn
from mec.evaluate.linear import linear

__all__ = ["Features", "extract", "fewshot", "knn", "linear"]
