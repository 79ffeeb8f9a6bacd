"""How a training step is divided among devices: a mesh, rules that say where each parameter lies, and their report."""
