"""Who is who: keys, signatures, counters, tokens. No I/O but a few small files, and nothing of the conversation."""
