"""Names under the import path of Inseq 0.7.1, for code that was written for it."""

from inseq.context.arguments import AttributeContextArgs as AttributeContextArgs
from inseq.context.command import attribute_context as attribute_context
from inseq.context.command import visualize_attribute_context as visualize_attribute_context
from inseq.context.reliance import attribute_context_with_model as attribute_context_with_model
from inseq.outputs.context import AttributeContextOutput as AttributeContextOutput
from inseq.results.context import CCIOutput as CCIOutput
