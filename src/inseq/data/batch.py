"""Names under the import path of Inseq 0.7.1, for code that was written for it."""

from inseq.compat.batch import Batch as Batch
from inseq.compat.batch import BatchEmbedding as BatchEmbedding
from inseq.compat.batch import BatchEncoding as BatchEncoding
from inseq.compat.batch import DecoderOnlyBatch as DecoderOnlyBatch
from inseq.compat.batch import EncoderDecoderBatch as EncoderDecoderBatch
