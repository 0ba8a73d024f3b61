"""The coordinator in real time: service, store and embedded broker."""
