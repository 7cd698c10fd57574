"""Text of unknown authors, as it is shown: on a terminal, in tables, in addresses."""
