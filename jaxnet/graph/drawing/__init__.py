"""Pictures and texts of a graph: what its nodes are called, which are shown, where they stand, and how they look."""
