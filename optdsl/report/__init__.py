"""Pages for readers, which the command line prints."""
