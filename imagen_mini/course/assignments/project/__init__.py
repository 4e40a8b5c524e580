"""The project: a data set, a method of the papers, or a claim."""
