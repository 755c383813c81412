"""Zero-shot, linear probe and retrieval on features that were extracted once."""
