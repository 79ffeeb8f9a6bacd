"""The parts of `benchmarks/gpu.py`: what each one measures, and how they are run and told."""
