"""Files that are whole or absent, and claims on work: what every stage keeps its results with."""
