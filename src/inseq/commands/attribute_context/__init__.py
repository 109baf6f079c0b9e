"""The import path of Inseq 0.7.1 for what is in :mod:`inseq.context.reliance`."""

from inseq.commands.attribute_context.attribute_context import AttributeContextArgs as AttributeContextArgs
from inseq.commands.attribute_context.attribute_context import AttributeContextOutput as AttributeContextOutput
from inseq.commands.attribute_context.attribute_context import CCIOutput as CCIOutput
from inseq.commands.attribute_context.attribute_context import attribute_context as attribute_context
from inseq.commands.attribute_context.attribute_context import attribute_context_with_model as attribute_context_with_model
from inseq.commands.attribute_context.attribute_context import visualize_attribute_context as visualize_attribute_context
