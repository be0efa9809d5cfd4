"""Bad input does no harm: the corpus, the description of REST held to the server, the fuzzers."""
