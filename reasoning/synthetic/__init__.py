"""The project's own multi-step word problems: quantities in a dependency graph, told in shuffled sentences."""
