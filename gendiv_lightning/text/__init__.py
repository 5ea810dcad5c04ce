"""Caption cleaning, T5 and CLIP text encoding, and caption lengths in tokens."""
