"""Native kernels: exact gradients and Hessian-vector products of the built-in models, in C.

`Kernel` computes them for a batch of tasks; `build` compiles the C files, one per model, which are
written to be read beside the paper's formulas. Without a compiler, and for everything that a user
brings, autograd does the same work.
"""
