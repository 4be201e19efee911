"""Networks as files for others, each checked against its source before it appears, and described by a model card."""

from fastiseat.export.formats import FORMATS
from fastiseat.export.source import Source, read_source
from fastiseat.export.write import BATCHES, Exported, card_of, export

__all__ = ["BATCHES", "FORMATS", "Exported", "Source", "card_of", "export", "read_source"]
