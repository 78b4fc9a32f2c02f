"""C++ kernels for CPUs and their checked wrappers; `shared.kernels.build` compiles them."""
