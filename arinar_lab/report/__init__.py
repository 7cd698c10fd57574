"""Tables, sentences and figures of what was compared."""
