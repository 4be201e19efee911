"""Steps that are recorded once and replayed: recorders, CUDA graphs, the tape, and the choice of an engine."""
