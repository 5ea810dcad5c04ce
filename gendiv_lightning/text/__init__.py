"""Caption cleaning, T5 and CLIP text encoding, lengths in tokens."""
