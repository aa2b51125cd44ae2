"""The words and rules of the project: states, errors, ids, model specifications, ranking."""
