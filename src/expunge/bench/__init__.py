"""The bench: methods times seeds, each method searched for its best settings first, all judged alike."""
