"""A lean decoder for Llama-like models: merged linears, a static cache, and hops that a CUDA graph can hold."""
