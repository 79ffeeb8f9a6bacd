"""The division of work among devices: a mesh, rules that say where each parameter lies, and a report on both."""
